"""Memory-mapped files: views of ranges, also if the file is changed or truncated."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import pytest

from ivr_dist import storage


def test_what_is_there(tmp_path: Path) -> None:
    data = bytes(range(256)) * 100
    (tmp_path / "f").write_bytes(data)
    file = storage.MappedFile(str(tmp_path / "f"))
    for start, end in [(0, 10), (5000, 25000), (0, len(data)), (4096, 8192), (25599, 25600)]:
        assert bytes(file.view(start, end)) == data[start:end]
    assert bytes(file.view(25000, 30000)) == data[25000:]
    assert bytes(file.view(25600, 30000)) == bytes(file.view(7, 7)) == b""


def test_a_view_outlives_its_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    view = storage.MappedFile(str(tmp_path / "f")).view(2, 5)
    (tmp_path / "f").unlink()
    gc.collect()
    assert bytes(view) == b"234"


def test_a_file_that_is_cut_short_or_grows(tmp_path: Path) -> None:
    """Asked for after that, the pages behind the end are no error of the system but absent."""
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    file = storage.MappedFile(str(tmp_path / "f"))
    assert len(file.view(0, 1000)) == 1000
    os.truncate(tmp_path / "f", 10)
    assert bytes(file.view(0, 1000)) == b"x" * 10
    assert bytes(file.view(50_000, 60_000)) == b""
    (tmp_path / "f").write_bytes(b"y" * 200_000)
    assert bytes(file.view(150_000, 150_003)) == b"yyy"


def test_where_nothing_can_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr("mmap.mmap", refuse)
    (tmp_path / "f").write_bytes(b"0123456789")
    assert bytes(storage.MappedFile(str(tmp_path / "f")).view(2, 50)) == b"23456789"


def test_an_empty_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert bytes(storage.MappedFile(str(tmp_path / "f")).view(0, 9)) == b""
    with pytest.raises(storage.NotFoundError, match="no such file"):
        storage.MappedFile(str(tmp_path / "absent")).view(0, 9)
