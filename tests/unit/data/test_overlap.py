"""Overlap of the splits of a pool: counts, errors and dropped copies, against a model that compares names and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.config import Config
from ivr_dist.config.corpora import split_urls
from ivr_dist.config.loading import from_dict
from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.data.left_out import find_left_out
from ivr_dist.data.overlap import HashedSplit, Overlaps, find_overlaps
from ivr_dist.errors import DataError
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_hashes import HashRows, hashes_of
from ivr_dist.shards.specs import FeatureSpec, TaskSpec
from ivr_dist.shards.split_hashes import first_ids

TEXTS = ("So good, so very good!", "I did not like this film", "What are you doing over there?", "Okay.", "")
Sample = tuple[str, str, str]
"""Id, group (empty for none) and text."""
Corpora = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Samples by corpus and split."""


def hashed(corpora: Corpora) -> tuple[list[HashedSplit], list[HashedSplit]]:
    splits = [
        HashedSplit(corpus, split, "nowhere", manifest(corpus, split, len(samples)), table(corpus, samples))
        for corpus, parts in corpora.items()
        for split, samples in parts.items()
    ]
    return [each for each in splits if each.split == "train"], [each for each in splits if each.split != "train"]


def manifest(corpus: str, split: str, samples: int) -> Manifest:
    made = Manifest.create(corpus=corpus, split=split, seed=0, features={}, tasks={}, shards=[])
    object.__setattr__(made, "samples", samples)
    return made


def table(corpus: str, samples: Sequence[Sample]) -> object:
    rows = [
        hashes_of({"transcript": text, "provenance": {"group": group} if group else {}}, id_, corpus)
        for id_, group, text in samples
    ]
    return HashRows.of(np.array(rows, np.uint64).reshape(-1, 3)).table()


def overlaps(corpora: Corpora) -> Overlaps:
    return find_overlaps(*hashed(corpora), lambda split, kind, numbers: [f"{kind}{number}" for number in numbers])


SAMPLE = st.tuples(
    st.sampled_from(["a", "b", "c", "1", "2"]), st.sampled_from(["", "v", "w", "7"]), st.sampled_from(TEXTS)
)
SAMPLES = st.lists(SAMPLE, max_size=6)
CORPORA = st.dictionaries(
    st.sampled_from(["one", "two", "three"]),
    st.fixed_dictionaries({"train": SAMPLES, "valid": SAMPLES, "test": SAMPLES}),
    min_size=1,
)


def names(corpus: str, samples: Sequence[Sample], column: int) -> list[object]:
    """Names that can be compared, None where there is nothing to compare."""
    values: list[object] = [sample[column] for sample in samples]
    if column == 2:
        return [value if value in TEXTS[:3] else None for value in values]
    return [(corpus, value) if str(value).isdecimal() else value or None for value in values]


@given(CORPORA)
def test_counts_and_copies_match_a_simple_model(corpora: Corpora) -> None:
    found = overlaps(corpora)
    pairs = {(pair.train, pair.scored): pair for pair in found.pairs}
    divided = {
        corpus
        for corpus, parts in corpora.items()
        for split in ("valid", "test")
        if ({*names(corpus, parts["train"], 1)} & {*names(corpus, parts[split], 1)}) - {None}
    }
    for corpus, parts in corpora.items():
        dropped: set[int] = set()
        for other, others in corpora.items():
            for split in ("valid", "test"):
                trained = [{*names(corpus, parts["train"], column)} - {None} for column in range(3)]
                scored = [names(other, others[split], column) for column in range(3)]
                ids, groups, texts = (
                    sum(name in own for name in column) for own, column in zip(trained, scored, strict=True)
                )
                pair = pairs.get((f"{corpus} train", f"{other} {split}"))
                assert (pair is None) == (not (ids or groups or texts))
                if pair is None:
                    continue
                assert (pair.ids, pair.texts) == (ids, texts)
                assert pair.groups == len({*scored[1]} & trained[1])
                assert pair.own == (corpus == other) and pair.divided == bool({corpus, other} & divided)
                assert pair.is_leak == (not pair.own and bool(ids or texts or (groups and not pair.divided)))
                for column in range(3):
                    if column == 1 and (pair.own or pair.divided):
                        continue
                    own = names(corpus, parts["train"], column)
                    dropped |= {n for n, name in enumerate(own) if name is not None and name in scored[column]}
        copies = found.dropped.get(corpus)
        assert sorted(dropped) == ([] if copies is None else copies.excluded.numbers.tolist())
        assert copies is None or (max(copies.by.values()) <= len(copies.excluded) <= sum(copies.by.values()))


