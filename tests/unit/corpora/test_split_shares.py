"""Splits by shares: whole groups, close to the shares, whatever the order of the samples."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.corpora.source import SampleRef
from ivr_dist.corpora.split_shares import assign, split_by_shares
from ivr_dist.errors import DataError

SHARES = st.dictionaries(st.sampled_from(["train", "valid", "test"]), st.integers(1, 99), min_size=1)
SIZES = st.dictionaries(st.text(max_size=4), st.integers(1, 20), min_size=3, max_size=40)
SEEDS = st.integers(0, 2**64 - 1)


@given(SIZES, SHARES, SEEDS)
def test_shares_are_met_within_the_largest_group(sizes: dict[str, int], shares: dict[str, int], seed: int) -> None:
    split_of = assign(sizes, shares, seed)
    counts = Counter[str]()
    for group, split in split_of.items():
        counts[split] += sizes[group]
    assert set(split_of) == set(sizes)
    assert set(counts) == set(shares), "a split is empty"
    largest = max(sizes.values())
    for split, share in shares.items():
        target = sum(sizes.values()) * share / sum(shares.values())
        assert counts[split] - target < largest + 1e-9
        assert target - counts[split] < largest * len(shares) + 1e-9


@given(SIZES, SHARES, SEEDS, st.randoms(use_true_random=False))
def test_neither_the_order_of_the_rows_nor_of_the_shares_matters(
    sizes: dict[str, int], shares: dict[str, int], seed: int, shuffle: random.Random
) -> None:
    refs = [
        SampleRef(0, f"{group}/{number}", group if group else None)
        for group, size in sizes.items()
        for number in range(size)
    ]
    first = split_by_shares(refs, shares, seed, "corpus films")
    shuffle.shuffle(refs)
    again = split_by_shares(refs, dict(reversed(shares.items())), seed, "corpus films")
    assert {split: sorted(ref.id for ref in part) for split, part in first.items()} == {
        split: sorted(ref.id for ref in part) for split, part in again.items()
    }
    groups = {split: {ref.group for ref in part if ref.group} for split, part in first.items()}
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())), "a group is in two splits"


def test_another_seed_makes_other_splits() -> None:
    sizes, shares = dict.fromkeys(map(str, range(60)), 2), {"train": 70, "valid": 10, "test": 20}
    one, other = assign(sizes, shares, 0), assign(sizes, shares, 1)
    assert one != other and Counter(one.values()) == Counter(other.values()) == {"train": 42, "valid": 6, "test": 12}


def test_a_few_groups_are_pinned() -> None:
    assert assign({"a": 3, "b": 1, "c": 2, "d": 2}, {"train": 3, "test": 1}, 7) == {
        "c": "train",
        "b": "train",
        "a": "train",
        "d": "test",
    }


def test_fewer_groups_than_splits_are_refused() -> None:
    refs = [SampleRef(n, str(n), "video") for n in range(5)]
    with pytest.raises(DataError, match=r"1 groups cannot fill 2 splits \(corpus films\); leave splits or the group"):
        split_by_shares(refs, {"train": 1, "test": 1}, 0, "corpus films")
