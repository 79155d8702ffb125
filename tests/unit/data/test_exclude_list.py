"""The list of `data.exclude`: its forms, and the samples that its ids name, in splits of any version."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.exclude_list import ListedId, SourceSplit, read_exclude_list, resolve_exclude_list
from ivr_dist.data.exclusions import Exclusions
from ivr_dist.errors import DataError
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.index import load as load_index
from ivr_dist.shards.manifest import Manifest
from tests.recorded import SAMPLES, forget_ids, ids_of, indexed, packed

Splits = dict[str, SourceSplit]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Train and test of one corpus, in shards of 7."""
    place = tmp_path_factory.mktemp("packed")
    pack(SynthSource(60), str(place), PackOptions(shard_samples=7))
    return {name: source(str(place / name)) for name in ("train", "test")}


def source(url: str, corpus: str = "mine") -> SourceSplit:
    return SourceSplit(corpus, url, Manifest.load(url))


def names(split: SourceSplit) -> list[str]:
    return [name for shard in split.manifest.shards for name in load_index(f"{split.url}/{shard.index.name}").names]


def written(place: Path, *lines: str, name: str = "list.txt") -> str:
    (place / name).write_text("".join(f"{line}\n" for line in lines))
    return str(place / name)


def test_the_forms_of_a_list(tmp_path: Path) -> None:
    expected = [ListedId("a 1"), ListedId("b", "mosi"), ListedId("7")]
    assert read_exclude_list(written(tmp_path, "a 1", "", "mosi\tb", "7\r", "a 1")) == expected
    lines = ['"a 1"', '{"id": "b", "corpus": "mosi"}', "7"]
    assert read_exclude_list(written(tmp_path, *lines, name="list.jsonl")) == expected


@pytest.mark.parametrize(
    ("name", "line", "what"),
    [
        ("list.txt", "a\tb\tc", r"'a.*b.*c' is not corpus, tab, id \(.*list\.txt:2\); write one id on each line"),
        ("list.txt", "\tb", r"is not corpus, tab, id"),
        ("list.jsonl", "abc", r"the line is not JSON"),
        ("list.jsonl", '{"name": "x"}', r"is not an id \(.*list\.jsonl:2\)"),
        ("list.jsonl", "[1]", r"the sample's id is \[1\], not a text"),
        ("list.jsonl", "1.5", r"the sample's id is 1\.5, not a text"),
    ],
)
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, name: str, line: str, what: str) -> None:
    first = '"x"' if name.endswith("l") else "x"
    with pytest.raises(DataError, match=what):
        read_exclude_list(written(tmp_path, first, line, name=name))


def test_a_list_that_is_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the file of data\.exclude is missing"):
        read_exclude_list(str(tmp_path / "nowhere.txt"))
    with pytest.raises(DataError, match=r"the list of data\.exclude has no ids"):
        read_exclude_list(written(tmp_path, "", " "))


def test_ids_are_found_in_every_split(splits: Splits, tmp_path: Path) -> None:
    train, test = names(splits["train"]), names(splits["test"])
    url = written(tmp_path, train[3], test[0], train[40], "mine\t" + train[0], "synth\t" + test[1], "other\tanything")
    found = resolve_exclude_list(url, splits)
    assert found.elsewhere == 1
    assert found.splits["train"] == Exclusions.of([0, 3, 40], splits["train"].manifest.id)
    assert found.splits["test"].numbers.tolist() == [0, 1]
    assert found.describe({name: split.manifest for name, split in splits.items()}) == [
        "data.exclude leaves out 3 of 42 samples of train",
        "data.exclude leaves out 2 of 9 samples of test",
        "1 ids of data.exclude are of corpora that the run does not read",
    ]


def test_a_split_without_hashes_is_looked_up_in_its_indexes(splits: Splits, tmp_path: Path) -> None:
    old = {name: replace(split, manifest=replace(split.manifest, hashes=None)) for name, split in splits.items()}
    url = written(tmp_path, names(splits["train"])[3], names(splits["test"])[2])
    found = resolve_exclude_list(url, old)
    assert {name: listed.numbers.tolist() for name, listed in found.splits.items()} == {"train": [3], "test": [2]}


@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_any_ids_in_any_tars(tmp_path: Path, elsewhere: bool, kept: bool) -> None:
    """Ids that are no KEYs, also where the index does not hold them."""
    ids = ["video$_$1", "a b", "\u4f60\u597d", "a.b", "x" * 300, *(f"clip{number}" for number in range(SAMPLES - 5))]
    place = indexed(ids, [f"k{number}" for number in range(SAMPLES)]) if elsewhere else packed(ids)
    if not kept:
        forget_ids(place)
    lines = [json.dumps(id_) for id_ in ids[:6]]
    split = source(place)
    old = replace(split, manifest=replace(split.manifest, hashes=None))
    for each in (split, old):
        found = resolve_exclude_list(written(tmp_path, *lines, name="list.jsonl"), {"train": each})
        assert sorted(ids_of(place)[number] for number in found.splits["train"].numbers.tolist()) == sorted(ids[:6])


def test_an_unknown_id_is_an_error_with_similar_ones(splits: Splits, tmp_path: Path) -> None:
    known = names(splits["train"])[0]
    with pytest.raises(DataError, match=rf"data\.exclude: no split has {known}x \(.*\); did you mean .*{known}"):
        resolve_exclude_list(written(tmp_path, known, f"{known}x"), splits)
    with pytest.raises(DataError, match=r"the samples aaaa, bbbb, cccc, \.\.\. \(4 ids\).*; ids look like"):
        resolve_exclude_list(written(tmp_path, "aaaa", "bbbb", "mine\tcccc", "dddd"), splits)
    assert not resolve_exclude_list(written(tmp_path, "aaaa"), splits, strict=False).splits


def test_a_list_of_all_samples_is_refused(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.exclude leaves out all 9 samples of test"):
        resolve_exclude_list(written(tmp_path, *names(splits["test"])), splits)
