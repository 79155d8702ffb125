"""Damaged computational sequences are refused, or read as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.readers.csd_file import CsdFile
from ivr_dist.errors import DataError

VIDEOS = ("v1", "v2")


def write(path: Path, **videos: Any) -> None:
    with h5py.File(path, "w") as file:
        for name in VIDEOS:
            group = file.create_group(f"x/data/{name}")
            group["features"] = videos.get(name, np.arange(12.0).reshape(6, 2))
            group["intervals"] = np.arange(12.0).reshape(6, 2)
        file["x/metadata/dimension names"] = [b'["a", "b"]']


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "x.csd"
    write(path)
    return path.read_bytes()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 7)), min_size=1, max_size=3))
def test_flipped_bits_are_refused_or_harmless(sound: bytes, tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(sound)
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    (tmp_path / "x.csd").write_bytes(data)
    try:
        file = CsdFile(str(tmp_path), SourceFile(path="x.csd"))
        file.column_names()
        for video in file.videos:
            assert file.intervals(video).shape[1] == 2
            file.rows(video, 0, 6)
    except DataError as error:
        assert "x.csd" in error.where
        assert error.remedy


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ({"v2": np.full((6, 1), b"so")}, "rows of v2 are words, those of others are not"),
        ({"v1": np.full((6, 1), b"so"), "v2": np.ones((6, 1))}, "rows of v2 are numbers, those of others are not"),
        ({"v1": h5py.Empty("f4")}, r"features is \[\] of float32"),
    ],
)
def test_rows_of_two_kinds_are_refused(tmp_path: Path, videos: dict[str, Any], message: str) -> None:
    write(tmp_path / "x.csd", **videos)
    with pytest.raises(DataError, match=message):
        CsdFile(str(tmp_path), SourceFile(path="x.csd"))


def test_intervals_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    write(tmp_path / "x.csd")
    with h5py.File(tmp_path / "x.csd", "a") as file:
        del file["x/data/v2/intervals"]
        file["x/data/v2/intervals"] = np.full((6, 2), b"1.0")
    with pytest.raises(DataError, match=r"intervals of v2 are \[6, 2\] of \|S3, not numbers"):
        CsdFile(str(tmp_path), SourceFile(path="x.csd"))
