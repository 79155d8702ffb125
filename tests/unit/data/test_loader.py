"""The loader: every rank reads its part of the order from any cursor; neither errors nor closing cause a deadlock."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from ivr_dist.config.lanes import default_lanes
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.exclusions import Exclusions
from ivr_dist.data.loader import Loader, StepBatches
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.sample_order import EMPTY, EpochOrder
from ivr_dist.errors import CheckpointMismatchError, ConfigError, CorruptDataError, DataError
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.packing.shard_writer import shuffled
from ivr_dist.shards.manifest import Manifest
from tests.repository import ROOT

SOURCE = SynthSource(150, missing=0.2)
IDS = [ref.id for ref in shuffled(SOURCE.splits()["train"], 0)]
GLOBAL_BATCH, DELAY, SEED = 16, 20, 3
LANES = default_lanes(GLOBAL_BATCH)
STEPS = -(-len(IDS) // GLOBAL_BATCH)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """105 training samples in shards of 13; not to be changed."""
    place = tmp_path_factory.mktemp("packed")
    pack(SOURCE, str(place), PackOptions(shard_samples=13))
    return place / "train"


@pytest.fixture
def loaders(packed: Path) -> Iterator[LoaderFactory]:
    """Makes loaders and closes them; no thread may remain."""
    factory = LoaderFactory(packed)
    yield factory
    factory.close()
    assert not loader_threads()


class LoaderFactory:
    def __init__(self, place: Path) -> None:
        self.place = place
        self._made: list[Loader] = []

    def __call__(self, place: Path | None = None, **options: object) -> Loader:
        url = str(place or self.place)
        manifest = Manifest.load(url)
        common = bool(options.pop("common_length", False))
        spec = BatchSpec.from_manifest(manifest, ["text", "audio", "vision"], ["audio", "vision"], common_length=common)
        order = {"global_batch": GLOBAL_BATCH, "lanes": LANES, "delay": DELAY, "seed": SEED}
        loader = Loader(ShardReader(url, manifest, 1 << 24), spec, **{**order, **options})
        self._made.append(loader)
        return loader

    def expected(self, epoch: int, step: int) -> dict[int, tuple[int, str]]:
        """Sample number and id by slot, straight from the order."""
        name = Manifest.load(str(self.place)).id
        order = EpochOrder(np.array([13] * 8 + [1]), name, SEED, epoch, LANES, GLOBAL_BATCH, DELAY)
        return {slot: (n, IDS[n]) for slot, n in enumerate(order.batch(step).tolist()) if n != EMPTY}

    def close(self) -> None:
        for loader in self._made:
            loader.close()


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ivr-loader"]


def slots_of(batches: list[Batch]) -> dict[int, tuple[int, str]]:
    """Sample number and id by slot; a slot that comes twice is an error."""
    found: dict[int, tuple[int, str]] = {}
    for batch in batches:
        for slot, number, key in zip(batch.slots.tolist(), batch.positions.tolist(), batch.keys, strict=True):
            assert slot not in found
            found[slot] = (number, key)
    return found


def same_tensors(a: Batch, b: Batch) -> bool:
    pairs = [(a.slots, b.slots), (a.positions, b.positions)]
    for name, part in a.modalities.items():
        other = b.modalities[name]
        pairs += [(getattr(part, field), getattr(other, field)) for field in ("features", "mask", "flat", "pairs")]
    pairs += [(a.labels[task], b.labels[task]) for task in a.labels]
    return a.keys == b.keys and all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (3, 2), (5, 4), (24, 1), (24, 8)])
def test_the_ranks_together_read_the_order(loaders: LoaderFactory, world: int, accumulation: int) -> None:
    ranks = [loaders(rank=rank, world=world, accumulation=accumulation) for rank in range(world)]
    streams = [loader.steps(loader.start) for loader in ranks]
    for number in range(STEPS + 2):
        epoch, step = divmod(number, STEPS)
        parts = [next(stream) for stream in streams]
        assert {(part.epoch, part.cursor.epoch, part.cursor.step) for part in parts} == {(epoch, epoch, step)}
        assert {len(part.micro_batches) for part in parts} == {accumulation}
        in_slot_order = [part.micro_batches[micro] for micro in range(accumulation) for part in parts]
        found = slots_of(in_slot_order)
        assert list(found.items()) == list(loaders.expected(epoch, step).items())


def test_an_epoch_holds_every_sample_once_and_the_next_one_another_order(loaders: LoaderFactory) -> None:
    loader = loaders()
    keys = [key for part in islice(loader.steps(loader.start), 2 * STEPS) for b in part.micro_batches for key in b.keys]
    first, second = keys[: len(IDS)], keys[len(IDS) :]
    assert sorted(first) == sorted(second) == sorted(IDS)
    assert first != second


def test_content_is_the_corpus(loaders: LoaderFactory) -> None:
    loader = loaders()
    batch = next(loader.steps(loader.start)).micro_batches[0]
    for row, key in enumerate(batch.keys):
        expected = SOURCE.load("train", next(ref for ref in SOURCE.splits()["train"] if ref.id == key))
        assert batch.labels["sentiment"][row] == np.float32(expected.labels["sentiment"])
        text = batch.modalities["text"]
        features = expected.arrays.get("text", np.zeros((0, 32), np.float32))
        np.testing.assert_array_equal(text.features[row][text.mask[row]], features)


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (3, 2), (24, 1)])
def test_the_common_length_is_that_of_the_global_batch(loaders: LoaderFactory, world: int, accumulation: int) -> None:
    """On the rank with the longest sample, on other ranks, and on ranks without samples."""
    lengths = {
        number: max((len(array) for array in SOURCE.load("train", ref).arrays.values()), default=1)
        for number, ref in enumerate(shuffled(SOURCE.splits()["train"], 0))
    }
    options = {"world": world, "accumulation": accumulation, "common_length": True}
    ranks = [loaders(rank=rank, **options) for rank in range(world)]
    found = []
    for parts in islice(zip(*(loader.steps(loader.start) for loader in ranks), strict=True), STEPS):
        batches = [batch for part in parts for batch in part.micro_batches]
        numbers = [number for number, _ in slots_of(batches).values()]
        shapes = {part.mask.shape[1] for batch in batches for part in batch.modalities.values()}
        assert shapes == {max(lengths[number] for number in numbers)}
        found.append(shapes.pop())
    assert len(set(found)) > 1, "all batches are alike, so nothing was shown"
    widths = {part.mask.shape[1] for batch in ranks[0].eval_batches() for part in batch.modalities.values()}
    assert max(widths) == max(lengths.values())


@pytest.mark.parametrize("skipped", [1, STEPS - 1, STEPS, STEPS + 3])
def test_a_resumed_loader_continues_exactly_there(loaders: LoaderFactory, skipped: int) -> None:
    loader = loaders(accumulation=2)
    before, *after = islice(loader.steps(loader.start), skipped - 1, skipped + 3)
    saved = DataCursor.from_json(before.cursor.advance(STEPS).to_json())
    for old, new in zip(after, loaders(accumulation=2).steps(saved), strict=False):
        assert old.cursor == new.cursor
        assert all(same_tensors(a, b) for a, b in zip(old.micro_batches, new.micro_batches, strict=True))


def test_resuming_on_another_world_size(loaders: LoaderFactory) -> None:
    cursor = replace(loaders().start, epoch=2, step=4)
    streams = [loaders(rank=rank, world=3).steps(cursor) for rank in range(3)]
    batches = [batch for stream in streams for batch in next(stream).micro_batches]
    assert slots_of(batches) == loaders.expected(2, 4)


def test_the_last_step_is_short_and_its_slots_keep_their_numbers(loaders: LoaderFactory) -> None:
    loader = loaders()
    last = next(loader.steps(replace(loader.start, step=STEPS - 1))).micro_batches[0]
    assert len(last) == len(IDS) % GLOBAL_BATCH
    assert slots_of([last]) == loaders.expected(0, STEPS - 1)


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (3, 2), (24, 1)])
def test_evaluation_reads_each_sample_once_and_equally_many_batches(
    loaders: LoaderFactory, world: int, accumulation: int
) -> None:
    parts = [list(loaders(rank=rank, world=world, accumulation=accumulation).eval_batches()) for rank in range(world)]
    assert {len(part) for part in parts} == {STEPS * accumulation}
    read = [
        (n, k) for part in parts for batch in part for n, k in zip(batch.positions.tolist(), batch.keys, strict=True)
    ]
    assert sorted(read) == list(enumerate(IDS))
    if world > GLOBAL_BATCH:
        assert any(len(batch) == 0 for part in parts for batch in part)


def test_unshuffled_training_runs_through_the_corpus(loaders: LoaderFactory) -> None:
    loader = loaders(shuffle=False)
    steps = islice(loader.steps(loader.start), STEPS)
    assert [n for part in steps for n in part.micro_batches[0].positions.tolist()] == list(range(len(IDS)))


def test_evaluating_twice(loaders: LoaderFactory) -> None:
    loader = loaders()
    first, second = list(loader.eval_batches()), list(loader.eval_batches())
    assert all(same_tensors(a, b) for a, b in zip(first, second, strict=True))


def test_no_more_than_prefetch_steps_are_kept(loaders: LoaderFactory) -> None:
    loader = loaders(prefetch=2)
    steps = loader.steps(loader.start)
    next(steps)
    assert loader._stream._stream is not None
    waiting = loader._stream._stream._buffer._items
    deadline = time.monotonic() + 20
    while waiting.qsize() < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert waiting.qsize() == 2


def test_a_waiting_consumer_learns_how_long(loaders: LoaderFactory) -> None:
    loader = loaders()
    first, *_ = islice(loader.steps(loader.start), 1)
    assert 0 < first.wait_s < 60


def damage_last_shard(packed: Path, place: Path) -> Path:
    shutil.copytree(packed, place)
    shard = Manifest.load(str(place)).shards[-2]
    content = bytearray((place / shard.name).read_bytes())
    content[600] ^= 1
    (place / shard.name).write_bytes(content)
    return place


def test_an_error_of_the_thread_reaches_the_consumer_after_the_steps_before_it(
    loaders: LoaderFactory, packed: Path, tmp_path: Path
) -> None:
    loader = loaders(damage_last_shard(packed, tmp_path / "train"), shuffle=False)
    good: list[StepBatches] = []
    with pytest.raises(CorruptDataError, match=r"samples .* do not match their checksum .*tar\); copy"):
        for step in loader.steps(loader.start):
            good.append(step)
    assert len(good) == 13 * 7 // GLOBAL_BATCH
    with pytest.raises(CorruptDataError):
        list(loader.eval_batches())


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 2), (3, 1)])
def test_samples_that_cannot_be_read_are_skipped_with_skip(
    loaders: LoaderFactory, packed: Path, tmp_path: Path, world: int, accumulation: int
) -> None:
    """The slots of all other samples do not change."""
    place = damage_last_shard(packed, tmp_path / "train")
    found: dict[int, tuple[int, str]] = {}
    skipped: dict[str, str] = {}
    for rank in range(world):
        loader = loaders(place, rank=rank, world=world, accumulation=accumulation, skip=True)
        for number, step in enumerate(islice(loader.steps(loader.start), STEPS)):
            assert len(step.micro_batches) == accumulation
            skipped |= {each.name: each.reason for each in step.skipped}
            for slot, sample in slots_of(step.micro_batches).items():
                found[number * GLOBAL_BATCH + slot] = sample
    expected = {
        number * GLOBAL_BATCH + slot: sample
        for number in range(STEPS)
        for slot, sample in loaders.expected(0, number).items()
    }
    assert sorted(skipped) == sorted(IDS[13 * 7 : 13 * 8])
    assert found == {slot: sample for slot, sample in expected.items() if sample[1] not in skipped}
    assert all("do not match their checksum" in why for why in skipped.values())
    with pytest.raises(CorruptDataError):
        list(loaders(place, skip=True).eval_batches())


@pytest.mark.parametrize(("world", "accumulation", "by_length"), [(1, 1, False), (3, 2, False), (2, 1, True)])
def test_samples_that_are_left_out_leave_their_slots_empty(
    loaders: LoaderFactory, packed: Path, world: int, accumulation: int, by_length: bool
) -> None:
    """The slots of all other samples do not change; names are told by the rank that has the slot, nothing is read."""
    manifest = Manifest.load(str(packed))
    listed = Exclusions.of([0, 5, 6, 40, 104, *range(52, 65)], manifest.id)
    left_out = {IDS[number] for number in listed.numbers.tolist()}
    ranks = [
        loaders(rank=rank, world=world, accumulation=accumulation, by_length=by_length, excluded=listed)
        for rank in range(world)
    ]
    plain = loaders(by_length=by_length)
    streams = [loader.steps(loader.start) for loader in ranks]
    named: list[str] = []
    for whole in islice(plain.steps(plain.start), STEPS):
        parts = [next(stream) for stream in streams]
        assert all(part.cursor == replace(whole.cursor, excluded=listed.digest) for part in parts)
        found = slots_of([batch for part in parts for batch in part.micro_batches])
        everything = slots_of(whole.micro_batches)
        assert found == {slot: sample for slot, sample in everything.items() if sample[1] not in left_out}
        step_names = [each.name for part in parts for each in part.excluded]
        assert sorted(step_names) == sorted(key for _, key in everything.values() if key in left_out)
        names = [name for loader in ranks for name in loader.names(parts[0].cursor)]
        assert sorted(names) == sorted(key for _, key in found.values())
        named += step_names
    assert sorted(named) == sorted(left_out)
    scored = [key for loader in ranks for batch in loader.eval_batches() for key in batch.keys]
    assert sorted(scored) == sorted({*IDS} - left_out)
    with pytest.raises(CheckpointMismatchError, match=r"leaves out none, this run 18 samples \(list \w{12}\)"):
        ranks[0].steps(plain.start)


def test_every_meter_is_documented(loaders: LoaderFactory) -> None:
    loader = loaders()
    next(iter(loader.steps(loader.start)))
    found = loader.meters()
    assert found["requests"] > 0 and found["bytes"] > 0 and found["resident_bytes"] > 0
    documented = (ROOT / "docs" / "running.md").read_text()
    assert [name for name in found if f"`reader/{name}`" not in documented] == []


def test_a_missing_shard_is_never_skipped(loaders: LoaderFactory, packed: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(packed, tmp_path / "train"))
    (place / Manifest.load(str(place)).shards[0].name).unlink()
    loader = loaders(place, skip=True)
    with pytest.raises(DataError, match="shard file is missing"):
        list(islice(loader.steps(loader.start), STEPS))


@pytest.mark.parametrize(("world", "accumulation"), [(1, 2), (3, 1)])
def test_slots_by_length(loaders: LoaderFactory, world: int, accumulation: int) -> None:
    """The same samples in every global batch, shortest first, whatever the world size."""
    ranks = [
        loaders(rank=rank, world=world, accumulation=accumulation, by_length=True, lanes=4) for rank in range(world)
    ]
    plain = loaders(lanes=4)
    streams = [loader.steps(loader.start) for loader in ranks]
    padding, plain_padding = 0, 0
    for whole in islice(plain.steps(plain.start), STEPS):
        parts = [next(stream) for stream in streams]
        batches = [batch for part in parts for batch in part.micro_batches]
        found = slots_of(batches)
        assert {sample for _, sample in found.items()} == set(slots_of(whole.micro_batches).values())
        longest = {
            key: max(int(part.mask[row].sum()) for part in batch.modalities.values())
            for batch in batches
            for row, key in enumerate(batch.keys)
        }
        lengths = [longest[key] for _, (_, key) in sorted(found.items())]
        assert lengths == sorted(lengths)
        assert sorted(found) == list(range(len(found)))
        padding += sum(batch.modalities["text"].mask.numel() for batch in batches)
        plain_padding += sum(batch.modalities["text"].mask.numel() for batch in whole.micro_batches)
    assert padding < plain_padding


def test_a_missing_shard_reaches_the_consumer(loaders: LoaderFactory, packed: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(packed, tmp_path / "train"))
    (place / Manifest.load(str(place)).shards[0].name).unlink()
    loader = loaders(place)
    with pytest.raises(DataError, match="shard file is missing"):
        list(islice(loader.steps(loader.start), STEPS))


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_ends_the_thread_at_once(loaders: LoaderFactory, taken: int) -> None:
    loader = loaders(prefetch=1)
    steps = loader.steps(loader.start)
    for _ in range(taken):
        next(steps)
    started = time.monotonic()
    loader.close()
    loader.close()
    assert time.monotonic() - started < 3
    assert not loader_threads()
    with pytest.raises(RuntimeError, match="closed"):
        next(steps)


def test_closing_after_the_consumer_raised(loaders: LoaderFactory) -> None:
    loader = loaders(prefetch=1)
    with pytest.raises(ZeroDivisionError), loader:
        for step in loader.steps(loader.start):
            step.cursor.step // 0
    assert not loader_threads()


def test_an_abandoned_iterator_ends_its_thread(loaders: LoaderFactory) -> None:
    batches = loaders(prefetch=1).eval_batches()
    next(batches)
    del batches
    assert not loader_threads()


def test_a_new_stream_ends_the_one_before(loaders: LoaderFactory) -> None:
    loader = loaders()
    old = loader.steps(loader.start)
    next(old)
    new = loader.steps(loader.start)
    assert len(loader_threads()) == 1
    with pytest.raises(RuntimeError, match="closed"):
        list(islice(old, 10))
    assert next(new).cursor == loader.start


def test_a_process_that_forgets_to_close_still_ends(packed: Path) -> None:
    script = """
