"""`.npz` and `.npy` files of a corpus: numbers and text are read, and nothing larger than the file."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.corpora.readers.numpy_file import NpzFile, parse_npy
from ivr_dist.errors import DataError


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def zipped(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, content)
    return out.getvalue()


ARRAYS = [np.arange(3), np.ones((2, 3), ">f4"), np.array(["a", "\u5f88"]), np.array([b"a"]), np.zeros((0, 5), bool)]


@pytest.mark.parametrize("array", ARRAYS)
def test_numbers_and_text_come_back(array: Any) -> None:
    for found in (NpzFile(npz(a=array), "f.npz")["a"], parse_npy(npy(array), "f.npy")):
        assert found.dtype == array.dtype and np.array_equal(found, array)
    long = npy(array).replace(b"(3,)", b"(3L,)")
    assert len(parse_npy(long.replace(b"L,), } ", b"L,), }"), "f.npy")) == len(array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file, not an .npz file"),
        (npy(np.ones(3)), r"this is a .npy file, not an .npz file"),
        (b"\x1f\x8b\x08", "compressed with gzip, not an .npz file"),
        (npz(a=np.ones(3))[:-5], "not an .npz file"),
        (zipped("archive/data.pkl", b"x"), "a file of torch.save"),
        (zipped("a.npy", b"x"), r"not a .npy file \(f.npz, array a\)"),
        (zipped("a.npy", bytes(1 << 20), zipfile.ZIP_BZIP2), "compressed by another method"),
        (zipped("a.npy", bytes(1 << 20), zipfile.ZIP_LZMA), "compressed by another method"),
        (zipped("a.npy", npy(np.ones((2, 2))).replace(b"(2, 2)", b"(99999999, 2)"))[:], r"cannot be read|takes"),
        (npz(a=np.array([None])), "arrays of Python objects"),
        (npz(a=np.ones(3, complex)), "arrays of complex numbers"),
        (npz(a=np.zeros(3, "M8[D]")), "arrays of dates"),
        (npz(a=np.zeros(3, [("x", "f4")])), "arrays of records"),
    ],
)
def test_other_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        NpzFile(data, "f.npz")["a"]


def test_a_member_that_claims_more_than_its_bytes_can_stand_for_is_refused() -> None:
    data = bytearray(zipped("a.npy", npy(np.zeros(3))))
    for place in (data.index(b"PK\x01\x02") + 24, 22):
        data[place : place + 4] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(DataError, match=r"\d+ bytes cannot be 1073741824"):
        NpzFile(bytes(data), "f.npz")["a"]


@settings(max_examples=200)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_harmless(place: int, value: int) -> None:
    data = bytearray(npz(a=np.arange(50)))
    data[place % len(data)] = value
    try:
        found = NpzFile(bytes(data), "f.npz")["a"]
    except DataError as error:
        assert "f.npz" in error.where
    else:
        assert np.array_equal(found, np.arange(50))


@pytest.mark.parametrize("order", "<>")
def test_text_of_letters_that_do_not_exist_is_refused(order: str) -> None:
    letters = np.array([[97, 0x10FFFF]], f"{order}u4")
    assert NpzFile(npz(a=letters.view(f"{order}U2")), "f.npz")["a"].tolist() == [["a\U0010ffff"]]
    with pytest.raises(DataError, match="invalid characters"):
        NpzFile(npz(a=(letters + letters.dtype.type(1)).view(f"{order}U2")), "f.npz")["a"]
