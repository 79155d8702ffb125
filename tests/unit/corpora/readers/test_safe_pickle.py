"""Safe unpickling: numbers and text are read exactly, and no code of a file is executed."""

from __future__ import annotations

import collections
import contextlib
import pickle
import pickletools
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.readers.pickle_arrays import FileRange, PickledArray, as_rows, as_texts
from ivr_dist.corpora.readers.safe_pickle import load_pickle
from ivr_dist.errors import DataError, IvrError


def load(folder: Path, data: bytes) -> Any:
    (folder / "x.pkl").write_bytes(data)
    return load_pickle(str(folder), SourceFile(path="x.pkl"))


def plain(value: Any) -> Any:
    """The result with arrays in memory."""
    if isinstance(value, PickledArray):
        return value.load() if value.items is None else plain(value.items)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value


BIG = np.random.default_rng(0).normal(size=(40, 30, 20)).astype(np.float32)
ARRAYS = {
    "float32": BIG,
    "columns": np.asfortranarray(BIG),
    "big_endian": np.arange(6, dtype=">i4").reshape(2, 3),
    "half": np.arange(4, dtype=np.float16),
    "bool": np.array([True, False]),
    "text": np.array(["ab", "\u4e2d"]),
    "bytes": np.array([b"q", b"rr"]),
    "empty": np.zeros((0, 5)),
    "single": np.array(2.5),
    "strided": BIG[:, ::2, 1:3],
}
VALUES = {
    "list": [1, 2.5, None, True, -3, 2**40, -(2**70), "\u4e2d", b"\x00\xff", "", 300, 1e-300],
    "nested": [[(1, (2, 3, 4, 5)), {"a": {}}], []],
    "keys": {1: "a", "b": 2, 2.5: b"c"},
    "shared": [[1, 2]] * 3,
    "ordered": collections.OrderedDict(a=1, b=2),
    "float32": np.float32(2.4),
    "float64": np.float64(2.4),
    "int64": np.int64(7),
    "str": np.str_("clip"),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_went_in_comes_out(tmp_path: Path, protocol: int) -> None:
    found = plain(load(tmp_path, pickle.dumps({"arrays": ARRAYS, "values": VALUES}, protocol)))
    assert found["values"] == VALUES
    assert isinstance(found["values"]["float32"], np.float32)
    for name, array in ARRAYS.items():
        assert found["arrays"][name].dtype == array.dtype and np.array_equal(found["arrays"][name], array), name


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_in_arrays_and_sets_become_lists(tmp_path: Path, protocol: int) -> None:
    value = [np.array(["a", "bc"], object), {3}, frozenset(["x"]), bytearray(b"abc")]
    assert plain(load(tmp_path, pickle.dumps(value, protocol))) == [["a", "bc"], [3], ["x"], b"abc"]


def test_pickles_of_python_2(tmp_path: Path) -> None:
    # {'a': numpy.array([1.0, 2.0], '<f4')} by Python 2.7, protocol 2: text and content are byte strings.
    content = struct.pack("<2f", 1, 2)
    data = (
        b"\x80\x02}q\x00U\x01aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + content + b"tbs."
    )
    assert plain(load(tmp_path, data))["a"].tolist() == [1.0, 2.0]
    assert load(tmp_path, b"(dp0\nS'it\\'s'\np1\nL12L\nsS'\\x80'\nF1.5\ns.") == {"it's": 12, "\x80": 1.5}


def test_only_the_requested_rows_are_read(tmp_path: Path) -> None:
    found = load(tmp_path, pickle.dumps({"x": BIG, "small": BIG[:1, :2]}, 4))
    assert isinstance(found["x"]._payload, FileRange) and isinstance(found["small"]._payload, bytes)
    assert found["x"].shape == BIG.shape and len(found["x"]) == 40
    assert np.array_equal(found["x"].row(7), BIG[7])
    (tmp_path / "x.pkl").write_bytes((tmp_path / "x.pkl").read_bytes()[:50_000])
    with pytest.raises(IvrError, match="ends early"):
        found["x"].row(39)


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self._made = (call, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Evil(__import__("os").system, "touch pwned"), r"(posix|nt)\.system"),
        (Evil(eval, "open('pwned', 'w')"), r"(builtins|__builtin__)\.eval"),
        (Evil(getattr, {}, "update"), r"(builtins|__builtin__)\.getattr"),
        (Evil(np.load, "x.pkl"), r"numpy\.load"),
        (Fraction(1, 2), r"fractions\.Fraction"),
        (collections.Counter("aab"), r"collections\.Counter"),
        (collections.defaultdict(int), r"collections\.defaultdict"),
        (np.ma.masked_array([1.0], [True]), r"numpy\.ma"),
        (Path("x"), r"pathlib"),
        (1 + 2j, r"(builtins|__builtin__)\.complex"),
    ],
)
def test_classes_and_functions_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, value: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"names {name}.*neither a numpy array nor a plain container.*x\.pkl"):
        load(tmp_path, pickle.dumps([BIG[:1], value], protocol))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"(S'touch pwned'\nios\nsystem\n.", r"os\.system"),
        (b"\x80\x02c__main__\nBad\n)\x81.", r"__main__\.Bad"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", r"builtins\.exec"),
        (b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.", r"numpy\.ndarray\.__reduce__"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "creates an object of a class"),
        (b"\x80\x02\x82\x01.", "creates an object of a class"),
        (b"Pouter\n.", "refers to one outside"),
        (b"\x80\x02]K\x01\x85R.", "calls something"),
        (b"\x80\x02}}b.", "changes the state"),
        (b"\x80\x02cnumpy\ndtype\n}b.", "changes the state"),
    ],
)
def test_hand_made_attacks_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, data)


