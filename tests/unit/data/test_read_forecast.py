"""The read forecast of `plan`, compared with real reading."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ivr_dist.config.loading import load_config
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.loader import Loader
from ivr_dist.data.read_forecast import Forecast, forecasts
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.sample_order import EpochOrder
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.planning.plan import make_plan
from ivr_dist.shards.manifest import Manifest

BATCH, LANES, DELAY, CACHE = 32, 8, 5, 3 << 20


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of several segments each."""
    place = tmp_path_factory.mktemp("packed")
    pack(SynthSource(700, dims={"text": 300, "audio": 74}), str(place), PackOptions(shard_bytes=3 << 19))
    return str(place / "train")


def made(packed: str, worlds: list[int], *overrides: str) -> list[Forecast]:
    config = load_config(
        None,
        [
            f"data.train={packed}",
            "train.select=last",
            f"train.global_batch={BATCH}",
            "loss.consistency.group=8",
            f"data.lanes={LANES}",
            f"data.shuffle_delay={DELAY}",
            f"data.cache_bytes={CACHE}B",
            *overrides,
        ],
    )
    manifest = Manifest.load(packed)
    plans = [make_plan(config, manifest.samples, world, manifest.total_bytes) for world in worlds]
    return forecasts(config, {"train": manifest}, plans)


def test_the_same_batches_on_every_world_size(packed: str) -> None:
    found = made(packed, [1, 2, 3, 8])
    assert len({each.order_hash for each in found}) == 1
    assert made(packed, [1], "run.seed=1")[0].order_hash != found[0].order_hash
    assert found[0].rank_bytes[0] > found[1].rank_bytes[1] > found[3].rank_bytes[1]
    # With a lane for each rank, a few segments in memory are enough; one rank with all lanes reads them again.
    assert found[3].amplification < 2 < found[0].amplification


def test_bytes_and_memory_are_those_of_a_real_reader(packed: str) -> None:
    (found,) = made(packed, [2])
    manifest = Manifest.load(packed)
    spec = BatchSpec.from_manifest(manifest, ["text", "audio"], [])
    fetched, most, needed = 0, 0, 0
    for rank in range(2):
        reader = ShardReader(packed, manifest, CACHE)
        options = {"global_batch": BATCH, "lanes": LANES, "delay": DELAY, "seed": 0, "rank": rank, "world": 2}
        loader = Loader(reader, spec, prefetch=1, **options)  # type: ignore[arg-type]
        samples = np.array([shard.samples for shard in manifest.shards], np.int64)
        order = EpochOrder(samples, manifest.id, 0, 0, LANES, BATCH, DELAY)
        for step in range(order.steps):
            numbers = loader._plan(loader.start, order.batch(step)).numbers
            needed += sum(len(sample.content) for sample in reader.stored(numbers))
            most = max(most, reader.resident)
        fetched += reader.fetcher.meters.counts().bytes
        loader.close()
    assert found.steps == order.steps
    assert found.amplification == pytest.approx(fetched / needed, rel=0.02)
    assert sum(found.rank_bytes) * order.steps == pytest.approx(needed, rel=0.02)
    assert most <= found.resident_bytes + (3 << 20)


def test_padding_by_length(packed: str) -> None:
    one, four = made(packed, [1, 4])
    assert one.padding == one.padding_by_length > 0
    assert four.padding_by_length < four.padding < one.padding
    assert [asdict(each)["padding"] for each in made(packed, [4], "data.by_length=true")] == [four.padding]


def test_a_cache_of_another_machine_is_left_alone(packed: str, tmp_path: Path) -> None:
    made(packed, [2], f"data.disk_cache={tmp_path}/there")
    assert not (tmp_path / "there").exists()


def test_rows_name_their_units(packed: str) -> None:
    rows = dict(made(packed, [3])[0].rows())
    assert rows["hash of the first batches"].isalnum()
    assert "MB" in rows["segments in memory, a worker"]
    assert rows["padding; with data.by_length"].count("%") == 2
