"""File signatures (magic bytes) and text encodings: identifies the actual type of a file, for precise errors.

Downloads go wrong in many ways: a site answers with a web page, Git LFS leaves a pointer, an archive is renamed instead
of unpacked. Readers that cannot read a file use this module to identify it.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

HEAD = 512
"""Bytes at the start of a file that identify it."""

_UNPACK = "unpack it first"
_AGAIN = "get the file again"
_POINTER = "the content was not fetched; get it"
_OTHER = "give the right file"


@dataclass(frozen=True)
class FileKind:
    """A kind of file."""

    name: str
    """With its article, such as `a file compressed with gzip`."""
    remedy: str


_BY_MAGIC = (
    (b"\x1f\x8b", FileKind("a file compressed with gzip", f"{_UNPACK} (gunzip)")),
    (b"\x1f\x9d", FileKind("a file compressed with compress", f"{_UNPACK} (uncompress)")),
    (b"\xfd7zXZ\0", FileKind("a file compressed with xz", f"{_UNPACK} (unxz)")),
    (b"\x5d\0\0", FileKind("a file compressed with lzma", f"{_UNPACK} (unlzma)")),
    (b"\x28\xb5\x2f\xfd", FileKind("a file compressed with zstd", f"{_UNPACK} (unzstd)")),
    (b"\x78\x01", FileKind("a file compressed with zlib", _UNPACK)),
    (b"\x78\x9c", FileKind("a file compressed with zlib, as joblib does", _UNPACK)),
    (b"\x78\xda", FileKind("a file compressed with zlib", _UNPACK)),
    (b"\x04\x22\x4d\x18", FileKind("a file compressed with lz4", f"{_UNPACK} (unlz4)")),
    (b"LZIP\x01", FileKind("a file compressed with lzip", f"{_UNPACK} (lzip -d)")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a compressed 7z archive", _UNPACK)),
    (b"Rar!\x1a\x07", FileKind("a compressed rar archive", _UNPACK)),
    (b"PK\x03\x04", FileKind("a zip archive, as .npz files, torch.save and office programs write", _OTHER)),
    (b"PK\x05\x06", FileKind("an empty zip archive", _AGAIN)),
    (b"\x93NUMPY", FileKind("a .npy file", _OTHER)),
    (b"\x89HDF\r\n\x1a\n", FileKind("an HDF5 file", _OTHER)),
    (b"CDF\x01", FileKind("a NetCDF file", _OTHER)),
    (b"CDF\x02", FileKind("a NetCDF file", _OTHER)),
    (b"MATLAB 5.0 MAT-file", FileKind("a MATLAB file", "save its arrays as .npy or .npz")),
    (b"PAR1\x15", FileKind("a parquet file", "convert it")),
    (b"ARROW1\0\0", FileKind("an Arrow file", "convert it")),
    (b"FEA1\0\0\0\0", FileKind("a feather file", "convert it")),
    (b"SQLite format 3\0", FileKind("an SQLite data base", "convert it")),
    (b"%PDF-", FileKind("a PDF document", _OTHER)),
    (b"\x89PNG\r\n\x1a\n", FileKind("a PNG image", _OTHER)),
    (b"\xff\xd8\xff", FileKind("a JPEG image", _OTHER)),
    (b"\x7fELF", FileKind("a program", _OTHER)),
    (b"\0\x05\x16\x07", FileKind("a file of macOS metadata (AppleDouble)", "give the file itself")),
    (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", FileKind("a file of torch.save", "convert it")),
    (b"version https://git-lfs.github.com/", FileKind("a pointer of Git LFS", f"{_POINTER} with `git lfs pull`")),
    (b"/annex/objects/", FileKind("a pointer of git-annex", f"{_POINTER} with `git annex get`")),
)
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
_RIFF = re.compile(rb"RIFF.{4}(WAVE|AVI )", re.S)
_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body)\b", re.I)
_XML = re.compile(rb"\s*<\?xml\b")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_BLANKS = b" \t\r\n\0"

_BOMS = (
    # UTF-32 before UTF-16: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def kind_of(head: bytes) -> FileKind | None:
    """Identify a file by its first bytes.

    Args:
        head: Its first `HEAD` bytes, or all of a shorter one.

    Returns:
        None for plain text and for unknown kinds.
    """
    if not head:
        return FileKind("an empty file", _AGAIN)
    if not head.strip(_BLANKS):
        return FileKind("nothing but blanks or zero bytes", _AGAIN)
    for magic, kind in _BY_MAGIC:
        if head.startswith(magic):
            return kind
    if _BZIP2.match(head):
        return FileKind("a file compressed with bzip2", f"{_UNPACK} (bunzip2)")
    if _RIFF.match(head):
        return FileKind("a recording (WAV, AVI)", _OTHER)
    text = head.removeprefix(codecs.BOM_UTF8)
    if _PAGE.match(text):
        return FileKind("a web page (HTML), as sites return instead of a file", f"{_AGAIN}; open this one to see why")
    if _XML.match(text):
        return FileKind("an XML document, as object stores answer with", f"{_AGAIN}; open this one to see why")
    if head[257:262] == b"ustar":
        return FileKind("a tar archive", _OTHER)
    if _PICKLE.match(head):
        return FileKind("a pickle", _OTHER)
    return None


def other_kind(head: bytes, expected: str, *accepted: str) -> tuple[str, str] | None:
    """Return fault and remedy if the first bytes identify a file as another kind than expected.

    Args:
        head: As for `kind_of`.
        expected: What it should be, with its article.
        accepted: Prefixes of the names of kinds that are accepted.
    """
    kind = kind_of(head)
    if kind is None or kind.name.startswith(accepted):
        return None
    return f"this is {kind.name}, not {expected}", kind.remedy


def decode_text(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark, which is removed.

    Raises:
        ValueError: It has another encoding; names the line.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding)
    if b"\0" in data[:HEAD]:
        raise ValueError("it has zero bytes: it is not text, or UTF-16 without a byte order mark")
    return _strict(data, "utf-8")


def is_text(value: str) -> bool:
    """Whether a text can be encoded: escapes of JSON and YAML can contain half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _strict(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "replace").count("\n") + 1
        name = encoding.removesuffix("-le").removesuffix("-be").upper()
        raise ValueError(f"line {line} is not {name} text: byte 0x{data[error.start]:02x} at {error.start}") from None