import sys
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.loader import Loader
from ivr_dist.shards.manifest import Manifest
from ivr_dist.data.reading.shard_reader import ShardReader

manifest = Manifest.load(sys.argv[1])
spec = BatchSpec.from_manifest(manifest, ["text"], [])
reader = ShardReader(sys.argv[1], manifest, 0)
loader = Loader(reader, spec, global_batch=8, lanes=8, delay=5, seed=0, prefetch=1000)
steps = loader.steps(loader.start)
next(steps)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", script, str(packed)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_cursor_of_another_order_is_refused(loaders: LoaderFactory) -> None:
    loader = loaders()
    with pytest.raises(CheckpointMismatchError, match="seed 4, this run has 3"):
        loader.steps(replace(loader.start, seed=4))
    assert not loader_threads()


def test_impossible_settings_are_refused(loaders: LoaderFactory) -> None:
    with pytest.raises(ConfigError, match=r"data\.prefetch is 0"):
        loaders(prefetch=0)
    with pytest.raises(ConfigError, match=r"data\.lanes is 5"):
        loaders(lanes=5)


def test_a_split_that_does_not_fit_training_is_refused(packed: Path, tmp_path: Path) -> None:
    pack(SynthSource(20, dims={"text": 5}), str(tmp_path))
    spec = BatchSpec.from_manifest(Manifest.load(str(packed)), ["text"], [])
    reader = ShardReader(str(tmp_path / "valid"), Manifest.load(str(tmp_path / "valid")), 0)
    with pytest.raises(DataError, match="text features of width 5 where training has text features of width 32"):
        Loader(reader, spec, global_batch=4, lanes=4, delay=0, seed=0)
    reader.close()
