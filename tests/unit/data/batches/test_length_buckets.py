"""Length bucketing: blocks hold every sample once, at its own positions, with little padding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.data.batches.length_buckets import Blocks, blocks_of, one_block

BATCHES = st.integers(0, 40).flatmap(
    lambda samples: st.lists(st.lists(st.integers(0, 150), min_size=samples, max_size=samples), min_size=1, max_size=3)
)


def occupied(blocks: Blocks, lengths: list[int]) -> list[int]:
    """Positions of all steps, including each sample's placeholder."""
    starts = blocks.start.tolist()
    return [start + step for start, length in zip(starts, lengths, strict=True) for step in range(length + 1)]


@given(BATCHES)
def test_every_step_has_a_place_of_its_own_in_its_samples_row(batch: list[list[int]]) -> None:
    found = blocks_of([np.array(lengths, np.int64) for lengths in batch])
    for blocks, lengths in zip(found, batch, strict=True):
        places = occupied(blocks, lengths)
        assert len(set(places)) == len(places)
        firsts = [0]
        for samples, width in blocks.shapes:
            firsts += [firsts[-1] + width * (n + 1) for n in range(samples)]
        assert sorted(blocks.start.tolist()) == firsts[:-1]
        ends = dict(pairwise(firsts))
        assert all(s + n < ends[s] for s, n in zip(blocks.start.tolist(), lengths, strict=True))


@given(BATCHES)
def test_all_modalities_have_the_same_samples_in_the_same_rows(batch: list[list[int]]) -> None:
    first, *others = blocks_of([np.array(lengths, np.int64) for lengths in batch])
    assert sorted(first.row.tolist()) == list(range(len(batch[0])))
    for other in others:
        assert torch.equal(other.row, first.row)
        assert [samples for samples, _ in other.shapes] == [samples for samples, _ in first.shapes]


def test_a_long_sample_does_not_lengthen_the_short_ones() -> None:
    (blocks,) = blocks_of([np.array([13] * 255 + [114])])
    assert blocks.shapes == ((255, 14), (1, 115))


def test_blocks_that_are_not_worth_a_call_are_not_made() -> None:
    (blocks,) = blocks_of([np.array([1, 2, 4, 8, 16, 20])])
    assert blocks.shapes == ((6, 21),)
    alike = one_block(6, 20)
    assert blocks.shapes == alike.shapes and torch.equal(blocks.start, alike.start)
