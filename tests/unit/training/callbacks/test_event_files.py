"""TensorBoard event files: buffered while the disk is full, and never the end of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event

from ivr_dist import storage
from ivr_dist.errors import StorageError
from ivr_dist.training.callbacks import event_files
from ivr_dist.training.callbacks.event_files import TensorBoard, _EventFile
from tests.small_disks import small_disk

HEAD = (Event(file_version="brain.Event:2"),)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "_FLUSH_PERIOD_S", 0.02)
    monkeypatch.setattr(event_files, "_MIRROR_PERIOD_S", 0.02)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 8 KiB, where mounting is allowed."""
    with small_disk("8k", tmp_path / "disk") as place:
        yield place


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def until(true: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_points_are_read_back_and_superseded(tmp_path: Path) -> None:
    notes: list[str] = []
    for first_step, last, shift in ((1, 6, 0), (4, 8, 100)):
        board = TensorBoard(str(tmp_path), first_step, notes.append)
        for step in range(first_step, last + 1):
            board.scalars({"loss": step + shift, "none": None, "\x1b\ud800": 1e300}, step)
        board.close()
        time.sleep(1.1)  # event files are read in the order of the seconds in their names
    found = curves(tmp_path / "tensorboard")
    assert found["loss"] == [*((step, step) for step in (1, 2, 3)), *((step, step + 100) for step in range(4, 9))]
    assert set(found) == {"loss", r"\x1b\ud800"} and notes == []


def test_a_full_disk_costs_a_note_and_no_point(tiny_disk: Path) -> None:
    notes: list[str] = []
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"x" * 4096)
    board = TensorBoard(str(tiny_disk), 1, notes.append)
    for step in range(1, 201):
        board.scalars({"loss": float(step)}, step)
    until(lambda: notes)
    time.sleep(0.1)
    ballast.unlink()
    board.scalars({"loss": 201.0}, 201)
    # 201 points of some 40 bytes do not fit into 4 KiB, and nearly into 8.
    board._file._records = type(board._file._records)(list(board._file._records)[:60])
    board.close()
    assert len(notes) == 1 and "training continues: No space left" in notes[0]
    steps = [step for step, _ in curves(tiny_disk / "tensorboard")["loss"]]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 60


def test_lost_points_are_reported(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    notes: list[str] = []
    board = TensorBoard(str(tmp_path), 1, notes.append)
    board.scalars({"loss": 1.0}, 1)
    board.close()
    assert len(notes) == 2 and "could not be written" in notes[1]


def test_a_disk_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(event_files, "_CLOSE_S", 0.1)
    create = _EventFile._create

    def late(file: _EventFile) -> Path:
        answers.wait(30)
        return create(file)

    monkeypatch.setattr(_EventFile, "_create", late)
    notes: list[str] = []
    board = TensorBoard(str(tmp_path), 1, notes.append)
    started = time.monotonic()
    board.scalars({"loss": 1.0}, 1)
    time.sleep(0.1)
    board.scalars({"loss": 2.0}, 2)
    board.close()
    assert time.monotonic() - started < 5 and "could not be written" in notes[-1]
    answers.set()


def test_a_deleted_file_is_begun_again(tmp_path: Path) -> None:
    notes: list[str] = []
    board = TensorBoard(str(tmp_path), 1, notes.append)
    board.scalars({"loss": 1.0}, 1)
    until(lambda: not board._file.waiting)
    next((tmp_path / "tensorboard").iterdir()).unlink()
    board.scalars({"loss": 2.0}, 2)
    until(lambda: not board._file.waiting)
    board.close()
    assert curves(tmp_path / "tensorboard")["loss"] == [(2, 2.0)]


def test_a_remote_run_gets_a_copy_when_its_storage_is_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notes: list[str] = []
    upload, well = storage.upload, threading.Event()

    def uploaded(path: str, url: str) -> None:
        if not well.is_set():
            raise StorageError("unreachable", where=url)
        upload(path, url)

    monkeypatch.setattr(storage, "upload", uploaded)
    board = TensorBoard("memory://curves", 1, notes.append)
    board.scalars({"loss": 1.0}, 1)
    until(lambda: notes)
    well.set()
    board.close()
    assert len(notes) == 1 and "unreachable" in notes[0]
    (name,) = storage.list_dir("memory://curves/tensorboard")
    storage.download(f"memory://curves/tensorboard/{name}", str(tmp_path / name))
    assert curves(tmp_path)["loss"] == [(1, 1.0)]


def test_storage_that_stays_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def uploaded(path: str, url: str) -> None:
        raise StorageError("unreachable", where=url)

    monkeypatch.setattr(storage, "upload", uploaded)
    notes: list[str] = []
    board = TensorBoard("memory://away", 1, notes.append)
    board.scalars({"loss": 1.0}, 1)
    board.close()
    assert "unreachable" in notes[0] and "could not be written" in notes[-1]


@given(st.lists(st.integers(0, 300), max_size=30), st.integers(0, 4000))
def test_what_fits_is_whole_records(lengths: list[int], room: int) -> None:
    """A disk of any size takes a prefix of the records, none of them in part."""

    class Disk:
        def __init__(self) -> None:
            self.data = bytearray()

        def seek(self, place: int) -> None:
            assert place == len(self.data)

        def write(self, data: bytes) -> int:
            some = data[: min(room - len(self.data), 100)]
            if not some:
                raise OSError(28, "No space left on device")
            self.data += some
            return len(some)

        def truncate(self, size: int) -> None:
            del self.data[size:]

    file, disk = _EventFile(None, HEAD), Disk()
    records = [bytes([number]) * (length + 1) for number, length in enumerate(lengths)]
    if not records:
        return
    try:
        count = file._append(disk, records)  # type: ignore[arg-type]
    except OSError:
        count = 0
        assert room < len(records[0])
    assert bytes(disk.data) == b"".join(records[:count]) and file.size == len(disk.data)
    assert count == len(records) or len(b"".join(records[: count + 1])) > room


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(event_files, "_WAITING_BYTES", 1000)
    file = _EventFile(tmp_path / "there", HEAD)
    for step in range(1000):
        file.add(Event(step=step))
    assert file._bytes <= 1000 and file.lost + file.waiting == 1000
    file.flush()
    assert file.waiting == file._bytes == 0 and curves(tmp_path / "there") == {}
