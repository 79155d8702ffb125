"""Loader of a pool: each rank reads its slots of every global batch, and samples reach the batch of their step."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ivr_dist.config.loading import load_config
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.pool_spec import PoolSpec, pool_spec
from ivr_dist.data.pooled_loader import PooledLoader
from ivr_dist.data.pooled_order import PooledOrder
from ivr_dist.data.reading.pool_reader import PoolReader
from ivr_dist.errors import CorruptDataError
from ivr_dist.orchestration.preflight import resolved
from ivr_dist.planning.pool_layout import pool_layout
from ivr_dist.planning.pool_plan import make_pool_plan
from ivr_dist.shards.manifest import Manifest
from tests.pools import SIZES, pack_pool, pool_run

NAMES = list(SIZES)
STEPS = 25
"""More than two epochs."""


class Pool:
    """The test pool, packed below a folder."""

    def __init__(self, folder: str) -> None:
        config = resolved(load_config(None, pool_run(folder, Path("unused"))))
        self.urls = {name: f"{folder}/{name}/train" for name in NAMES}
        self.trains = {name: Manifest.load(url) for name, url in self.urls.items()}
        layout = pool_layout(config, {f"{name}/train": train for name, train in self.trains.items()}, None)
        self.spec: PoolSpec = pool_spec(layout, self.trains, ["audio", "vision"])
        plan = make_pool_plan(config, self.trains)
        self.order = PooledOrder(plan.corpora, plan.phases, 0, plan.global_batch)

    def steps(self, first: int = 0, **options: object) -> Iterator[list[Batch]]:
        """Micro-batches of steps from one on."""
        splits = {number: (self.urls[name], self.trains[name]) for number, name in enumerate(NAMES)}
        with PooledLoader(PoolReader(splits, 1 << 24), self.spec, self.order, **options) as loader:  # type: ignore[arg-type]
            steps = loader.steps(self.order.at(first))
            for _ in range(first, STEPS):
                yield next(steps).micro_batches


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = str(tmp_path_factory.mktemp("pool"))
    pack_pool(folder)
    return Pool(folder)


def rows_of(batches: list[Batch]) -> dict[int, tuple[object, ...]]:
    """By slot: the sample, and its labels and lengths."""
    found = {}
    for batch in batches:
        lengths = {name: part.mask.sum(dim=1).tolist() for name, part in batch.modalities.items()}
        for place, slot in enumerate(batch.slots.tolist()):
            labels = {
                head: (values[place].item(), batch.label_mask[head][place].item())
                for head, values in batch.labels.items()
            }
            own = {name: length[place] for name, length in lengths.items()}
            found[slot] = (batch.keys[place], batch.corpus[place].item(), batch.positions[place].item(), labels, own)
    return found


def test_every_step_has_the_samples_of_the_order_at_their_slots(pool: Pool) -> None:
    cursor = pool.order.start
    for batches in pool.steps():
        planned = pool.order.batch(cursor)
        filled = np.flatnonzero(planned.numbers >= 0)
        (batch,) = batches
        assert batch.slots.tolist() == filled.tolist()
        assert batch.corpus.tolist() == planned.corpus[filled].tolist()
        assert batch.positions.tolist() == planned.numbers[filled].tolist()
        cursor = pool.order.advance(cursor)


@pytest.mark.parametrize("by_length", [False, True])
def test_global_batches_depend_neither_on_world_size_nor_on_accumulation(pool: Pool, by_length: bool) -> None:
    whole = [rows_of(batches) for batches in pool.steps(by_length=by_length)]
    for world, accumulation in [(3, 1), (2, 2), (5, 3)]:
        ranks = [
            list(pool.steps(rank=rank, world=world, accumulation=accumulation, by_length=by_length))
            for rank in range(world)
        ]
        for step, expected in enumerate(whole):
            found: dict[int, tuple[object, ...]] = {}
            for own in ranks:
                assert len(own[step]) == accumulation
                found |= rows_of(own[step])
            assert found == expected


def test_a_loader_that_begins_in_the_middle_goes_on_with_the_same_batches(pool: Pool) -> None:
    whole = list(pool.steps())
    for first in (1, 7, 19):
        for resumed, batches in zip(pool.steps(first), whole[first:], strict=True):
            for one, other in zip(resumed, batches, strict=True):
                assert one.keys == other.keys
                for modality, part in one.modalities.items():
                    assert torch.equal(part.features, other.modalities[modality].features)


def test_a_damaged_sample_of_one_corpus_leaves_its_slots_empty_and_no_others(tmp_path: Path) -> None:
    pack_pool(str(tmp_path))
    damaged = Pool(str(tmp_path))
    whole = [rows_of(batches) for batches in damaged.steps()]
    shard = next(Path(damaged.urls["calls"]).glob("*.tar"))
    with tarfile.open(shard) as tar:
        place = next(member.offset_data for member in tar if member.size)
    with shard.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff\xfe\xfd\xfc")
    with pytest.raises(CorruptDataError):
        list(damaged.steps())
    number = NAMES.index("calls")
    for batches, expected in zip(damaged.steps(skip=True), whole, strict=True):
        found = rows_of(batches)
        assert {slot for slot in expected.keys() - found.keys() if expected[slot][1] != number} == set()
        # Lengths of the rest are the same; so are samples and labels.
        assert found == {slot: row for slot, row in expected.items() if slot in found}


def test_statistics_of_one_corpus_change_no_step_of_another(pool: Pool) -> None:
    heavier = replace(pool.spec, statistics={**pool.spec.statistics, "talks": {}})
    other = object.__new__(Pool)
    other.__dict__ = {**pool.__dict__, "spec": heavier}
    talks = NAMES.index("talks")
    for batches, changed in zip(pool.steps(), other.steps(), strict=True):
        (one,), (two,) = batches, changed
        part, same = one.modalities["vision"], two.modalities["vision"]
        assert part.sets.keys() == same.sets.keys()
        owners = one.corpus[part.sample]
        assert (owners == talks).any()
        before, after = flat_of(part), flat_of(same)
        assert torch.equal(before[owners != talks], after[owners != talks])
        assert not torch.equal(before[owners == talks], after[owners == talks])


def flat_of(part: object) -> torch.Tensor:
    """[N, widest] valid steps in slot order, widened with zeros."""
    sets = [steps.features for steps in part.sets.values()]  # type: ignore[attr-defined]
    widest = max(steps.shape[1] for steps in sets)
    joined = torch.cat([torch.nn.functional.pad(steps, (0, widest - steps.shape[1])) for steps in sets])
    return joined[part.order]  # type: ignore[attr-defined]