def test_the_error_is_that_of_the_design() -> None:
    videos = [(f"t{n}", f"video{n}", "") for n in range(12)]
    corpora = {
        "mosei": {"train": [(f"x{n}", group, "") for n, (_, group, _) in enumerate(videos)]},
        "youtube": {"valid": videos},
    }
    (error,) = overlaps(corpora).errors
    assert str(error) == (
        "12 videos of youtube valid are trained on in mosei train: group0, group1, group2, ...; pack without them, or "
        "set data.mix.overlap to drop (leaves the training copies out) or allow"
    )


def test_several_kinds_and_single_ones() -> None:
    text = TEXTS[0]
    corpora: Corpora = {
        "one": {"train": [("a", "", text), ("b", "", "")]},
        "two": {"valid": [("a", "", "so good, SO very good")], "test": [("z", "", f"{text}...")]},
    }
    found = overlaps(corpora)
    assert [error.what for error in found.errors] == [
        "1 sample and 1 text of two valid are trained on in one train: id0",
        "1 text of two test is trained on in one train: text0",
    ]
    copies = found.dropped["one"]
    assert (copies.excluded.numbers.tolist(), copies.own) == ([0], 0)
    assert copies.describe("one train", 2) == (
        "data.mix.overlap=drop leaves out 1 of 2 samples of one train: 1 by id, 1 by text"
    )


def test_a_text_of_the_own_test_is_dropped_and_counted_but_no_error() -> None:
    found = overlaps({"one": {"train": [("a", "v", TEXTS[1]), ("b", "v", "")], "test": [("c", "v", TEXTS[1])]}})
    assert found.errors == [] and len(found.pairs) == 1
    copies = found.dropped["one"]
    assert copies.excluded.numbers.tolist() == [0], "its group is the business of its card"
    assert copies.describe("one train", 2).endswith("1 by text, 1 of them only for a text of its own valid or test")


def test_a_corpus_split_by_clip_does_not_leak_by_group() -> None:
    clip = [("x1", "v", "")]
    found = overlaps({"sims": {"train": [("a", "v", "")], "test": [("b", "v", "")]}, "v2": {"test": clip}})
    assert found.errors == [] and not found.dropped
    assert [pair.divided for pair in found.pairs] == [True, True]


