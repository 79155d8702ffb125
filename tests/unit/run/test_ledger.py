"""Ledgers: appended records are read back in order, despite failed writes and unrelated files."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.errors import CorruptDataError, StorageError
from ivr_dist.run.attempts import allocate
from ivr_dist.run.ledger import LedgerWriter, read_lineage, read_lines, recorded_attempts
from ivr_dist.run.paths import AUDIT, HISTORY


@contextmanager
def unwritable(run: Path) -> Iterator[None]:
    """Nothing can be written to the ledgers: files are where their folders should be."""
    kept = [(run / name, run / f"{name} away") for name in (AUDIT, HISTORY)]
    for folder, away in kept:
        if folder.exists():
            folder.rename(away)
        folder.write_text("")
    try:
        yield
    finally:
        for folder, away in kept:
            folder.unlink()
            if away.exists():
                away.rename(folder)


def begin(run: Path, step: int = 0, parent: int | None = None) -> int:
    return allocate(str(run), parent=parent, step=step, stage=0, steps_per_epoch=9, workers=["host:1"]).number


def steps(run: Path, ledger: str = AUDIT) -> list[int]:
    return [record["step"] for _, _, record in read_lineage(str(run), ledger)]


@pytest.mark.parametrize("failures", [(1,), (2,), (1, 2, 3), (3,)])
def test_lines_stay_until_they_are_written(tmp_path: Path, failures: tuple[int, ...]) -> None:
    begin(tmp_path)
    writer = LedgerWriter(str(tmp_path), AUDIT, 1, 0)
    for number in (1, 2, 3):
        writer.append({"step": number})
        write = writer.cut()
        if number in failures:
            with unwritable(tmp_path), pytest.raises(StorageError):
                write()
        else:
            write()
    writer.flush()
    assert steps(tmp_path) == [1, 2, 3]


def test_a_segment_is_written_once(tmp_path: Path) -> None:
    begin(tmp_path)
    writer = LedgerWriter(str(tmp_path), AUDIT, 1, 0)
    writer.append({"step": 1})
    first = writer.cut()
    writer.append({"step": 2})
    second = writer.cut()
    threads = [threading.Thread(target=write) for write in (second, first, second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.flush()
    assert steps(tmp_path) == [1, 2]
    assert sorted(os.listdir(tmp_path / AUDIT / "attempt-0001")) == [f"rank-00000-{n:06d}.jsonl" for n in (1, 2)]


@given(st.lists(st.sampled_from(["append", "cut", "write", "fail", "flush"]), max_size=30))
def test_nothing_is_lost_or_written_twice(tmp_path_factory: pytest.TempPathFactory, actions: list[str]) -> None:
    """However lines come, segments are cut, and writing fails: what a cut covers is there once it is written."""
    run = tmp_path_factory.mktemp("run")
    begin(run)
    writer = LedgerWriter(str(run), AUDIT, 1, 0)
    appended, cuts = 0, [(0, writer.cut())]
    for action in actions:
        if action == "append":
            appended += 1
            writer.append({"step": appended})
        elif action == "cut":
            cuts.append((appended, writer.cut()))
        elif action == "flush":
            writer.flush()
            assert steps(run) == list(range(1, appended + 1))
        elif action == "write":
            cuts[-1][1]()
            assert steps(run)[: cuts[-1][0]] == list(range(1, cuts[-1][0] + 1))
        else:
            before = steps(run)
            with unwritable(run):
                try:
                    cuts[-1][1]()
                except StorageError:
                    assert cuts[-1][0] > len(before)
    writer.flush()
    assert steps(run) == list(range(1, appended + 1))


def test_order_is_that_of_the_numbers(tmp_path: Path) -> None:
    """Beyond the zeros of attempts, ranks and segments."""
    run = str(tmp_path)
    for number, parent, step in ((9999, "null", 0), (10_000, "9999", 2)):
        record = f'{{"number": {number}, "parent": {parent}, "step": {step}, "world": 1, "stage": 0'
        storage.write_text(f"{run}/attempts/{number:04d}.json", f'{record}, "steps_per_epoch": 9, "workers": []}}')
    names = ["attempt-9999/rank-99999-999999", "attempt-9999/rank-99999-1000000", "attempt-10000/rank-100000-000001"]
    for step, name in enumerate(names, 1):
        storage.write_text(f"{run}/{HISTORY}/{name}.jsonl", f'{{"step": {step}}}\n')
    assert [(attempt, rank, record["step"]) for attempt, rank, record in read_lineage(run, HISTORY)] == [
        (9999, 99_999, 1),
        (9999, 99_999, 2),
        (10_000, 100_000, 3),
    ]
    assert recorded_attempts(run, HISTORY) == [9999, 10_000]


def test_foreign_files_are_ignored(tmp_path: Path) -> None:
    begin(tmp_path)
    writer = LedgerWriter(str(tmp_path), AUDIT, 1, 0)
    writer.append({"step": 1})
    writer.flush()
    folder = tmp_path / AUDIT / "attempt-0001"
    for name in (".nfs01", ".DS_Store", "rank-00000-000001 (copy).jsonl", "rank-00000-000001.jsonl~", "rank-x-1.jsonl"):
        (folder / name).write_bytes(b"\xff not ours")
    (tmp_path / AUDIT / "attempt-1").mkdir()
    (tmp_path / AUDIT / ".DS_Store").write_bytes(b"\0")
    assert steps(tmp_path) == [1]
    assert recorded_attempts(str(tmp_path), AUDIT) == [1]


@pytest.mark.parametrize(
    "line", [b"{", b"\xff", b"[1]", b"null", b"7", b'{"step": "1"}', b'{"step": true}', b"{}", b"[" * 100_000]
)
def test_damaged_lines_are_reported(tmp_path: Path, line: bytes) -> None:
    begin(tmp_path)
    writer = LedgerWriter(str(tmp_path), HISTORY, 1, 3)
    writer.append({"step": 1})
    writer.flush()
    path = tmp_path / HISTORY / "attempt-0001" / "rank-00003-000001.jsonl"
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(CorruptDataError, match="worker 3"):
        steps(tmp_path, HISTORY)


@given(st.lists(st.text(st.characters()), max_size=5))
def test_any_text_is_one_line(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    run = tmp_path_factory.mktemp("run")
    writer = LedgerWriter(str(run), AUDIT, 1, 0)
    record: dict[str, Any] = {"step": 1, "ids": ids}
    writer.append(record)
    writer.flush()
    assert [line for segment in read_lines(str(run), AUDIT, 1)[0] for line in segment] == [record]
