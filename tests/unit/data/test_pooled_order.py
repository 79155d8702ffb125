"""The order of a pool: passes, quotas, resumption, phases; and that one corpus is ordered as without a pool."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.data.pool_cursor import PoolCursor
from ivr_dist.data.pooled_order import PooledOrder
from ivr_dist.data.sample_order import EMPTY, EpochOrder, micro_slots, rank_slots
from ivr_dist.errors import CheckpointError, CheckpointMismatchError
from ivr_dist.planning.mixing_tree import MixingTree
from ivr_dist.planning.pool_plan import Phase, PooledCorpus
from ivr_dist.planning.quotas import largest_remainders, share_weights


def corpus(name: str, samples: int, lanes: int = 8, delay: int = 50, each: int = 64) -> PooledCorpus:
    shards = [each] * (samples // each) + ([samples % each] if samples % each else [])
    return PooledCorpus(
        name=name,
        manifest_id=f"id of {name}",
        shard_samples=np.array(shards, np.int64),
        lanes=min(lanes, samples),
        delay=delay,
    )


def pool(sizes: list[int], **layout: int) -> list[PooledCorpus]:
    return [corpus(f"corpus{number}", size, **layout) for number, size in enumerate(sizes)]


def quotas(corpora: list[PooledCorpus], alpha: float = 1.0) -> dict[str, int]:
    samples = {each.name: each.samples for each in corpora}
    return largest_remainders(sum(samples.values()), share_weights(samples, alpha))


def order_of(sizes: list[int], alpha: float = 1.0, batch: int = 64, seed: int = 7, **layout: int) -> PooledOrder:
    corpora = pool(sizes, **layout)
    return PooledOrder(corpora, [Phase(0, quotas(corpora, alpha))], seed, batch)


def check_passes(order: PooledOrder, first: int, last: int, sizes: dict[str, int]) -> None:
    """Every pass that ended between two steps held each sample once, and no pass held one twice."""
    seen: dict[tuple[str, int], list[int]] = {}
    for step in range(first, last):
        batch = order.batch(order.at(step))
        for number, sample, use in zip(batch.corpus, batch.numbers, batch.passes, strict=True):
            if sample != EMPTY:
                seen.setdefault((order.corpora[number], int(use)), []).append(int(sample))
    uses = order.uses(last)
    for (name, number), samples in seen.items():
        assert len(set(samples)) == len(samples), f"{name} pass {number} has a sample twice"
        if (number + 1) * sizes[name] <= uses[name] and number * sizes[name] >= order.uses(first)[name]:
            assert sorted(samples) == list(range(sizes[name])), f"{name} pass {number} is not whole"
    assert uses == {name: count + order.uses(first)[name] for name, count in _counted(seen, sizes).items()}


def _counted(seen: dict[tuple[str, int], list[int]], sizes: dict[str, int]) -> dict[str, int]:
    return {name: sum(len(samples) for (own, _), samples in seen.items() if own == name) for name in sizes}


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[int], float, int]:
    sizes = draw(st.lists(st.integers(1, 700), min_size=1, max_size=6))
    return sizes, draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])), draw(st.integers(1, 96))


@settings(max_examples=40, deadline=None)
@given(pools(), st.integers(1, 4))
def test_every_pass_of_every_corpus_holds_each_sample_once(case: tuple[list[int], float, int], epochs: int) -> None:
    sizes, alpha, batch = case
    order = order_of(sizes, alpha, batch)
    steps = order.phases[0].steps_per_epoch(batch)
    check_passes(order, 0, min(epochs * steps, 60), dict(zip(order.corpora, sizes, strict=True)))


@settings(max_examples=40, deadline=None)
@given(pools())
def test_quotas_are_met_in_every_epoch_and_only_its_last_step_has_empty_slots(
    case: tuple[list[int], float, int],
) -> None:
    sizes, alpha, batch = case
    order = order_of(sizes, alpha, batch)
    steps = order.phases[0].steps_per_epoch(batch)
    for epoch in range(2):
        used = {name: order.uses((epoch + 1) * steps)[name] - order.uses(epoch * steps)[name] for name in order.corpora}
        assert used == order.phases[0].quotas
    if steps > 1:
        assert (order.batch(order.at(steps - 2)).numbers != EMPTY).all()
    assert (order.batch(order.at(steps - 1)).numbers != EMPTY).sum() == order.phases[0].slots - (steps - 1) * batch


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50), st.data())
def test_a_corpus_is_never_two_slots_ahead_or_behind(quota_list: list[int], data: st.DataObject) -> None:
    tree = MixingTree({f"c{number}": quota for number, quota in enumerate(quota_list)})
    for n in data.draw(st.lists(st.integers(0, tree.total), min_size=1, max_size=20)):
        counts = tree.counts(n)
        assert sum(counts.values()) == n
        for name, quota in tree.quotas.items():
            assert abs(counts[name] * tree.total - n * quota) < 1.68 * tree.total
    assert tree.counts(tree.total) == tree.quotas
    assert tree.counts(0) == dict.fromkeys(tree.quotas, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=12).filter(any), st.data())
def test_counts_of_several_positions_are_those_of_each(quota_list: list[int], data: st.DataObject) -> None:
    """Also where products of two counts exceed 64 bits."""
    tree = MixingTree({f"corpus{number}": quota for number, quota in enumerate(quota_list)})
    n = data.draw(st.lists(st.integers(0, tree.total), min_size=1, max_size=5))
    found = tree.counts_at(np.array(n, np.int64))
    assert [{name: int(counts[k]) for name, counts in found.items()} for k in range(len(n))] == list(
        map(tree.counts, n)
    )


def test_a_step_from_nothing_equals_the_sequential_one() -> None:
    order = order_of([10_000, 3_000, 777], 0.5)
    steps = order.phases[0].steps_per_epoch(64)
    for step in (0, 1, steps - 1, steps, 2 * steps + 17, 5 * steps + 3):
        fresh, batch = order_of([10_000, 3_000, 777], 0.5), order.batch(order.at(step))
        again = fresh.batch(fresh.at(step))
        assert all(
            np.array_equal(getattr(batch, part), getattr(again, part)) for part in ("corpus", "numbers", "passes")
        )
    cursor = order.start
    for step in range(2 * steps):
        assert cursor == order.at(step) and order.step_of(cursor) == step
        cursor = order.advance(cursor)


def test_the_order_of_the_config_has_no_influence() -> None:
    corpora = pool([500, 90, 1300])
    phases = [Phase(0, quotas(corpora, 0.5))]
    one = PooledOrder(corpora, phases, 3, 48)
    other = PooledOrder(corpora[::-1], [Phase(0, dict(reversed(phases[0].quotas.items())))], 3, 48)
    for step in range(0, 60, 7):
        here, there = one.batch(one.at(step)), other.batch(other.at(step))
        assert np.array_equal(here.numbers, there.numbers)
        filled = here.numbers != EMPTY
        assert np.array_equal(here.corpus[filled], 2 - there.corpus[filled])


def test_one_corpus_is_ordered_as_without_a_pool() -> None:
    lanes, batch = 64, 64
    alone = corpus("a", 12_800, lanes=lanes, delay=100, each=50)
    order = PooledOrder([alone], [Phase(0, {"a": 12_800})], 7, batch)
    for epoch in (0, 3):
        single = EpochOrder(alone.shard_samples, alone.manifest_id, 7, epoch, lanes, batch, 100)
        for step in range(single.steps):
            pooled = order.batch(order.at(epoch * single.steps + step))
            assert np.array_equal(single.batch(step), pooled.numbers)
            assert (pooled.passes == epoch).all()


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (3, 2), (16, 4), (7, 1)])
def test_ranks_and_micro_steps_divide_the_slots(world: int, accumulation: int) -> None:
    slots = [
        slot
        for micro in range(accumulation)
        for rank in range(world)
        for slot in rank_slots(micro_slots(64, accumulation, micro), rank, world)
    ]
    assert slots == list(range(64))


def test_ranks_keep_to_their_lanes_where_all_corpora_have_one_quota() -> None:
    """Were all corpora at the same lane in one step, its uses would go to all ranks, and each rank read all lanes."""
    order, world = order_of([2000] * 40, lanes=12, delay=40), 8
    readers: dict[tuple[int, int], set[int]] = {}
    for step in range(600):
        batch = order.batch(order.at(step))
        for slot in range(64):
            segment = int(batch.corpus[slot]), int(batch.numbers[slot]) // 40
            readers.setdefault(segment, set()).add(slot * world // 64)
    assert np.mean([len(ranks) for ranks in readers.values()]) < 2


def test_passes_go_on_over_phases_that_begin_within_an_epoch() -> None:
    sizes = {"corpus0": 1000, "corpus1": 300, "corpus2": 77}
    corpora = pool(list(sizes.values()))
    phases = [Phase(0, quotas(corpora)), Phase(13, quotas(corpora, 0.3)), Phase(54, quotas(corpora, 0.5))]
    order = PooledOrder(corpora, phases, 7, 64)
    check_passes(order, 0, 154, sizes)
    assert [order.at(step).epoch for step in (0, 12, 13, 53, 54)] == [0, 0, 1, 2, 3]


def test_positions_beside_computed_batches_are_those_of_an_order_without_any() -> None:
    """Uses are kept with the newest batches, which may end with an epoch or with a phase."""
    corpora = pool([500, 90, 33])
    phases = [Phase(0, quotas(corpora)), Phase(13, quotas(corpora, 0.2)), Phase(40, quotas(corpora, 0.5))]
    used, fresh = PooledOrder(corpora, phases, 7, 48), PooledOrder(corpora, phases, 7, 48)
    for step in range(60):
        used.batch(used.at(step))
        for near in (0, step - 1, step, step + 1, step + 12, step + 30):
            if near >= 0:
                assert used.at(near) == fresh.at(near)


def test_another_mix_begins_a_phase_at_the_step_of_the_checkpoint() -> None:
    corpora, batch = pool([1000, 300, 77]), 64
    before = PooledOrder(corpora, [Phase(0, quotas(corpora))], 7, batch)
    after = PooledOrder(corpora, [Phase(0, quotas(corpora, 0.3))], 7, batch)
    with pytest.raises(CheckpointMismatchError, match=r"corpus0 has 1,000 samples an epoch in the checkpoint"):
        after.resumed(before.at(30), changes=False)
    order, cursor = after.resumed(before.at(30), changes=True)
    assert [(phase.first_step, phase.quotas) for phase in order.phases] == [
        (0, quotas(corpora)),
        (30, quotas(corpora, 0.3)),
    ]
    assert cursor.phase == 1 and cursor.step == 0 and order.uses(30) == before.uses(30)
    check_passes(order, 0, 120, {"corpus0": 1000, "corpus1": 300, "corpus2": 77})
    # A second stop and resumption with the same mix continues the phase, whether changes are allowed or not.
    for changes in (False, True):
        again, cursor = after.resumed(PoolCursor.from_json(order.at(50).to_json()), changes=changes)
        assert again.phases == order.phases and cursor == order.at(50)
    with pytest.raises(
        CheckpointMismatchError, match=r"corpus0 has \d+ samples an epoch in the checkpoint, 1,000 here"
    ):
        before.resumed(order.at(50), changes=False)
    back, _ = before.resumed(order.at(50), changes=True)
    assert [phase.first_step for phase in back.phases] == [0, 30, 50]


@given(st.lists(st.integers(40, 500), min_size=2, max_size=4), st.data())
@settings(max_examples=30, deadline=None)
def test_passes_are_whole_whatever_mix_lanes_and_delay_a_run_is_resumed_with(
    sizes: list[int], data: st.DataObject
) -> None:
    """Lanes and delay follow from the mix, so a run that is resumed with another one keeps its own."""
    order, step, last = order_of(sizes, batch=32, lanes=8), 0, 60
    for _ in range(data.draw(st.integers(1, 3))):
        step = data.draw(st.integers(step, last))
        alpha = data.draw(st.sampled_from([0, 0.3, 1]))
        lanes, delay = data.draw(st.sampled_from([1, 3, 40])), data.draw(st.sampled_from([0, 9, 70]))
        cursor = PoolCursor.from_json(order.at(step).to_json())
        order, position = order_of(sizes, alpha, batch=32, lanes=lanes, delay=delay).resumed(cursor, changes=True)
        assert position.corpora == cursor.corpora, "uses, lanes and delays"
    check_passes(order, 0, last, {f"corpus{number}": size for number, size in enumerate(sizes)})


def test_a_run_that_goes_on_with_the_passes_of_another_begins_at_its_uses() -> None:
    corpora = pool([200, 90])
    first = PooledOrder(corpora, [Phase(0, quotas(corpora))], 7, 32)
    uses = first.uses(5)
    grown = [replace(each, first_use=uses[each.name]) for each in corpora] + [corpus("corpus2", 50)]
    second = PooledOrder(grown, [Phase(0, quotas(grown))], 7, 32)
    seen = [
        (int(number), int(use), int(sample))
        for order, steps in ((first, range(5)), (second, range(30)))
        for step in steps
        for batch in [order.batch(order.at(step))]
        for number, use, sample in zip(batch.corpus, batch.passes, batch.numbers, strict=True)
        if sample != EMPTY
    ]
    assert len(set(seen)) == len(seen)
    whole = {(number, use) for number, use, _ in seen if number == 0}
    assert sorted(sample for number, use, sample in seen if (number, use) == (0, 0)) == list(range(200)) and whole


def test_the_first_batches_of_a_pool_are_pinned() -> None:
    order = order_of([5000, 13, 400, 64, 901], 0.3, 48)
    digest = hashlib.sha256()
    for step in range(20):
        batch = order.batch(order.at(step))
        for part in (batch.corpus, batch.numbers, batch.passes):
            digest.update(part.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "059f51a1329fc6b6"


def test_the_cursor_survives_json_and_refuses_damage() -> None:
    order = order_of([500, 90], 0.5, 32)
    cursor = order.at(23)
    assert PoolCursor.from_json(cursor.to_json()) == cursor
    for damage in (
        lambda value: value.pop("step"),
        lambda value: value.update(step=10_000),
        lambda value: value.update(phase=1),
        lambda value: value["phases"][0].update(first_step=3),
        lambda value: value["phases"][0].update(quotas={"corpus0": -1, "corpus1": 5}),
        lambda value: value["corpora"]["corpus0"].pop("manifest_id"),
        lambda value: value["corpora"]["corpus0"].update(lanes=0),
        lambda value: value["corpora"]["corpus0"].update(lanes=501),
        lambda value: value.update(more=1),
        lambda value: value.update(version=3),
    ):
        value = cursor.to_json()
        damage(value)
        with pytest.raises(CheckpointError, match="damaged"):
            PoolCursor.from_json(value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 8}, "has seed 7, this run has 8"),
        ({"batch": 32}, "has global_batch 64, this run has 32"),
    ],
)
def test_another_order_is_refused_by_name(change: dict[str, int], text: str) -> None:
    with pytest.raises(CheckpointMismatchError, match=text):
        order_of([500, 90], **change).resumed(order_of([500, 90]).at(5), changes=True)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (order_of([500, 90], delay=9), "corpus0: the checkpoint's shuffle delay is 9, this run's 50"),
        (order_of([500, 90], lanes=4), "corpus0: the checkpoint's number of lanes is 4, this run's 8"),
        (order_of([500, 90], 0.5), "corpus0 has 414 samples an epoch in the checkpoint, 500 here"),
    ],
)
def test_a_position_of_another_mix_is_none_of_this_order(other: PooledOrder, text: str) -> None:
    with pytest.raises(CheckpointMismatchError, match=text):
        other.at(5).check_matches(order_of([500, 90]).start)


def test_other_corpora_are_refused_by_name() -> None:
    two, three = order_of([500, 90]), order_of([500, 90, 30])
    with pytest.raises(CheckpointMismatchError, match="the checkpoint knows no corpus corpus2"):
        three.resumed(two.at(3), changes=True)
    with pytest.raises(CheckpointMismatchError, match="was trained on corpus corpus2 too"):
        two.resumed(three.at(3), changes=True)
    replaced = PooledOrder(
        [replace(each, manifest_id="another") for each in pool([500, 90])], two.phases, 7, two.global_batch
    )
    with pytest.raises(CheckpointMismatchError, match="corpus0: the checkpoint's data has id id of corpus0"):
        replaced.resumed(two.at(3), changes=True)
