"""Samples that are left out: the list, its digest and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.exclusions import NOTHING, Exclusions, describe, read_excluded, save_excluded
from ivr_dist.data.sample_order import EMPTY
from ivr_dist.errors import CorruptDataError
from ivr_dist.packing.pack import pack
from ivr_dist.shards.manifest import Manifest

NUMBERS = st.lists(st.integers(0, 50), max_size=20)


@given(NUMBERS, st.lists(st.integers(-1, 60), max_size=30))
def test_the_mask_is_that_of_a_set(numbers: list[int], asked: list[int]) -> None:
    listed = Exclusions.of(numbers, "ab")
    assert len(listed) == len(set(numbers))
    assert listed.mask(np.array(asked, np.int64)).tolist() == [number in set(numbers) for number in asked]
    assert sorted([*listed.kept(51).tolist(), *set(numbers)]) == list(range(51))


def test_an_empty_slot_is_never_left_out() -> None:
    assert not Exclusions.of([0, 1], "ab").mask(np.array([EMPTY, EMPTY])).any()
    assert Exclusions.of([3], "ab").mask(np.array([[3, 4], [EMPTY, 3]])).tolist() == [[True, False], [False, True]]


@given(NUMBERS)
def test_the_digest_names_the_set_and_its_split(numbers: list[int]) -> None:
    listed = Exclusions.of(numbers, "ab")
    assert listed == Exclusions.of([*reversed(numbers), *numbers], "ab")
    assert bool(listed.digest) == bool(numbers)
    assert Exclusions.of([*numbers, 51], "ab").digest != listed.digest
    if numbers:
        assert Exclusions.of(numbers, "ac").digest != listed.digest
        assert describe(listed.digest).startswith(f"{len(listed)} samples (list ")


def test_the_digest_is_pinned() -> None:
    """It is in checkpoints, so it must never change."""
    digest = Exclusions.of([5, 2, 9], "3f2a").digest
    assert digest == "3:5cd3a2385fe52cef195a0db9247496222db91460e313a9a46b0de9d277958f56"
    assert describe("") == "none"


@given(NUMBERS)
def test_the_file_holds_the_list(numbers: list[int]) -> None:
    listed = Exclusions.of(numbers, "ab")
    read = Exclusions.from_bytes(listed.to_bytes(), "ab", "here")
    assert read == listed and read.numbers.tolist() == listed.numbers.tolist()


def test_a_run_keeps_its_lists(tmp_path: Path) -> None:
    pack(SynthSource(20), str(tmp_path / "corpus"))
    manifests = {name: Manifest.load(str(tmp_path / "corpus" / name)) for name in ("train", "valid")}
    lists = {"train": Exclusions.of([3, 1], manifests["train"].id)}
    save_excluded(str(tmp_path), manifests, lists)
    assert read_excluded(str(tmp_path), manifests["train"].id) == lists["train"]
    assert read_excluded(str(tmp_path), manifests["valid"].id) == NOTHING
    save_excluded(str(tmp_path), manifests, {})
    assert read_excluded(str(tmp_path), manifests["train"].id) == NOTHING, "a run that was started over"


def test_a_damaged_file_is_refused() -> None:
    data = Exclusions.of([1, 2], "ab").to_bytes()
    for damaged in (data[:-1], b"", data.replace(b"<i8", b"<i4"), b"{}"):
        with pytest.raises(CorruptDataError, match="here"):
            Exclusions.from_bytes(damaged, "ab", "here")
