"""The read forecast of a pool by corpus, compared with the batches that its loader makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ivr_dist.config.loading import load_config
from ivr_dist.data.batches.pool_spec import pool_spec
from ivr_dist.data.build_order import build_order
from ivr_dist.data.pooled_loader import PooledLoader
from ivr_dist.data.read_forecast import forecasts
from ivr_dist.data.reading.pool_reader import PoolReader
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.orchestration.preflight import resolved
from ivr_dist.planning.plan import plan_run
from ivr_dist.planning.pool_layout import pool_layout
from ivr_dist.planning.pool_table import CorpusRow, corpus_rows
from ivr_dist.shards.manifest import Manifest
from tests.pools import SIZES, pack_pool, pool_run

NAMES = list(SIZES)
MODALITIES = ["text", "audio", "vision"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("pool"))
    pack_pool(folder)
    return folder


@pytest.mark.parametrize("by_length", [False, True])
def test_padding_and_bytes_of_each_corpus_are_those_of_the_batches(pool: str, by_length: bool) -> None:
    config = resolved(load_config(None, [*pool_run(pool, Path("unused")), f"data.by_length={by_length}"]))
    urls = {name: f"{pool}/{name}/train" for name in NAMES}
    manifests = {f"{name}/train": Manifest.load(url) for name, url in urls.items()}
    plan = plan_run(config, manifests, 2)
    (reading,) = forecasts(config, manifests, [plan])
    layout = pool_layout(config, manifests, None)
    trains = {name: manifests[f"{name}/train"] for name in NAMES}
    numbers = {name: number for number, name in enumerate(NAMES)}
    real, padded, read = np.zeros((3, len(NAMES)), np.int64)
    readers = {number: ShardReader(urls[name], trains[name], 1 << 24) for name, number in numbers.items()}
    for rank in range(2):
        pooled = PoolReader({n: (urls[name], trains[name]) for name, n in numbers.items()}, 1 << 24)
        spec = pool_spec(layout, trains, MODALITIES)
        order = build_order(config, plan, manifests, numbers)
        with PooledLoader(pooled, spec, order, rank=rank, world=2, by_length=by_length) as loader:
            steps = loader.steps(order.start)
            for _ in range(plan.steps_per_epoch):
                (batch,) = next(steps).micro_batches
                if not len(batch):
                    continue
                lengths = np.max([part.mask.sum(dim=1).numpy() for part in batch.modalities.values()], axis=0)
                corpus = batch.corpus.numpy()
                np.add.at(real, corpus, lengths)
                np.add.at(padded, corpus, np.where(lengths > 0, lengths.max(), 0))
                for number, reader in readers.items():
                    own = batch.positions.numpy()[corpus == number]
                    read[number] += sum(len(sample.content) for sample in reader.stored(own))
    for reader in readers.values():
        reader.close()
    assert reading.steps == plan.steps_per_epoch
    for name, number in numbers.items():
        found = reading.corpora[name]
        assert found.padding == pytest.approx(1 - real[number] / padded[number], abs=1e-12)
        assert found.step_bytes == read[number] // reading.steps
    whole = reading.padding_by_length if by_length else reading.padding
    assert whole == pytest.approx(1 - real.sum() / padded.sum(), abs=1e-12)
    row = corpus_rows(config, plan, layout, reading.corpora)[0]
    cells = dict(zip(CorpusRow.header, row.cells(), strict=True))
    assert cells["padding"] == f"{reading.corpora['talks'].padding:.1%}" and cells["bytes a step"].endswith("B")
    assert row.to_json()["step_bytes"] == reading.corpora["talks"].step_bytes


def test_one_corpus_has_no_figures_by_corpus(pool: str) -> None:
    config = load_config(None, [f"data.train={pool}/talks/train", "train.global_batch=24", "train.select=last"])
    manifests = {"train": Manifest.load(f"{pool}/talks/train")}
    (reading,) = forecasts(config, manifests, [plan_run(config, manifests, 2)])
    assert reading.corpora == {} and "corpora" not in reading.to_json() and reading.padding is not None
