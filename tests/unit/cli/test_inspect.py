"""`inspect`: what packed data holds, in the terminal, as JSON and as a page, and one sample of it."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.cli import main as cli
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.display.data_tables import sparkline
from ivr_dist.display.html_page import render_page
from ivr_dist.display.svg import Profile, bar_chart, profile_chart, stacked_bar
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.inspection import profile as survey_module
from ivr_dist.inspection.profile import SplitSurvey, survey
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.index import load
from ivr_dist.shards.manifest import Manifest
from tests.packed import change_array, change_json, npy, with_manifest, write_tar

SOURCE = SynthSource(160, dims={"text": 300, "audio": 74, "vision": 35}, aligned=False, missing=0.2)
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits, train in two shards of several segments; not to be changed."""
    place = tmp_path_factory.mktemp("packed")
    pack(SOURCE, str(place), PackOptions(shard_bytes=5 << 19))
    return place


@pytest.fixture(scope="module")
def surveyed(packed: Path) -> list[SplitSurvey]:
    return survey([str(packed / split) for split in SPLITS])


def test_the_numbers_are_those_of_the_source(surveyed: list[SplitSurvey]) -> None:
    for split, found in zip(SPLITS, surveyed, strict=True):
        refs = SOURCE.splits()[split]
        samples = [SOURCE.load(split, ref) for ref in refs]
        assert (found.corpus, found.split, found.samples) == ("synth", split, len(samples))
        assert found.looked.all and found.looked.samples == len(samples)
        patterns = Counter("+".join(name for name in SOURCE.features if name in s.arrays) or "none" for s in samples)
        assert found.coverage == patterns
        assert (found.groups, found.ungrouped) == (len({ref.group for ref in refs}), 0)
        assert found.provenance["group"].distinct == found.groups
        labels = np.array([s.labels["sentiment"] for s in samples], float)
        summary = found.labels["sentiment"]
        assert (summary.labelled, summary.missing, summary.max) == (len(samples), 0, labels.max())
        assert (summary.mean, summary.std) == (pytest.approx(labels.mean()), pytest.approx(labels.std()))
        assert found.words is not None and found.words.max == max(len(s.transcript.split()) for s in samples)
        for name, one in found.modalities.items():
            arrays = [s.arrays[name] for s in samples if name in s.arrays]
            assert (one.present, one.steps) == (len(arrays), sum(map(len, arrays)))
            assert one.lengths is not None and one.lengths.mean == pytest.approx(np.mean([len(a) for a in arrays]))
            every = np.concatenate(arrays).astype(np.float64)
            assert (one.values.min, one.values.max) == (every.min(), every.max())  # type: ignore[union-attr]
            assert one.values.std == pytest.approx(every.std())  # type: ignore[union-attr]
    edges = [split.labels["sentiment"].histogram.edges for split in surveyed]  # type: ignore[union-attr]
    assert edges[0] == edges[1] == edges[2]


def test_only_a_part_is_read_and_said(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "SEGMENTS", 2)
    (part,) = survey([str(packed / "train")])
    (whole,) = survey([str(packed / "train")], full=True)
    assert part.looked.segments == 2 < part.looked.of_segments == whole.looked.segments
    assert 0 < part.looked.samples < part.samples == part.looked.of_samples
    assert part.labels["sentiment"].labelled == part.looked.samples
    assert part.coverage == whole.coverage
    assert part.modalities["text"].lengths == whole.modalities["text"].lengths
    assert part.modalities["text"].values.steps < whole.modalities["text"].values.steps  # type: ignore[union-attr]
    shown = render_page([part])
    assert f"{part.looked.samples} of {part.samples} samples (2 of {part.looked.of_segments} segments" in shown


