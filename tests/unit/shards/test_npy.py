"""`.npy` parsing: all numeric arrays of numpy are read; all else is refused before memory is allocated."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ivr_dist.errors import CorruptDataError
from ivr_dist.shards import npy

NUMBERS = st.one_of(
    hnp.boolean_dtypes(), hnp.integer_dtypes(endianness="?"), hnp.unsigned_integer_dtypes(endianness="?")
) | hnp.floating_dtypes(endianness="?")


def saved(array: np.ndarray[Any, Any], version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    return out.getvalue()


def made(header: str, payload: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """A file with any header."""
    text = header.encode("utf-8")
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + payload


def header(shape: str = "(2,)", descr: str = "'<f4'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def refusal(data: bytes, kinds: str = npy.NUMBERS) -> str:
    with pytest.raises(CorruptDataError) as caught:
        npy.parse(data, "s.tar, a.npy", kinds)
    assert caught.value.where == "s.tar, a.npy"
    assert caught.value.remedy
    assert len(str(caught.value)) < 400
    return str(caught.value)


@given(hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)), st.booleans())
def test_what_numpy_writes_comes_back(array: np.ndarray[Any, Any], fortran: bool) -> None:
    array = np.asarray(array, order="F" if fortran else "C")
    found = npy.parse(saved(array), "w")
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_versions(version: tuple[int, int]) -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    np.testing.assert_array_equal(npy.parse(saved(array, version), "w"), array)


def test_the_array_is_a_read_only_view() -> None:
    data = saved(np.arange(1000.0))
    found = npy.parse(data, "w")
    assert not found.flags.writeable
    assert not found.flags.owndata
    assert npy.parse_header(data[:128], "w")[0] == (1000,)


def test_byte_strings_are_read_only_with_their_kind() -> None:
    array = np.array([b"ab", b"c"])
    assert npy.parse(saved(array), "w", npy.BYTES).tolist() == [b"ab", b"c"]
    assert "only plain numbers" in refusal(saved(array))
    assert "only bytes" in refusal(saved(np.zeros(2)), npy.BYTES)


@pytest.mark.parametrize(
    "array",
    [np.array([None, {}]), np.array(["a"]), np.zeros(2, "f4,i4"), np.zeros(2, complex), np.zeros(1, "M8[s]")],
    ids=str,
)
def test_other_kinds_are_refused(array: np.ndarray[Any, Any]) -> None:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    assert "only plain numbers" in refusal(out.getvalue())


@pytest.mark.parametrize("descr", ["'O'", "'<f3'", "'f4'", "'<f4,<f4'", "'(9,)<f4'", "'<f0'", "'float32'", "'|V8'"])
def test_other_names_of_types_are_refused(descr: str) -> None:
    assert "are not read" in refusal(made(header(descr=descr), bytes(8)))


@pytest.mark.parametrize("descr", ["7", "None", "[('a', '<f4')]", "0x" + "f" * 6000, "('<f4', (2**3,))"])
def test_types_that_are_no_names_are_refused(descr: str) -> None:
    refusal(made(header(descr=descr), bytes(8)))


@pytest.mark.parametrize(
    "shape",
    [
        "(4611686018427387904, 4)",
        "(18446744073709551616,)",
        "(2147483648, 0)",
        "(1099511627776, 0, 1099511627776)",
        "(65536, 65536)",
        f"(0x{'f' * 6000},)",
    ],
)
def test_absurd_shapes_are_refused(shape: str) -> None:
    # 4611686018427387904 * 4 * 4 is 0 in 64 bits: the size of the payload alone would let it pass.
    assert "elements" in refusal(made(header(shape)))


@pytest.mark.parametrize("shape", ["(-1,)", "2", "[2]", "(2.0,)", "(True,)", "('2',)", "None", f"({'1,' * 40})"])
def test_shapes_that_are_none_are_refused(shape: str) -> None:
    assert "no shape" in refusal(made(header(shape), bytes(8)))


@pytest.mark.parametrize("payload", [b"", bytes(7), bytes(9), bytes(800)])
def test_payloads_that_do_not_fit_are_refused(payload: bytes) -> None:
    assert f"takes 8 bytes, but has {len(payload)}" in refusal(made(header(), payload))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "{}",
        "[]",
        "'x'",
        "{'descr': '<f4'}",
        "{[]: 1}",
        "(" * 5000,
        "-" * 9000 + "1",
        "[" * 90 + "]" * 90,
        "__import__('os')",
        "9" * 9000,
        "\0",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_bad_headers_are_refused(text: str) -> None:
    refusal(made(text, bytes(8)))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x93NUMPY", b"RIFF" * 10, b"\x93NUMPY\x04\0" + bytes(40), made("", version=2, length=2**32 - 1)],
)
def test_other_files_are_refused(data: bytes) -> None:
    refusal(data)


def test_a_header_that_is_not_utf8_is_refused() -> None:
    refusal(b"\x93NUMPY\x03\0" + (4).to_bytes(4, "little") + b"\xff\xfe{}")


VALID = saved(np.arange(12, dtype=np.float32).reshape(4, 3))


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 300))
def test_mutated_bytes_are_read_or_refused(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(VALID)
    for position, value in changes:
        data[position] = value
    check_harmless(bytes(data[:length]))


@given(
    st.sampled_from(["(3,)", "(1, 3)", "(10**9,)", "(3, -1)", "()"]) | st.lists(st.integers()).map(tuple).map(str),
    st.sampled_from(["<f4", "|O", "|V4", "<U3", "|S4", "<f8", "x"]) | st.text(max_size=5),
    st.binary(max_size=40),
)
def test_any_header_is_read_or_refused(shape: str, descr: str, payload: bytes) -> None:
    check_harmless(made(header(shape, repr(descr)), payload, version=3))


@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    check_harmless(data)
    check_harmless(VALID[:10] + data)


def check_harmless(data: bytes) -> None:
    tracemalloc.start()
    try:
        found = npy.parse(data, "s.tar, a.npy")
        assert found.nbytes <= len(data)
        assert not found.dtype.hasobject
    except CorruptDataError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("missing", range(1, 20))
def test_files_that_end_in_their_header_or_payload(missing: int) -> None:
    data = saved(np.array([1.0], np.float32))
    assert refusal(data[:-missing])