@dataclass(frozen=True)
class Listed:
    """A corpus of listed samples, with an array each."""

    samples: Mapping[str, Sequence[Sample]]
    corpus: str

    @property
    def features(self) -> dict[str, FeatureSpec]:
        return {"audio": FeatureSpec(set="a", dim=1, dtype="float32", kind="features")}

    @property
    def tasks(self) -> dict[str, TaskSpec]:
        return {"sentiment": TaskSpec(type="regression")}

    def splits(self) -> dict[str, list[SampleRef]]:
        return {name: [SampleRef(n, part[0]) for n, part in enumerate(own)] for name, own in self.samples.items()}

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        id_, group, text = self.samples[split][ref.number]
        provenance = {"group": group} if group else {}
        arrays = {"audio": np.ones((1, 1), np.float32)}
        return SourceSample(id_, split, group or None, {"sentiment": 1.0}, text, provenance, arrays)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora: a text of the second one's test is in the first one's train, and one of its own valid."""
    place = tmp_path_factory.mktemp("pool")
    one = {
        "train": [("a", "u", TEXTS[0]), ("b", "u", TEXTS[1]), ("c", "v", TEXTS[2]), ("d", "", "")],
        "valid": [("e", "w", TEXTS[1])],
    }
    two = {"train": [("p", "x", ""), ("q", "y", "")], "test": [("r", "z", TEXTS[0].upper())]}
    for name, samples in (("one", one), ("two", two)):
        pack(Listed(samples, name), str(place / name), PackOptions(shard_samples=2))
    return place


def config(pool: Path, **changes: object) -> Config:
    corpora = {
        "one": {"train": f"{pool}/one/train", "valid": f"{pool}/one/valid", "test": ""},
        "two": {"train": f"{pool}/two/train", "valid": "", "test": f"{pool}/two/test"},
    }
    return from_dict({"data": {"corpora": corpora, **changes}})


def manifests(config: Config) -> dict[str, Manifest]:
    return {key: Manifest.load(url) for key, url in split_urls(config).items()}


def ids(pool: Path, split: str) -> list[str]:
    return first_ids(f"{pool}/{split}", Manifest.load(f"{pool}/{split}"), 100)


def test_what_a_pool_refuses_drops_and_allows(pool: Path) -> None:
    refusing, dropping = config(pool), config(pool, mix={"overlap": "drop"})
    by_key = manifests(refusing)
    (leak,) = find_left_out(refusing, by_key).leaks
    assert leak.what == '1 text of two test is trained on in one train: "SO GOOD, SO VERY GOOD!" (r)'
    assert not find_left_out(refusing, by_key, check=False).leaks
    assert find_left_out(config(pool, mix={"overlap": "allow"}), by_key) == find_left_out(refusing, by_key, check=False)
    found = find_left_out(dropping, by_key)
    (key,) = found.splits
    assert key == "one/train" and not found.leaks
    assert {ids(pool, "one/train")[n] for n in found.splits[key].numbers.tolist()} == {"a", "b"}
    assert found.notes == [
        "data.mix.overlap=drop leaves out 2 of 4 samples of one/train: 2 by text, 1 of them only for a text of its own "
        "valid or test"
    ]
    assert found.digests == {key: found.splits[key].digest}


def test_a_list_and_dropped_copies_together(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\nd\ntwo\tq\nthree\tx\n")
    both = config(pool, mix={"overlap": "drop"}, exclude=str(tmp_path / "list.txt"))
    found = find_left_out(both, manifests(both))
    left_out = {key: {ids(pool, key)[n] for n in listed.numbers.tolist()} for key, listed in found.splits.items()}
    assert left_out == {"one/train": {"a", "b", "d"}, "two/train": {"q"}}
    assert "1 ids of data.exclude are of corpora that the run does not read" in found.notes


def test_splits_packed_without_hashes_are_read(pool: Path, caplog: pytest.LogCaptureFixture) -> None:
    dropping = config(pool, mix={"overlap": "drop"})
    by_key = manifests(dropping)
    old = {key: replace(each, hashes=None) for key, each in by_key.items()}
    found, expected = find_left_out(dropping, old), find_left_out(dropping, by_key)
    assert found.splits == expected.splits
    assert f"{pool}/one/train was packed without hashes of its samples" in caplog.text


def test_dropping_everything_is_refused(tmp_path: Path) -> None:
    parts = {"train": [("a", "", TEXTS[0])], "test": [("b", "", TEXTS[0])]}
    for name in ("one", "two"):
        pack(Listed(parts, name), str(tmp_path / name))
    every = {name: {"dir": str(tmp_path / name), "valid": ""} for name in ("one", "two")}
    pooled = from_dict({"data": {"corpora": every, "mix": {"overlap": "drop"}}})
    with pytest.raises(DataError, match="leaves out all 1 samples of one/train"):
        find_left_out(pooled, manifests(pooled))