def test_damaged_data_is_not_summarized(packed: Path, tmp_path: Path) -> None:
    pack(SynthSource(20), str(tmp_path))
    tar = next((tmp_path / "train").glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[2000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(CorruptDataError, match="do not match their checksum"):
        survey([str(tmp_path / "train")])


class Page(HTMLParser):
    """The elements of a page; fails where one is not closed."""

    VOID = ("meta", "rect", "line", "path", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        assert len({name for name, _ in attrs}) == len(attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_stands_alone(surveyed: list[SplitSurvey]) -> None:
    text = render_page(surveyed)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert not re.search(r"https?://|//[a-z]|@import|url\(|src=|href=", text)
    assert page.count["script"] == page.count["link"] == page.count["img"] == 0
    assert "prefers-color-scheme: dark" in text
    # Labels, three modalities and words for three splits; features of three modalities; three bars of coverage.
    assert page.count["svg"] == 3 * (1 + 3 + 1) + 3 + 3
    titled = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(titled) == page.count["svg"] and all(titled)
    assert {value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")} == {"row", "col"}
    assert render_page(surveyed) == text


def test_what_stands_in_data_stays_text(tmp_path: Path) -> None:
    pack(SynthSource(20), str(tmp_path))
    evil = "<script>alert(1)</script>&\x1b[31m[bold]\ud800"
    change_json(tmp_path / "train", 0, provenance={evil: evil}, id=evil)
    page = Page(render_page(survey([str(tmp_path / "train")])))
    assert page.count["script"] == 0
    assert any("<script>alert(1)</script>&" in text for text in page.texts)
    assert not any("\x1b" in text for text in page.texts)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[SplitSurvey]:
    """Small splits of two corpora, so that both names are shown, with several patterns of modalities."""
    place = tmp_path_factory.mktemp("two")
    pack(SynthSource(40, dims={"text": 3, "audio": 2, "vision": 2}, aligned=False, missing=0.3), str(place))
    first, second = survey([str(place / "train"), str(place / "valid")])
    assert len(first.coverage) > 1
    return [first, replace(second, corpus="other")]


def with_texts(splits: list[SplitSurvey], draw: Callable[[], str]) -> list[SplitSurvey]:
    """The same numbers, with another text wherever a text stands that data brought along."""
    found = []
    for split in splits:
        modalities = {
            name: replace(one, features=replace(one.features, set=draw(), dtype=draw()))
            for name, one in split.modalities.items()
        }
        labels = {draw(): replace(one, task=replace(one.task, scale=draw())) for one in split.labels.values()}
        coverage = dict(zip((f"{draw()}{number}" for number in range(9)), split.coverage.values(), strict=False))
        provenance = {
            f"{draw()}{number}": replace(one, examples=[draw(), draw()])
            for number, one in enumerate(split.provenance.values())
        }
        about = {"corpus": draw(), "split": draw(), "url": draw(), "manifest_id": draw()}
        found.append(
            replace(split, **about, modalities=modalities, labels=labels, coverage=coverage, provenance=provenance)
        )
    return found


HTML = ("<script>", "</td>", "</title>", "</style>", "</svg>", "<!--", "-->", "]]>", "&lt;", "&#60;", '"', "'", ">")
HTML += (
    " onload=",
    "javascript:",
    "<img src=x onerror=a>",
    "<svg/onload=a>",
    "\0",
    "\x1b[2J",
    "\u202e",
    "\ud800",
    "\n",
)
MARKUP = st.lists(st.one_of(st.sampled_from(HTML), st.text(max_size=4)), max_size=4).map("".join)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_no_text_of_a_manifest_makes_an_element_or_attribute(two: list[SplitSurvey], data: st.DataObject) -> None:
    numbers = itertools.count()
    drawn = [data.draw(MARKUP) for _ in range(6)]

    def draw() -> str:
        # Each ends in a number, so that no two splits or tasks become one.
        number = next(numbers)
        return f"{drawn[number % len(drawn)]}{number}"

    page, plain = (
        Page(render_page(with_texts(two, draw))),
        Page(render_page(with_texts(two, lambda: f"t{next(numbers)}"))),
    )
    assert page.count == plain.count
    shape = [(tag, name) for tag, name, _ in page.attributes]
    assert shape == [(tag, name) for tag, name, _ in plain.attributes]
    # Only names of plots come from data; every other attribute is the same.
    fixed = [value for _, name, value in page.attributes if name != "aria-label"]
    assert fixed == [value for _, name, value in plain.attributes if name != "aria-label"]
    assert not any(letter in text for text in page.texts for letter in "\x1b\u202e\ud800\0")


def test_any_manifest_of_text_makes_a_sound_page(packed: Path, tmp_path: Path) -> None:
    """From the file on: a split, a corpus, a feature set and a task of any name."""
    evil = "</h1><script>alert(1)</script><b x='"
    shutil.copytree(packed / "valid", tmp_path / "valid")
    manifest = Manifest.load(str(packed / "valid"))
    sets = {name: replace(spec, set=evil) for name, spec in manifest.features.items()}
    with_manifest(tmp_path / "valid", split=evil, corpus=evil, features=sets)
    page = Page(render_page(survey([str(tmp_path / "valid"), str(packed / "test")])))
    assert page.count["script"] == page.count["b"] - page.count["figure"] == 0


@pytest.mark.parametrize(
    "dtype", ["float32<script>", "f4,f4", "object", "O", "<U8", "bool", "float33", "", "M8[s]", "int32 "]
)
def test_a_type_that_holds_no_numbers_is_refused(dtype: str, packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed / "valid", tmp_path / "valid")
    manifest = Manifest.load(str(packed / "valid"))
    spec = replace(manifest.features["text"], dtype=dtype)
    with_manifest(tmp_path / "valid", features={**manifest.features, "text": spec})
    with pytest.raises(DataError, match=r"features.text.dtype is"):
        Manifest.load(str(tmp_path / "valid"))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint16", ">f4", "longdouble"])
def test_types_of_numbers_are_taken_by_their_own_names(dtype: str, packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed / "valid", tmp_path / "valid")
    manifest = Manifest.load(str(packed / "valid"))
    name = str(np.dtype(dtype))
    spec = replace(manifest.features["text"], dtype=name)
    with_manifest(tmp_path / "valid", features={**manifest.features, "text": spec})
    assert Manifest.load(str(tmp_path / "valid")).features["text"].dtype == name


def test_tokens_classes_and_gaps_make_a_page(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    content = []
    for number in range(6):
        about = {"labels": {"mood": None, "fun": number % 2}}
        content.append((f"k{number}.json", json.dumps(about).encode()))
        content.append((f"k{number}.text.npy", npy(random.integers(0, 9, number).astype(np.int32))))
        if number > 3:
            content.append((f"k{number}.audio.npy", npy(random.normal(size=(2, 3)).astype(np.float16) * 1000)))
    write_tar(tmp_path / "a.tar", content)
    index_tars(str(tmp_path), corpus="c", split="test")
    found = survey([str(tmp_path)])
    assert found[0].words is None and found[0].labels["mood"].histogram is None
    assert found[0].coverage == {"text": 4, "text+audio": 2}
    Page(render_page(found))


def test_plots_at_the_limits() -> None:
    for counts in ([0], [0, 0], [1], [3, 10**9]):
        names = [str(number) for number in range(len(counts))]
        Page(bar_chart("t", names, counts, "label", [(0.5, "0")], 0.0))
    Page(stacked_bar("none", [("a", 0, "part-0")]))
    for values in ([0.0], [1e30, -1e-30], [5.0, 5.0], [1e4, 0.0, -2.0]):
        profile = Profile(values, [0.0] * len(values), values, values)
        drawing = profile_chart("t", profile, "text")
        assert "nan" not in drawing and "inf" not in drawing
        places = [float(y) for y in re.findall(r'y1="(-?[\d.]+)"', drawing)]
        assert all(0 <= y <= 210 for y in places)


def test_a_sparkline() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
    assert sparkline(np.arange(8.0), stream) == "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
    assert sparkline(np.zeros(3), stream) == 3 * "\u2581"
    assert len(sparkline(np.arange(1000.0), stream)) == 48
    assert sparkline(np.array([0.0, np.nan]), stream) == 2 * "\u2581"
    assert sparkline(np.array([0.0, 1.0]), io.TextIOWrapper(io.BytesIO(), "ascii")) == "_#"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["inspect", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    code, out, err = run(capsys, str(packed), "--html", str(page))
    assert code == 0 and f"page: {page}" in err
    for line in (
        r"synth +samples +shards +size",
        r"text\+audio\+vision +\d+ \(\d+\.\d %\)",
        r"train vision +synth35 +35 +float32",
        r"valid audio +\d+ +\d+ +\d",
        r"task sentiment: regression -3 to 3, scale mosi",
        r" -2\.5 +\d+ +\d",
        r"test group +24 +3 +\"test_",
        r"train: values, labels and words from all 112 samples",
    ):
        assert re.search(line, out), line
    assert Page(page.read_text()).count["svg"]
    code, out, err = run(capsys, str(packed / "train"), "--json")
    (split,) = json.loads(out)["splits"]
    assert code == 0 and "task sentiment" in err
    assert split["samples"] == 112 and split["modalities"]["text"]["features"]["set"] == "synth300"
    assert len(split["modalities"]["vision"]["values"]["columns"]["std"]) == 35


def test_one_sample(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = load(str(next((packed / "valid").glob("*.idx")))).keys[3]
    (ref,) = [ref for ref in SOURCE.splits()["valid"] if ref.id == key]
    sample = SOURCE.load("valid", ref)
    code, out, _ = run(capsys, str(packed), key)
    assert code == 0 and re.search(rf"id +{key}\n", out)
    assert f"label sentiment  {sample.labels['sentiment']:g}" in out and sample.transcript in out
    for name, spec in SOURCE.features.items():
        shape = f"[{len(sample.arrays[name])}, {spec.dim}]" if name in sample.arrays else "missing"
        assert re.search(rf"{name} +synth{spec.dim} +{re.escape(shape)}", out)
    code, out, _ = run(capsys, str(packed), key, "--json")
    found = json.loads(out)
    assert (found["key"], found["about"]["labels"]) == (key, sample.labels)
    for name, array in sample.arrays.items():
        assert np.array_equal(np.array(found["arrays"][name]["values"], np.float32), array)


def test_a_sample_is_found_by_an_id_that_is_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(SynthSource(20), str(tmp_path))
    change_array(tmp_path / "train", "audio", lambda array: np.where(array > 0, np.nan, array).astype(np.float32))
    key = load(str(next((tmp_path / "train").glob("*.idx")))).keys[0]
    code, out, _ = run(capsys, str(tmp_path), key, "--json")
    assert code == 0 and None in np.array(json.loads(out)["arrays"]["audio"]["values"]).flatten()
    code, out, err = run(capsys, str(tmp_path), key[:-1] + "x")
    assert (code, out) == (2, "") and f"no sample {key[:-1]}x" in err and "did you mean synth_" in err
    code, _, err = run(capsys, str(tmp_path), "?")
    assert code == 2 and "ids look like synth_" in err
    code, _, err = run(capsys, str(tmp_path), key, "--html", "x.html")
    assert code == 2 and "leave out KEY or --html" in err
    code, _, err = run(capsys, str(tmp_path / "nowhere"))
    assert code == 2 and "no packed data here" in err


def test_manifests_of_the_splits_are_not_changed(packed: Path, surveyed: list[SplitSurvey]) -> None:
    assert [split.manifest_id for split in surveyed] == [Manifest.load(str(packed / split)).id for split in SPLITS]
