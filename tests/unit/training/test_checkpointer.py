"""Asynchronous checkpoints: the copied state is saved, regardless of later training and storage failures."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.fragments import Fragment
from ivr_dist.checkpoint.part_manifest import WEIGHT
from ivr_dist.checkpoint.weights import read_weights
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.errors import CheckpointError, IvrError, StorageError, SupersededError
from ivr_dist.run.attempts import Span, allocate
from ivr_dist.run.ledger import LedgerWriter, read_lineage
from ivr_dist.run.paths import AUDIT
from ivr_dist.training.checkpointer import Checkpointer
from tests.fault_proxy import Proxy
from tests.s3_server import BUCKET
from tests.states import small_state


class Memory:
    """Stands for an engine: one parameter, which training changes in place."""

    def __init__(self, size: int = 1000) -> None:
        self.weight = torch.zeros(size)

    def fragments(self) -> list[Fragment]:
        return [Fragment("w", 0, self.weight.numel(), {WEIGHT: self.weight, "exp_avg": self.weight}, {"step": 3.0})]

    def shapes(self) -> dict[str, list[int]]:
        return {"w": list(self.weight.shape)}


def saver(run: str, memory: Memory, **options: Any) -> Checkpointer:
    return Checkpointer(run, 1, [Span(1, 1, None)], cast(Engine, memory), keep_last=9, **options)


def test_what_training_does_meanwhile_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, go_on = Memory(), threading.Event()
    plain = store.write_part

    def slow(*given: Any) -> None:
        assert go_on.wait(20)
        plain(*given)

    monkeypatch.setattr(store, "write_part", slow)
    saving = saver(str(tmp_path), memory)
    memory.weight.fill_(1.0)
    name = saving.save(small_state(1), None)
    memory.weight.fill_(2.0)
    assert saving.take_saved() == []
    go_on.set()
    second = saving.save(small_state(2), None)
    saving.finish()
    assert [saved.name for saved in saving.take_saved()] == [name, second]
    assert (read_weights(name.url(str(tmp_path)))["w"] == 1.0).all()
    assert (read_weights(second.url(str(tmp_path)))["w"] == 2.0).all()


def test_training_waits_for_a_copy_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = store.write_part

    def slow(*given: Any) -> None:
        time.sleep(0.5)
        plain(*given)

    monkeypatch.setattr(store, "write_part", slow)
    for asynchronous in (True, False):
        saving = saver(str(tmp_path / str(asynchronous)), Memory(), asynchronous=asynchronous)
        started = time.monotonic()
        saving.save(small_state(1), None)
        assert (time.monotonic() - started < 0.3) is asynchronous
        saving.finish()
        (saved,) = saving.take_saved()
        assert saved.seconds >= 0.5
        assert (saved.stall_s < 0.3) is asynchronous


def test_ledgers_are_durable_before_the_checkpoint_is_complete(tmp_path: Path) -> None:
    found = []
    saving = saver(str(tmp_path), Memory())
    url = saving.name(1).url(str(tmp_path))
    saving.save(small_state(1), None, [lambda: found.append(storage.list_dir(url))])
    saving.finish()
    assert found == [[]]


def test_no_checkpoint_is_complete_whose_ledger_is_not(tmp_path: Path) -> None:
    """While the ledger cannot be written; the next checkpoint makes up for it."""
    run = str(tmp_path)
    allocate(run, parent=None, step=0, stage=1, steps_per_epoch=9, workers=["h:1"])
    saving, writer = saver(run, Memory()), LedgerWriter(run, AUDIT, 1, 0)
    for step in (1, 2, 3):
        if step == 2:
            (tmp_path / AUDIT).rename(tmp_path / "away")
            (tmp_path / AUDIT).write_text("in the place of a folder")
        writer.append({"step": step})
        saving.save(small_state(step), None, [writer.cut()])
        if step == 2:
            with pytest.raises(StorageError):
                saving.finish()
            (tmp_path / AUDIT).unlink()
            (tmp_path / "away").rename(tmp_path / AUDIT)
        saving.finish()
    assert [saved.name.step for saved in saving.take_saved()] == [1, 3]
    assert [name.step for name in store.names(run)] == [3, 1]
    assert [record["step"] for _, _, record in read_lineage(run, AUDIT)] == [1, 2, 3]


def test_an_error_of_any_kind_reaches_the_loop(tmp_path: Path) -> None:
    saving = saver(str(tmp_path), Memory())

    def fail() -> None:
        raise ZeroDivisionError("an oversight")

    saving.save(small_state(1), None, [fail])
    with pytest.raises(CheckpointError, match=r"step-00000001\.a01 could not be written: ZeroDivisionError"):
        saving.finish()
    saving.save(small_state(2), None)
    saving.finish()
    assert [saved.name.step for saved in saving.take_saved()] == [2]
    assert [name.step for name in store.names(str(tmp_path))] == [2]


def test_an_attempt_that_was_given_up_does_not_write(tmp_path: Path) -> None:
    for _ in range(2):
        allocate(str(tmp_path), parent=None, step=0, stage=1, steps_per_epoch=1, workers=["h:1"])
    saving = saver(str(tmp_path), Memory())
    saving.save(small_state(1), None)
    with pytest.raises(SupersededError, match="attempt 2"):
        saving.finish()
    assert store.names(str(tmp_path)) == []


def test_requests_to_a_busy_store_are_retried(s3_proxy: Proxy) -> None:
    """Every first request to write is refused."""
    s3_proxy.refuse = lambda path, count: "503" if count == 0 else None
    run = f"s3://{BUCKET}/busy"
    saving = saver(run, Memory())
    name = saving.save(small_state(1), None)
    saving.finish()
    assert store.verify(name.url(run)).step == 1
    assert len(s3_proxy.writes) > len(set(s3_proxy.writes))


def test_a_store_that_does_not_answer(s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training does not wait for it; what was not answered is asked again, and given up at last."""
    # Not the fifteen seconds of s3fs, of which there would be five.
    monkeypatch.setattr("s3fs.S3FileSystem.read_timeout", 1.0)
    run = f"s3://{BUCKET}/stalling"
    saving = saver(run, Memory())
    s3_proxy.refuse = lambda path, count: "stall" if "step-00000001" in path and count == 0 else None
    started = time.monotonic()
    name = saving.save(small_state(1), None)
    assert time.monotonic() - started < 0.5
    saving.finish()
    assert store.verify(name.url(run)).step == 1
    s3_proxy.refuse = lambda path, count: "stall" if "step-00000002" in path else None
    saving.save(small_state(2), None)
    with pytest.raises(StorageError, match="step-00000002"):
        saving.finish()
    assert store.verify(name.url(run)).step == 1


def test_a_store_that_refuses_for_good_is_an_error_and_the_one_before_stays(s3_proxy: Proxy) -> None:
    run = f"s3://{BUCKET}/refusing"
    saving = saver(run, Memory())
    first = saving.save(small_state(1), None)
    saving.finish()
    s3_proxy.refuse = lambda path, count: "503" if "step-00000002" in path and "weights" in path else None
    saving.save(small_state(2), None)
    with pytest.raises(StorageError, match=r"weights-00000\.safetensors"):
        saving.finish()
    assert store.verify(first.url(run)).step == 1
    with pytest.raises(IvrError, match="no part manifest"):
        store.parts(saving.name(2).url(run))
