"""The public API trains on Ray workers as in this process: repeatedly, outside the main thread, and silently."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import ivr_dist as ivr
from tests.ray.clusters import Cluster

# In one worker of pytest-xdist: clusters are heavy, and these tests share one.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


@pytest.mark.long
def test_train_on_workers_in_a_thread(
    corpus: str,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    config = ivr.load_config(
        None,
        [
            f"data.train={corpus}/train",
            f"run.dir={tmp_path}/run",
            "run.num_workers=1",
            "model.hidden=16",
            "train.global_batch=32",
            "train.max_steps=2",
            "train.select=last",
        ],
    )
    results: list[ivr.Result] = []

    def train() -> None:
        for steps in (2, 3):
            results.append(ivr.train(config, [f"train.max_steps={steps}"]))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert [(result.steps, result.attempts) for result in results] == [(2, 1), (3, 2)]
    assert results[1].loss_curve[:2] == results[0].loss_curve[:2]
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ivr.CheckpointMismatchError, match=r"model\.hidden is 16 there and 32 here"):
        ivr.train(config, ["model.hidden=32", "train.max_steps=3"])
