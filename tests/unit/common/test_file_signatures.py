"""File signatures: kinds of files by their first bytes; text of common encodings."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import pickle
import re
import tarfile
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.common.file_signatures import HEAD, decode_text, kind_of, other_kind

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def archived(write: str) -> bytes:
    out = io.BytesIO()
    if write == "npy":
        np.save(out, np.ones(3))
    elif write == "npz":
        np.savez(out, a=np.ones(3))
    elif write == "empty zip":
        zipfile.ZipFile(out, "w").close()
    elif write == "tar":
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a"))
    else:
        with h5py.File(out, "w") as file:
            file["a"] = 1
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (gzip.compress(b"x"), "compressed with gzip"),
        (bz2.compress(b"x"), "compressed with bzip2"),
        (bz2.compress(b""), "compressed with bzip2"),
        (lzma.compress(b"x"), "compressed with xz"),
        (lzma.compress(b"x", lzma.FORMAT_ALONE), "compressed with lzma"),
        (zlib.compress(b"x"), "compressed with zlib"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed with zstd"),
        (b"7z\xbc\xaf\x27\x1c\x00", "compressed 7z"),
        (b"Rar!\x1a\x07\x01\x00", "compressed rar"),
        (archived("npz"), "zip archive.*torch.save"),
        (archived("empty zip"), "empty zip"),
        (archived("npy"), ".npy"),
        (archived("hdf5"), "HDF5"),
        (archived("tar"), "tar archive"),
        (pickle.dumps({}), "pickle"),
        (LFS, "pointer of Git LFS"),
        (b"/annex/objects/SHA256E-s1--a.pkl\n", "pointer of git-annex"),
        (b"\n <!DOCTYPE html>\n", "web page"),
        (codecs.BOM_UTF8 + b"<html lang=en>", "web page"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (b"PAR1\x15\x04", "parquet"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "recording"),
        (b"", "empty file"),
        (b" \r\n\t", "nothing but blanks"),
        (bytes(2000), "nothing but blanks or zero bytes"),
    ],
    # Not the bytes: some have the time in them, and then two processes name a test differently.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_are_known_by_their_first_bytes(data: bytes, name: str) -> None:
    found = kind_of(data[:HEAD])
    assert found is not None and found.remedy

    assert re.search(name, found.name), found
    assert other_kind(data[:HEAD], "a thing", found.name[:8]) is None
    told = other_kind(data[:HEAD], "a thing")
    assert told is not None and told[0] == f"this is {found.name}, not a thing"


@pytest.mark.parametrize(
    "text", ["a: 1\n", '{"id": "a"}\n', "video_1\nvideo_2\n", "RIFF raff", "\u5f88\u597d", "(dp0\n"]
)
def test_text_is_nothing_else(text: str) -> None:
    assert kind_of(text.encode()) is None


@given(st.binary(max_size=600))
def test_any_bytes_have_a_kind_or_none(data: bytes) -> None:
    found = other_kind(data, "a tar", "a tar")
    assert found is None or all(found)


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\ufeff"), max_size=200)


@given(TEXTS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_text_comes_back_from_every_encoding_that_says_what_it_is(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text


@given(TEXTS, st.sampled_from(["gbk", "latin-1", "cp1251", "shift_jis", "utf-16-le", "utf-16-be"]))
def test_another_encoding_is_refused_or_ascii(text: str, encoding: str) -> None:
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError:
        return
    try:
        found = decode_text(data)
    except ValueError as error:
        assert "line" in str(error) or "zero bytes" in str(error)
    else:
        # Nothing was made up for what could not be read.
        assert found.encode() == data.removeprefix(codecs.BOM_UTF8) or data[:2] in (codecs.BOM_UTF16_LE, b"\xfe\xff")


def test_the_line_is_named() -> None:
    with pytest.raises(ValueError, match="line 3 is not UTF-8 text: byte 0xe9 at 7"):
        decode_text(b"a\nb\ncaf\xe9\n")