def array_of(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    """A pickle of one array with any claims."""
    text = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" + shape
    return text + b"cnumpy\ndtype\nX" + struct.pack("<I", len(dtype)) + dtype + b"\x89\x88\x87R\x89" + content + b"tb."


SMALL_SHAPE = b"K\x02\x85"
EXABYTE = b"\x8a\x08" + struct.pack("<q", 1 << 60) + b"\x85"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (array_of(EXABYTE, b"f4", b"C\x08" + bytes(8)), r"shape \[1152921504606846976\]"),
        (array_of(b"K\x00" + EXABYTE[:-1] + b"\x86", b"f4", b"C\x00"), "shape"),
        (array_of(b"M\xff\xffM\xff\xff\x86", b"f4", b"C\x08" + bytes(8)), "takes 17179344900 bytes, but has 8"),
        (array_of(SMALL_SHAPE, b"f4", b"C\x07" + bytes(7)), "takes 8 bytes, but has 7"),
        (array_of(b"J\xff\xff\xff\xff\x85", b"f4", b"C\x08" + bytes(8)), "no shape"),
        (array_of(b"(" + b"K\x01" * 9 + b"t", b"f4", b"C\x04" + bytes(4)), "no shape"),
        (array_of(SMALL_SHAPE, b"V8", b"C\x10" + bytes(16)), "V8"),
        (array_of(SMALL_SHAPE, b"M8[s]", b"C\x10" + bytes(16)), "M8"),
        (array_of(SMALL_SHAPE, b"c16", b"C\x20" + bytes(32)), "c16"),
        (array_of(SMALL_SHAPE, b"U0", b"C\x00"), "without a width"),
        (array_of(SMALL_SHAPE, b"f3", b"C\x06" + bytes(6)), "not a pickle that can be read"),
        (array_of(SMALL_SHAPE, b"O8", b"]"), "does not have the 2"),
        (array_of(SMALL_SHAPE, b"f4", b"N"), "not bytes"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"xx.", "cut off"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"xx.", "cut off"),
        (b"\x80\x05\x96" + struct.pack("<Q", (1 << 64) - 1) + b"xx.", "cut off"),
        (b"\x80\x02\x8b" + struct.pack("<I", 1000) + bytes(1000) + b".", "integer of 1000 bytes"),
        (b"I" + b"9" * 5000 + b"\n.", "many digits"),
        (b"X\xff\xff\xff\x7fxx.", "cut off"),
        (b"\x80\x04)" + b"\x85" * 300_000 + b"}q\x00h\x00K\x01\x86s.", "not a pickle"),
        (b"\x80\x04})" + b"\x85" * 300_000 + b"K\x01s.", "neither text nor a number"),
        (b"\x80\x04}]K\x01s.", "neither text nor a number"),
        (b"\x80\x04K\x01K\x02a.", "not a container"),
        (b"\x80\x04(K\x01d.", "not a pickle"),
        (b"\x80\x04h\x05.", "not a pickle"),
        (b"\x80\x04.", "not a pickle"),
        (b"\x80\x04K", "cut off"),
        (b"\x80\x04]", "cut off"),
        (b"", "an empty file, not a pickle"),
        (b"PK\x03\x04", "a zip archive, as .*torch.save"),
        (b"\x89HDF\r\n", "unknown instruction"),
        (b"S'" + b"[" * 100_000 + b"\n.", "not a pickle"),
        (b"Sx" + b"(" * 100_000 + b"\n.", "not a pickle"),
        # One megabyte of text that is encoded again and again.
        (
            b"\x80\x02c_codecs\nencode\nq\x00X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"q\x01"
            b"]" + b"h\x00h\x01\x85Ra" * 50 + b".",
            "copies its text more often",
        ),
        # One megabyte that was left in the file, as many single values.
        (
            b"\x80\x02cnumpy.core.multiarray\nscalar\nq\x00cnumpy\ndtype\nX\x08\0\0\0S1048576\x89\x88\x87Rq\x01B"
            + struct.pack("<I", 1 << 20)
            + b"x" * (1 << 20)
            + b"q\x02]"
            + b"h\x00h\x01h\x02\x86Ra" * 50
            + b".",
            "copies its text more often",
        ),
    ],
)
def test_nonsense_is_refused_before_anything_of_its_size_exists(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, data)


