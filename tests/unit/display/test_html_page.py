"""The HTML report of `inspect`: self-contained, well-formed, and inert whatever the data contains."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.display.html_page import render_page
from ivr_dist.inspection.profile import SplitProfile, profile
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.packing.pack import pack
from ivr_dist.shards.manifest import Manifest
from tests.markup import Page
from tests.packed import change_json, npy, with_manifest, write_tar


def test_the_page_is_self_contained(profiles: list[SplitProfile]) -> None:
    text = render_page(profiles)
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
    assert render_page(profiles) == text


def test_the_style_is_the_style_sheet_and_nothing_else(two: list[SplitProfile]) -> None:
    evil = "</style><script>alert(1)</script> body { background: red } {{ 7 * 7 }}"
    text = render_page([replace(two[0], corpus=evil, split=evil, url=evil), two[1]])
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    sheet = resources.files("ivr_dist.display").joinpath("page.css").read_text("utf-8")
    assert style.strip() == sheet.strip() and "tbody tr:last-child > *" in style
    page = Page(text)
    assert page.count["style"] == 1 and page.count["script"] == 0
    assert "style" not in {name for _, name, _ in page.attributes}
    assert "{{ 7 * 7 }}" in text, "a text of the data was taken for a template"


def test_every_class_of_the_page_has_a_rule(two: list[SplitProfile]) -> None:
    page = Page(render_page(two))
    sheet = resources.files("ivr_dist.display").joinpath("page.css").read_text("utf-8")
    classes = {one for _, name, value in page.attributes if name == "class" for one in (value or "").split()}
    assert {one for one in classes if not re.search(rf"\.{one}\b", sheet)} == set()


def test_text_of_the_data_stays_text(tmp_path: Path) -> None:
    pack(SynthSource(20), str(tmp_path))
    evil = "<script>alert(1)</script>&\x1b[31m[bold]\ud800"
    change_json(tmp_path / "train", 0, provenance={evil: evil}, id=evil)
    page = Page(render_page(profile([str(tmp_path / "train")])))
    assert page.count["script"] == 0
    assert any("<script>alert(1)</script>&" in text for text in page.texts)
    assert not any("\x1b" in text for text in page.texts)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[SplitProfile]:
    """Small splits of two corpora, so that both names are shown, with several patterns of modalities."""
    folder = tmp_path_factory.mktemp("two")
    pack(SynthSource(40, dims={"text": 3, "audio": 2, "vision": 2}, aligned=False, missing=0.3), str(folder))
    first, second = profile([str(folder / "train"), str(folder / "valid")])
    assert len(first.coverage) > 1
    return [first, replace(second, corpus="other")]


def with_texts(splits: list[SplitProfile], draw: Callable[[], str]) -> list[SplitProfile]:
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
def test_no_text_of_a_manifest_makes_an_element_or_attribute(two: list[SplitProfile], data: st.DataObject) -> None:
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


def test_a_hostile_manifest_makes_a_well_formed_page(three_splits: Path, tmp_path: Path) -> None:
    """From the file on: a split, a corpus, a feature set and a task of any name."""
    evil = "</h1><script>alert(1)</script><b x='"
    shutil.copytree(three_splits / "valid", tmp_path / "valid")
    manifest = Manifest.load(str(three_splits / "valid"))
    sets = {name: replace(spec, set=evil) for name, spec in manifest.features.items()}
    with_manifest(tmp_path / "valid", split=evil, corpus=evil, features=sets)
    page = Page(render_page(profile([str(tmp_path / "valid"), str(three_splits / "test")])))
    assert page.count["script"] == page.count["b"] - page.count["figure"] == 0


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
    found = profile([str(tmp_path)])
    assert found[0].words is None and found[0].labels["mood"].histogram is None
    assert found[0].coverage == {"text": 4, "text+audio": 2}
    Page(render_page(found))
