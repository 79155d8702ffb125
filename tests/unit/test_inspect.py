"""`inspect`: its counts are the corpus', its page stands alone, one sample is shown whole."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ivr_dist.cli import main
from ivr_dist.corpora.synth import SynthSource
from ivr_dist.data.manifest import Manifest
from ivr_dist.data.pack import pack
from ivr_dist.data.reader import ShardReader


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("corpus"))
    pack(SynthSource(samples=120, seed=3), place)
    return place


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["inspect", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_counts_and_values_are_the_corpus_own(corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, corpus, "--json", "--full")
    assert code == 0
    found = {split["split"]: split for split in json.loads(out.splitlines()[-1])["splits"]}
    assert list(found) == ["train", "valid", "test"]
    manifest = Manifest.load(f"{corpus}/train")
    reader = ShardReader(f"{corpus}/train", manifest, 1 << 26)
    samples = reader.read(np.arange(manifest.samples))
    reader.close()
    train = found["train"]
    assert train["samples"] == manifest.samples == sum(train["coverage"].values())
    for name in manifest.features:
        arrays = [sample.arrays[name] for sample in samples if name in sample.arrays]
        modality = train["modalities"][name]
        assert modality["present"] == len(arrays)
        assert modality["lengths"]["max"] == max(map(len, arrays))
        assert modality["lengths"]["mean"] == pytest.approx(np.mean([len(array) for array in arrays]))
        values = np.concatenate(arrays)
        assert modality["values"]["max"] == pytest.approx(values.max())
        assert modality["values"]["mean"] == pytest.approx(values.mean(dtype=np.float64), abs=1e-6)
    labels = [sample.labels["sentiment"] for sample in samples]
    assert train["labels"]["sentiment"]["mean"] == pytest.approx(np.mean(labels))


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href") and value and value[:1] != "#"]


def test_the_page_stands_alone(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert run(capsys, corpus, "--html", str(page))[0] == 0
    text = page.read_text()
    found = _Page()
    found.feed(text)
    assert not found.outside and "script" not in found.tags and "url(" not in text
    assert found.tags.count("svg") >= 6, "labels and lengths of three splits"
    assert "prefers-color-scheme" in text
    for word in ("synth", "sentiment", "train", "valid", "test"):
        assert word in text


def test_one_sample_and_a_name_that_is_nearly_one(corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Manifest.load(f"{corpus}/valid")
    reader = ShardReader(f"{corpus}/valid", manifest, 1 << 26)
    (sample,) = reader.read(np.array([4]))
    reader.close()
    code, out, _ = run(capsys, corpus, sample.id, "--json")
    shown = json.loads(out.splitlines()[-1])
    assert code == 0
    assert (shown["about"]["id"], shown["about"]["labels"]) == (sample.id, dict(sample.labels))
    code, _, err = run(capsys, corpus, sample.id + "x")
    assert code == 2
    assert f"no sample {sample.id}x" in err and f"did you mean {sample.id}" in err
