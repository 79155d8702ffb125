"""Packing: samples are read back bit for bit, and the same input results in the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.corpora.source import SampleRef, Source, SourceSample
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import ConfigError, DataError
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.packing.shard_writer import shuffled
from ivr_dist.shards.decode import RawSample
from ivr_dist.shards.index import load as load_index
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_ids import tar_key
from ivr_dist.shards.specs import FeatureSpec, TaskSpec

SMALL = PackOptions(shard_samples=25, seed=5)


@dataclass(frozen=True)
class ListSource:
    """A corpus of given samples."""

    samples: Sequence[SourceSample]
    features: Mapping[str, FeatureSpec]
    corpus: str = "list"

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        return {"sentiment": TaskSpec(type="regression", low=-3, high=3, scale="mosi")}

    def splits(self) -> dict[str, list[SampleRef]]:
        found: dict[str, list[SampleRef]] = {}
        for number, sample in enumerate(self.samples):
            found.setdefault(sample.split, []).append(SampleRef(number, sample.id, sample.group))
        return found

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        return self.samples[ref.number]


def features(**dims: tuple[int, str]) -> dict[str, FeatureSpec]:
    return {name: FeatureSpec(set=name, dim=dim, dtype=dtype, kind="features") for name, (dim, dtype) in dims.items()}


def sample(id_: str = "a", split: str = "train", label: float | None = 1.0, **arrays: Any) -> SourceSample:
    return SourceSample(id_, split, None, {"sentiment": label}, "", {}, {k: np.array(v) for k, v in arrays.items()})


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(url: str) -> list[RawSample]:
    manifest = Manifest.load(url)
    reader = ShardReader(url, manifest, 1 << 26)
    found = list(reader.read(np.arange(manifest.samples)))
    reader.close()
    return found


def by_id(source: Source, split: str) -> dict[str, SourceSample]:
    return {ref.id: source.load(split, ref) for ref in source.splits()[split]}


def test_every_sample_comes_back_bit_for_bit(tmp_path: Path) -> None:
    source = SynthSource(150, seed=4, aligned=False, missing=0.2)
    summary = pack(source, str(tmp_path), SMALL)
    assert [(split.split, split.samples, split.shards) for split in summary.splits] == [
        ("train", 105, 5),
        ("valid", 22, 1),
        ("test", 23, 1),
    ]
    for split in source.splits():
        expected, found = by_id(source, split), read(str(tmp_path / split))
        assert sorted(raw.id for raw in found) == sorted(expected)
        for raw in found:
            want = expected[raw.id]
            assert raw.labels == want.labels
            assert set(raw.arrays) == set(want.arrays)
            for name, array in raw.arrays.items():
                assert array.dtype == np.float32 and np.array_equal(array, want.arrays[name])


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    pack(SynthSource(60), str(tmp_path / "one"), SMALL)
    pack(SynthSource(60), str(tmp_path / "two"), SMALL)
    pack(SynthSource(60), str(tmp_path / "other"), replace(SMALL, seed=6))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one")["train/manifest.json"] != files(tmp_path / "other")["train/manifest.json"]
    ids = [[raw.id for raw in read(str(tmp_path / name / "train"))] for name in ("one", "other")]
    assert ids[0] != ids[1] and sorted(ids[0]) == sorted(ids[1])


def test_the_manifest_describes_the_files(tmp_path: Path) -> None:
    pack(SynthSource(60), str(tmp_path), SMALL)
    manifest = Manifest.load(str(tmp_path / "train"))
    assert [shard.name for shard in manifest.shards] == ["synth-train-000000.tar", "synth-train-000001.tar"]
    manifest.check_shards(str(tmp_path / "train"))
    for shard in manifest.shards:
        for entry in (shard, shard.index):
            content = (tmp_path / "train" / entry.name).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.bytes, entry.sha256)
        assert len(load_index(str(tmp_path / "train" / shard.index.name)).keys) == shard.samples
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == sorted(
        [
            "manifest.hashes",
            "manifest.json",
            *(name for shard in manifest.shards for name in (shard.name, shard.index.name)),
        ]
    )


def test_statistics_are_those_of_the_training_steps(tmp_path: Path) -> None:
    source = SynthSource(60, missing=0.2)
    pack(source, str(tmp_path))
    found = Manifest.load(str(tmp_path / "train")).statistics
    for name in source.features:
        steps = np.concatenate([s.arrays[name] for s in by_id(source, "train").values() if name in s.arrays])
        assert found[name].steps == len(steps)
        assert np.allclose(found[name].mean, steps.mean(axis=0, dtype=np.float64), rtol=1e-12, atol=1e-12)
        assert np.allclose(found[name].std, steps.std(axis=0, dtype=np.float64), rtol=1e-9)
    assert not Manifest.load(str(tmp_path / "valid")).statistics
    assert not Manifest.load(str(tmp_path / "test")).statistics


def test_shards_have_about_the_requested_bytes(tmp_path: Path) -> None:
    (train, valid, _) = pack(SynthSource(1000), str(tmp_path), PackOptions(shard_bytes=200_000)).splits
    shards = Manifest.load(str(tmp_path / "train")).shards
    assert train.shards == len(shards) > 10 and valid.shards > 1
    # As many samples in each, to within what the last one lacks.
    assert len({shard.samples for shard in shards[:-1]}) == 1
    assert shards[0].samples - len(shards) < shards[-1].samples <= shards[0].samples
    assert all(150_000 < shard.bytes < 250_000 for shard in shards[:-1])
    assert train.bytes == sum(shard.bytes for shard in shards)


def test_a_sample_larger_than_a_shard_has_one_to_itself(tmp_path: Path) -> None:
    (train, *_) = pack(SynthSource(20), str(tmp_path), PackOptions(shard_bytes=1000)).splits
    assert (train.samples, train.shards) == (14, 14)


def test_the_bytes_of_a_packing_are_pinned(tmp_path: Path) -> None:
    # Another value would change the id and the order of every corpus.
    arrays = [np.arange(6, dtype=np.float32).reshape(3, 2) + number for number in range(4)]
    source = ListSource(
        [sample(f"s{n}", audio=array) for n, array in enumerate(arrays)], features(audio=(2, "float32"))
    )
    (train,) = pack(source, str(tmp_path)).splits
    assert train.manifest_id == "548c4e4052570ac52b50ecaeb40067a14fbdc885cb3c100c357e6bd5bee4934d"


def test_values_that_are_not_finite_become_zero_and_are_reported(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    source = ListSource(
        [sample("a", audio=[[1, nan], [3, 4], [-inf, inf]], text=[[1e6]]), sample("b", audio=[[5, 8]])],
        features(text=(1, "float16"), audio=(2, "float32")),
    )
    (summary,) = pack(source, str(tmp_path)).splits
    assert summary.replaced == {"audio": 3, "text": 1}  # 1e6 does not fit float16
    assert summary.missing == {"text": 1}
    assert "3 values of audio replaced by 0: not finite, or too large" in summary.warnings
    found = {raw.id: raw.arrays for raw in read(str(tmp_path / "train"))}
    assert found["a"]["audio"].tolist() == [[1, 0], [3, 4], [0, 0]]
    assert found["a"]["text"].dtype == np.float16 and found["a"]["text"].tolist() == [[0]]
    statistics = Manifest.load(str(tmp_path / "train")).statistics
    assert (statistics["audio"].steps, statistics["audio"].mean) == (2, [4.0, 6.0])  # steps without a replaced value
    assert (statistics["text"].steps, statistics["text"].std) == (0, [1.0])


def test_empty_samples_stay_and_are_reported(tmp_path: Path) -> None:
    nothing = np.zeros((0, 2), np.float32)
    source = ListSource([sample("a", audio=nothing), sample("b", label=None)], features(audio=(2, "float32")))
    (summary,) = pack(source, str(tmp_path)).splits
    assert (summary.samples, summary.empty, summary.missing, summary.unlabelled) == (
        2,
        2,
        {"audio": 2},
        {"sentiment": 1},
    )
    assert {raw.id: (dict(raw.arrays), raw.labels["sentiment"]) for raw in read(str(tmp_path / "train"))} == {
        "a": ({}, 1.0),
        "b": ({}, None),
    }
    index = load_index(str(tmp_path / "train" / "list-train-000000.idx"))
    assert index.lengths.tolist() == [[-1, -1, -1]] * 2


def test_tokens(tmp_path: Path) -> None:
    spec = {"text": FeatureSpec(set="pieces", dim=1, dtype="int32", kind="tokens")}
    pack(ListSource([sample(text=np.array([5, 2**31 - 1], np.uint32))], spec), str(tmp_path))
    (raw,) = read(str(tmp_path / "train"))
    assert raw.arrays["text"].dtype == np.int32 and raw.arrays["text"].tolist() == [5, 2**31 - 1]
    manifest = Manifest.load(str(tmp_path / "train"))
    assert not manifest.statistics and manifest.vocabulary == {"text": 2**31}
    for bad in ([2**31], [-1], [0.5], [[1]]):
        with pytest.raises(DataError, match="token"):
            pack(ListSource([sample(text=bad)], spec), str(tmp_path / "bad"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"audio": [[1.0, 2.0, 3.0]]}, r"shape \[1, 3\] instead of \[steps, 2\].*sample a, audio"),
        ({"audio": [1.0, 2.0]}, r"shape \[2\]"),
        ({"vision": [[1.0]]}, "sample a has vision"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack(ListSource([sample(**arrays)], features(audio=(2, "float32"))), str(tmp_path))
    assert not (tmp_path / "train" / "manifest.json").exists()


def test_packing_again_changes_nothing(tmp_path: Path) -> None:
    first = pack(SynthSource(60), str(tmp_path), SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = pack(SynthSource(60), str(tmp_path), replace(SMALL, overwrite=True))
    assert {split.status for split in first.splits} == {"packed"}
    assert {split.status for split in second.splits} == {"already packed"}
    assert [replace(split, status="packed") for split in second.splits] == list(first.splits)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_other_data_is_overwritten_only_with_the_option(tmp_path: Path) -> None:
    pack(SynthSource(60), str(tmp_path), SMALL)
    before = files(tmp_path)
    with pytest.raises(DataError, match=r"the folder holds another packing.*--overwrite"):
        pack(SynthSource(80), str(tmp_path), SMALL)
    assert files(tmp_path) == before
    storage.write_text(storage.join(str(tmp_path), "train", "text_states", "0123", "states.json"), "{}")
    pack(SynthSource(30), str(tmp_path), replace(SMALL, overwrite=True))
    assert not (tmp_path / "train" / "text_states").exists(), "states of texts that are no longer there"
    assert len(read(str(tmp_path / "train"))) == 21
    assert not (tmp_path / "train" / "synth-train-000001.tar").exists()  # the longer packing's second shard is gone


def test_overwriting_removes_the_files_of_the_other_corpus(tmp_path: Path) -> None:
    spec, overwrite = features(audio=(2, "float32")), PackOptions(overwrite=True)
    pack(ListSource([sample(audio=[[1.0, 2.0]])], spec, "one"), str(tmp_path))
    pack(ListSource([sample(audio=[[1.0, 2.0]])], spec, "two"), str(tmp_path), overwrite)
    assert sorted(files(tmp_path)) == [
        "train/manifest.hashes",
        "train/manifest.json",
        "train/two-train-000000.idx",
        "train/two-train-000000.tar",
    ]


def test_a_lost_shard_is_packed_again(tmp_path: Path) -> None:
    pack(SynthSource(60), str(tmp_path), SMALL)
    before = files(tmp_path)
    (tmp_path / "train" / "synth-train-000001.tar").unlink()
    summary = pack(SynthSource(60), str(tmp_path), SMALL)
    assert [split.status for split in summary.splits] == ["packed", "already packed", "already packed"]
    assert files(tmp_path) == before


def test_what_a_killed_packing_left_is_replaced(tmp_path: Path) -> None:
    pack(SynthSource(120), str(tmp_path), SMALL)
    for split in ("train", "valid", "test"):
        (tmp_path / split / "manifest.json").unlink()
    (tmp_path / "train" / "mine.tar").write_bytes(b"not ours")
    pack(SynthSource(30), str(tmp_path), SMALL)
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [
        "manifest.hashes",
        "manifest.json",
        "mine.tar",
        "synth-train-000000.idx",
        "synth-train-000000.tar",
    ]


def test_splits_of_another_corpus_are_not_mixed_in(tmp_path: Path) -> None:
    pack(SynthSource(60), str(tmp_path), SMALL)
    source = ListSource([sample(audio=[[1.0, 2.0]])], features(audio=(2, "float32")))
    with pytest.raises(DataError, match="the folder has a packed split test, which corpus list does not have"):
        pack(source, str(tmp_path), replace(SMALL, overwrite=True))


def test_any_fsspec_url(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/packed"
    pack(SynthSource(60), url, SMALL)
    pack(SynthSource(60), str(tmp_path), SMALL)
    assert files(tmp_path) == {
        name: hashlib.sha256(storage.read_bytes(storage.join(url, name))).hexdigest()
        for name in storage.list_files(url)
    }


def test_progress_counts_every_sample(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    pack(SynthSource(20), str(tmp_path), progress=lambda *call: seen.append(call))
    counts = {"train": 14, "valid": 3, "test": 3}
    begun = [(split, 0, count) for split, count in counts.items()]
    assert seen == begun + [(split, done + 1, count) for split, count in counts.items() for done in range(count)]


def test_order_depends_only_on_ids_and_seed() -> None:
    refs = [SampleRef(number, f"s{number}") for number in range(100)]
    order = [ref.id for ref in shuffled(refs, 7)]
    assert order == [ref.id for ref in shuffled(refs[::-1], 7)]
    assert order[:5] == ["s19", "s50", "s24", "s70", "s13"]  # pinned: a change would repack everything
    assert order != sorted(order)


@given(st.text(min_size=1), st.text(min_size=1))
def test_keys_are_safe_and_distinct(one: str, other: str) -> None:
    key = tar_key(one)
    assert (key.isascii() and key.replace("_", "").replace("-", "").isalnum()) or set(key) <= {"_", "-"}
    assert len(key) <= 80 and not (key.startswith("__") and key.endswith("__"))
    assert (tar_key(other) == key) == (one == other)


@pytest.mark.parametrize("id_", ["_dI--eQ6qVU_1", "a", "A-1"])
def test_plain_ids_are_their_own_keys(id_: str) -> None:
    assert tar_key(id_) == id_


def test_awkward_ids_survive(tmp_path: Path) -> None:
    ids = ["a.b", "a_b", "video$_$3", "__meta__", "\u00fc" * 90, "x" * 200, "\ud800"]
    source = ListSource([sample(id_, audio=[[1.0, 2.0]]) for id_ in ids], features(audio=(2, "float32")))
    pack(source, str(tmp_path))
    assert sorted(raw.id for raw in read(str(tmp_path / "train"))) == sorted(ids)
    plain = webdataset.WebDataset(str(tmp_path / "train" / "list-train-000000.tar"), shardshuffle=False)
    assert sorted(json.loads(item["json"])["id"] for item in plain) == sorted(ids)


@pytest.mark.parametrize("wrong", [{"shard_samples": 0}, {"shard_bytes": 0}, {"seed": -1}])
def test_impossible_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        PackOptions(**wrong)  # type: ignore[arg-type]


def test_a_corpus_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        pack(ListSource([], features(audio=(2, "float32"))), str(tmp_path))


def test_counts_are_added_to_what_was_packed_before_them(tmp_path: Path) -> None:
    source = SynthSource(20, text="tokens")
    pack(source, str(tmp_path))
    place = tmp_path / "train"
    counted = Manifest.load(str(place))
    assert (counted.transcripts, counted.vocabulary) == (14, {"text": 12})
    replace(counted, transcripts=0, vocabulary={}).save(str(place))
    again = pack(source, str(tmp_path))
    assert [split.status for split in again.splits] == ["packed", "already packed", "already packed"]
    assert Manifest.load(str(place)) == counted
