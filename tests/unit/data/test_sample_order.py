"""The sample order, compared with a naive implementation in Python integers, and its guarantees."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.config.lanes import default_delay, default_lanes
from ivr_dist.data.sample_order import EMPTY, EpochOrder, ShardTable, by_length, hash64, micro_slots, rank_slots
from ivr_dist.errors import ConfigError

WORD = (1 << 64) - 1


def splitmix_output(state: int) -> int:
    """One output of splitmix64 whose state was already advanced."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def fold(*words: int) -> int:
    state = 0
    for word in words:
        state = splitmix_output(((state ^ (word & WORD)) + 0x9E3779B97F4A7C15) & WORD)
    return state


def draw(stream: int, counter: int) -> int:
    return splitmix_output((stream + (counter + 1) * 0x9E3779B97F4A7C15) & WORD)


def naive_epoch(
    sizes: list[int], name: str, seed: int, epoch: int, lanes: int, batch: int, delay: int
) -> list[list[int]]:
    """All batches by sorting whole lanes, one Python integer at a time."""
    data_set = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    stream = fold(data_set, seed, epoch, 0)
    shards = sorted(range(len(sizes)), key=lambda shard: (draw(stream, shard), shard))
    line = [sum(sizes[:shard]) + i for shard in shards for i in range(sizes[shard])]
    outputs = []
    for lane in range(lanes):
        items = line[lane * len(line) // lanes : (lane + 1) * len(line) // lanes]
        stream = fold(data_set, seed, epoch, 1, lane)
        keys = [(i << 20) + (draw(stream, i) >> 44) * delay for i in range(len(items))]
        outputs.append([items[i] for i in sorted(range(len(items)), key=lambda i: (keys[i], i))])
    take = batch // lanes
    steps = -(-max(map(len, outputs)) // take)
    padded = [lane + [EMPTY] * (steps * take - len(lane)) for lane in outputs]
    return [[number for lane in padded for number in lane[k * take : (k + 1) * take]] for k in range(steps)]


@st.composite
def layouts(draw_: st.DrawFn, most_shards: int = 6, most_samples: int = 700) -> dict:
    """A corpus and an order over it; L divides G, all corners included."""
    sizes = draw_(st.lists(st.integers(0, most_samples), min_size=1, max_size=most_shards).filter(any))
    lanes = draw_(st.integers(1, 16))
    return {
        "sizes": sizes,
        "seed": draw_(st.integers(-(2**70), 2**70)),
        "epoch": draw_(st.integers(0, 1000)),
        "lanes": lanes,
        "batch": lanes * draw_(st.integers(1, 24)),
        "delay": draw_(st.sampled_from([0, 1, 2, 5, 37, 250, 5000])),
    }


def make(layout: dict, **changes: object) -> EpochOrder:
    case = {**layout, **changes}
    return EpochOrder(
        np.array(case["sizes"]), "ab", case["seed"], case["epoch"], case["lanes"], case["batch"], case["delay"]
    )


def every_batch(order: EpochOrder) -> np.ndarray:
    return np.stack([order.batch(step) for step in range(order.steps)])


@settings(max_examples=150)
@given(layouts())
def test_equals_the_naive_order(layout: dict) -> None:
    naive = naive_epoch(layout["sizes"], "ab", *(layout[key] for key in ("seed", "epoch", "lanes", "batch", "delay")))
    assert every_batch(make(layout)).tolist() == naive


@settings(max_examples=200)
@given(layouts())
def test_each_sample_exactly_once_and_holes_only_in_the_last_step(layout: dict) -> None:
    batches = every_batch(make(layout))
    assert batches.dtype == np.int64
    assert sorted(batches[batches != EMPTY].tolist()) == list(range(sum(layout["sizes"])))
    assert (batches[:-1] != EMPTY).all()
    assert (batches[-1] != EMPTY).any()


@settings(max_examples=150)
@given(layouts(), st.data())
def test_a_resumed_order_continues_the_sequential_one(layout: dict, data: st.DataObject) -> None:
    sequential = every_batch(make(layout))
    start = data.draw(st.integers(0, len(sequential) - 1))
    resumed = make(layout)
    for step in range(start, min(start + 4, len(sequential))):
        assert resumed.batch(step).tolist() == sequential[step].tolist()


@settings(max_examples=200)
@given(layouts(), st.integers(1, 24), st.integers(1, 9), st.data())
def test_ranks_and_micro_steps_partition_the_batch_in_slot_order(
    layout: dict, world: int, accumulation: int, data: st.DataObject
) -> None:
    order = make(layout)
    batch = order.batch(data.draw(st.integers(0, order.steps - 1)))
    micros = [micro_slots(len(batch), accumulation, micro) for micro in range(accumulation)]
    parts = [rank_slots(slots, rank, world) for slots in micros for rank in range(world)]
    assert [slot for part in parts for slot in part] == list(range(len(batch)))
    assert np.concatenate([batch[part.start : part.stop] for part in parts]).tolist() == batch.tolist()
    for slots in micros:
        lengths = [len(rank_slots(slots, rank, world)) for rank in range(world)]
        assert max(lengths) - min(lengths) <= 1


@settings(max_examples=100)
@given(layouts())
def test_no_sample_moves_as_far_as_the_delay(layout: dict) -> None:
    lanes, take = layout["lanes"], layout["batch"] // layout["lanes"]

    def lane_outputs(delay: int) -> list[np.ndarray]:
        batches = every_batch(make(layout, delay=delay)).reshape(-1, lanes, take).swapaxes(0, 1)
        return [lane[lane != EMPTY] for lane in batches.reshape(lanes, -1)]

    for still, moved in zip(lane_outputs(0), lane_outputs(layout["delay"]), strict=True):
        place = {number: i for i, number in enumerate(still.tolist())}
        shifts = [abs(place[number] - i) for i, number in enumerate(moved.tolist())]
        assert max(shifts, default=0) <= max(0, layout["delay"] - 1)


def test_delay_shuffles_well_inside_the_lane() -> None:
    order = EpochOrder(np.array([20_000]), "ab", 0, 0, 1, 100, 1000)
    outputs = every_batch(order).ravel()
    shifts = outputs - np.arange(20_000)
    assert 230 < abs(shifts[2000:-2000]).mean() < 270  # |u D - D / 2| with u uniform is D / 4 on average


@settings(max_examples=25)
@given(layouts())
def test_without_shuffling_batches_run_through_the_corpus(layout: dict) -> None:
    total, size = sum(layout["sizes"]), layout["batch"]
    order = EpochOrder(np.array(layout["sizes"]), "ab", 1, 2, layout["lanes"], size, layout["delay"], shuffle=False)
    flat = every_batch(order).ravel()
    assert flat.tolist() == list(range(total)) + [EMPTY] * (order.steps * size - total)
    assert order.steps == -(-total // size)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"name": "other"}, {"delay": 50}])
def test_seed_epoch_data_set_and_delay_enter_the_order(change: dict) -> None:
    def outputs(name: str = "ab", seed: int = 0, epoch: int = 0, delay: int = 20) -> list[int]:
        return every_batch(EpochOrder(np.full(20, 50), name, seed, epoch, 4, 20, delay)).ravel().tolist()

    first, second = outputs(), outputs(**change)
    assert sorted(first) == sorted(second)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 100  # 1000 samples, delays of about 20


@pytest.mark.parametrize("sizes", [[3], [0, 3, 0], [1, 1, 1]])
def test_corpora_smaller_than_the_lanes_and_the_batch(sizes: list[int]) -> None:
    batch = EpochOrder(np.array(sizes), "ab", 0, 0, 8, 64, 10).batch(0)
    assert len(batch) == 64
    assert sorted(batch[batch != EMPTY].tolist()) == [0, 1, 2]


def test_a_corpus_of_nothing_has_no_steps() -> None:
    assert EpochOrder(np.array([0, 0]), "ab", 0, 0, 2, 4, 10).steps == 0


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_epoch_is_refused(step: int) -> None:
    with pytest.raises(IndexError, match="epoch of 10 steps"):
        EpochOrder(np.array([100]), "ab", 0, 0, 2, 10, 5).batch(step)


@pytest.mark.parametrize(
    ("lanes", "batch", "delay", "message"),
    [
        (3, 64, 0, "data.lanes is 3, .*divide train.global_batch 64; leave data.lanes unset or set it to 64"),
        (0, 64, 0, "data.lanes is 0"),
        (1, 0, 0, "train.global_batch is 0"),
        (1, 64, -1, "data.shuffle_delay is -1"),
        (1, 64, 2**41, "data.shuffle_delay"),
    ],
)
def test_impossible_layouts_name_the_key(lanes: int, batch: int, delay: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EpochOrder(np.array([10]), "ab", 0, 0, lanes, batch, delay)


@given(
    shards=st.lists(st.integers(0, 700), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 0),
    lanes=st.sampled_from([1, 2, 4, 8]),
    per_lane=st.integers(1, 4),
    delay=st.integers(0, 60),
    worlds=st.lists(st.tuples(st.integers(1, 24), st.sampled_from([1, 2, 4])), min_size=1, max_size=4),
    data=st.data(),
)
@settings(max_examples=25)
def test_an_elastic_run_sees_the_batches_of_an_undisturbed_one(
    shards: list[int], lanes: int, per_lane: int, delay: int, worlds: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Resumed at random steps on other world sizes and accumulations, over two epochs: slot by slot the same."""
    batch = lanes * per_lane
    sizes = np.array(shards)

    def order(epoch: int) -> EpochOrder:
        return EpochOrder(sizes, "id", 5, epoch, lanes, batch, delay)

    steps = order(0).steps
    undisturbed = [order(epoch).batch(step) for epoch in range(2) for step in range(steps)]
    borders = sorted(data.draw(st.lists(st.integers(0, 2 * steps), min_size=len(worlds) - 1, max_size=len(worlds) - 1)))
    seen: list[list[int]] = [[], []]
    for (world, accumulation), first, last in zip(worlds, [0, *borders], [*borders, 2 * steps], strict=True):
        # A new group computes its own orders; each rank reads only its own slots.
        orders = {epoch: order(epoch) for epoch in range(2)}
        for number in range(first, last):
            epoch, step = divmod(number, steps)
            numbers = orders[epoch].batch(step)
            found = np.full(batch, -2)
            for rank in range(world):
                for micro in range(accumulation):
                    part = rank_slots(micro_slots(batch, accumulation, micro), rank, world)
                    assert (found[part.start : part.stop] == -2).all()
                    found[part.start : part.stop] = numbers[part.start : part.stop]
            assert found.tolist() == undisturbed[number].tolist()
            seen[epoch] += found[found != EMPTY].tolist()
    for epoch in range(2):
        assert sorted(seen[epoch]) == list(range(sum(shards)))


def test_the_default_delay_fits_into_memory() -> None:
    """CMU-MOSI moves freely; a corpus of any size stays within a GiB for a reader of all lanes."""
    assert default_delay(1281, 30_000_000, 64) == 1000
    assert default_delay(10, 0, 64) == 1000
    for samples, sample_bytes, lanes in [
        (10**6, 25_600, 64),
        (10**9, 1_000, 64),
        (10**6, 10**7, 8),
        (10**5, 10**8, 64),
    ]:
        delay = default_delay(samples, samples * sample_bytes, lanes)
        assert delay == 1000 or 2 * delay * sample_bytes * lanes < 1 << 30
    assert 250 <= default_delay(10**6, 10**6 * 25_600, 64) <= 350
    assert default_delay(10**5, 10**13, 64) == 0


@given(st.lists(st.tuples(st.integers(-1, 50), st.integers(0, 9)), min_size=1, max_size=40))
def test_a_batch_by_length_is_the_same_batch(slots: list[tuple[int, int]]) -> None:
    numbers, lengths = np.array(slots, np.int64).T
    ordered = by_length(numbers, lengths)
    assert sorted(ordered.tolist()) == sorted(numbers.tolist())
    full = int((numbers != EMPTY).sum())
    assert (ordered[:full] != EMPTY).all()
    expected = sorted((length, place, number) for place, (number, length) in enumerate(slots) if number != EMPTY)
    assert ordered[:full].tolist() == [number for _, _, number in expected]


def test_default_lanes() -> None:
    assert [default_lanes(n) for n in (1, 7, 60, 64, 96, 127, 128, 1000)] == [1, 7, 60, 64, 48, 1, 64, 50]


def test_locate_skips_empty_shards() -> None:
    table = ShardTable(np.array([0, 2, 0, 0, 3, 0]))
    shards, places = table.locate(np.arange(5))
    assert shards.tolist() == [1, 1, 4, 4, 4]
    assert places.tolist() == [0, 1, 0, 1, 2]
    assert table.total == 5


def test_a_billion_samples_need_no_array_of_them() -> None:
    order = EpochOrder(np.full(20_000, 50_000), "ab", 0, 0, 64, 1024, 100)
    assert order.steps == 976563
    assert order._chunk_outputs * 64 < 100_000
    batch = order.batch(800_000)
    assert len(np.unique(batch)) == 1024
    assert 0 <= batch.min() <= batch.max() < 10**9


def test_hash64_is_splitmix64() -> None:
    # First outputs of the reference generator with state 0: 16294208416658607535, 7960286522194355700.
    assert hash64(0).tolist() == [16294208416658607535]
    words = [random.Random(n).randrange(-(2**63), 2**63) for n in range(5)]
    assert hash64(*words).tolist() == [fold(*words)]
    assert hash64(3, np.arange(4)).tolist() == [fold(3, i) for i in range(4)]


GOLDEN = [
    (([5, 0, 17, 1], "a" * 64, 0, 0, 4, 8, 3), "866794bb783434f1"),
    (([700, 699, 1, 350], "manifest", 1234, 5, 16, 64, 100), "0126f1f2bbbfc7e7"),
    (([1000] * 50, "manifest", -1, 1, 64, 256, 1000), "9c3a7a240f36492a"),
    (([123_457], "b", 2**63, 0, 1, 96, 0), "55c7c7ef9f98c9b9"),
]


@pytest.mark.parametrize(("arguments", "expected"), GOLDEN)
def test_golden_orders(arguments: tuple, expected: str) -> None:
    """The order is a file format: checkpoints of older versions must resume exactly where they stopped."""
    sizes, *rest = arguments
    outputs = every_batch(EpochOrder(np.array(sizes), *rest)).astype("<i8").tobytes()
    assert hashlib.sha256(outputs).hexdigest()[:16] == expected