SOUND = [pickle.dumps({"arrays": ARRAYS["text"], "small": BIG[:2, :2, :2], "values": VALUES}, p) for p in (0, 2, 4)]


@settings(max_examples=300)
@given(st.sampled_from(SOUND), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=6))
def test_changed_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, changes: list[tuple[float, bytes]]
) -> None:
    changed = bytearray(data)
    for place, new in changes:
        start = int(place * len(changed))
        changed[start : start + len(new)] = new
    folder = tmp_path_factory.getbasetemp()
    with contextlib.suppress(IvrError):
        load(folder, bytes(changed))


def test_instructions_are_those_of_python() -> None:
    from ivr_dist.corpora.readers.safe_pickle import _INSTRUCTIONS

    # STOP ends the run; all else that Python's pickles can hold is either done or refused by name.
    assert {op.code.encode("latin-1") for op in pickletools.opcodes} - set(_INSTRUCTIONS) == {b"."}


def test_lists_of_rows_and_texts(tmp_path: Path) -> None:
    rows = [np.ones(3, np.float32), [1, 2.5, 3]]
    found = load(tmp_path, pickle.dumps([rows, np.array(rows[:1]), [], [[1], [1, 2]], [["a"]], [[[1]] * 2], "ab"], 4))
    assert as_rows(found[0]).tolist() == [[1, 1, 1], [1, 2.5, 3]]
    assert as_rows(found[1]).tolist() == [[1, 1, 1]]
    assert as_rows(found[2], 3).shape == (0, 3)
    for wrong in found[3:]:
        with pytest.raises(ValueError, match=r"steps|numbers|features"):
            as_rows(wrong)
    assert as_texts(found[4][0]) == ["a"]
    again = [np.ones(1 << 16)] * 66
    with pytest.raises(ValueError, match="65 of 66 steps of 65536 features are repeated rows"):
        as_rows(load(tmp_path, pickle.dumps(again)))
    with pytest.raises(ValueError, match="not a list of texts"):
        as_texts("ab")


def test_a_file_may_share_its_parts_without_growing(tmp_path: Path) -> None:
    # Ten lists of ten of the list before: ten thousand million numbers if they were followed.
    data = b"\x80\x02]" + b"".join(b"q%c]" % level + b"(" + b"h%c" % level * 10 + b"e" for level in range(10)) + b"."
    found = load(tmp_path, data)
    for convert in (as_rows, as_texts):
        with pytest.raises(ValueError):
            convert(found)


def test_texts_of_python_2_are_utf_8_or_refused(tmp_path: Path) -> None:
    found = load(tmp_path, b"(lp0\nS'caf\\xc3\\xa9'\np1\naS'good'\np2\naS'caf\\xe9'\np3\na.")
    assert as_texts(found[:2]) == ["caf\u00e9", "good"]
    with pytest.raises(ValueError, match=r"not UTF-8 text: byte 0xe9 \(entry 0 of the list\)"):
        as_texts(found[2:])
    assert load(tmp_path, pickle.dumps(np.array([b"x\xff"]), 2)).load().tolist() == [b"x\xff"]


def test_text_of_letters_that_do_not_exist_is_refused(tmp_path: Path) -> None:
    found = load(tmp_path, pickle.dumps(np.array([97, 0x110000], np.uint32).view("U1")))
    with pytest.raises(ValueError, match="invalid characters"):
        as_texts(found)


def test_what_was_not_remembered_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refers to entry 101 of its memo, which does not exist"):
        load(tmp_path, b"hello\n")
