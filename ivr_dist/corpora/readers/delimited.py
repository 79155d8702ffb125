"""Rows of csv and tsv files with a header, and the lines they begin on.

Quoting is that of csv (RFC 4180): a field in double quotes may hold separators, line breaks and doubled quotes. A file
that breaks these rules is refused with its line, instead of being read in another way than it was meant.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ivr_dist import storage
from ivr_dist.common.file_signatures import decode_text
from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.card_parser import suggest
from ivr_dist.corpora.files import read_source_file, refuse_other
from ivr_dist.errors import DataError
from ivr_dist.sanitize import shorten

SUFFIXES = {".csv": ",", ".tsv": "\t"}
"""Suffixes of delimited files, and the separator that each stands for."""
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
_KIND = "a csv or tsv file"
_UTF8 = "utf-8"
_FALLBACK = "cp1252"
_FALLBACK_NAME = "Windows-1252"
_QUOTES = "put a field that holds quotes, separators or line breaks into double quotes, and double the quotes inside it"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a delimited file."""

    line: int
    """Line of the file on which it begins; the first is 1."""
    values: Mapping[str, str]
    """Fields by column, as they stand in the file; an empty field is an empty text."""

    def __getitem__(self, column: str) -> str:
        """Return the field of a column."""
        return self.values[column]


@dataclass(frozen=True)
class DelimitedFile:
    """A csv or tsv file that was read."""

    where: str
    """Its name, for errors."""
    columns: tuple[str, ...]
    """Names of the header in their order; columns without a name are left out."""
    rows: list[Row]
    """Rows in their order; blank lines are left out."""

    def at(self, row: Row) -> str:
        """Name the line of a row, for errors."""
        return f"{self.where}, line {row.line}"

    def require(self, columns: Iterable[str]) -> None:
        """Refuse a file that lacks a column.

        Raises:
            DataError: A column is missing; suggests one of those that are there.
        """
        for column in columns:
            if column not in self.columns:
                remedy = suggest(column, self.columns)
                raise DataError(f"there is no column {column!r}", where=self.where, remedy=remedy)


def read_delimited(
    root: str, file: SourceFile, required: Iterable[str] = (), *, encoding: str = _UTF8
) -> DelimitedFile:
    """Read a csv or tsv file of the corpus.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card; the suffix .tsv means tabs, any other commas.
        required: Columns that it must have.
        encoding: See `parse_delimited`.

    Raises:
        DataError: It is missing, has another checksum, lacks a column, or cannot be read as such a file.
    """
    where = storage.display(storage.join(root, file.path))
    table = parse_delimited(read_source_file(root, file), where, separator_of(file.path), encoding=encoding)
    table.require(required)
    return table


def separator_of(path: str) -> str:
    """Return the separator that the suffix of a path stands for: a tab for .tsv, otherwise a comma."""
    return next((mark for suffix, mark in SUFFIXES.items() if path.lower().endswith(suffix)), ",")


def parse_delimited(data: bytes, where: str, separator: str = ",", *, encoding: str = _UTF8) -> DelimitedFile:
    """Parse a csv or tsv file with a header.

    Args:
        data: The file.
        where: Its name, for errors.
        separator: Separator of fields. Where the header does not contain it, but one of tabs, commas or semicolons,
            that one is used: spreadsheets write semicolons in some languages.
        encoding: Name of its encoding in Python. `utf-8` also takes UTF-16 and UTF-32 with a byte order mark, which is
            removed.

    Raises:
        DataError: It is of another kind or encoding, has no header or a name twice, breaks the rules of quoting, or a
            row has more or fewer fields than the header; names the line.
    """
    refuse_other(data, _KIND, where)
    text = _decode(data, where, encoding)
    if text.lstrip().startswith("{"):
        what = "this is JSON, not a csv or tsv file"
        raise DataError(what, where=where, remedy="call a file of one JSON object a line .jsonl")
    records = _records(text, where, _actual_separator(text, separator))
    line, header = next(records, (1, []))
    names = _header(header, f"{where}, line {line}")
    rows = []
    for line, fields in records:
        if len(fields) != len(names):
            raise _wrong_count(len(fields), len(names), f"{where}, line {line}")
        rows.append(Row(line, {name: field for name, field in zip(names, fields, strict=True) if name}))
    return DelimitedFile(where, tuple(filter(None, names)), rows)


def _decode(data: bytes, where: str, encoding: str) -> str:
    if encoding != _UTF8:
        try:
            return data.decode(encoding)
        except LookupError:
            what, remedy = f"{encoding!r} is not an encoding", f"write {_UTF8} or {_FALLBACK}, for example"
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            what, remedy = f"line {line} is not {encoding} text: byte 0x{data[error.start]:02x}", "name its encoding"
        raise DataError(what, where=where, remedy=remedy)
    try:
        return decode_text(data)
    except ValueError as error:
        raise DataError(str(error), where=where, remedy=_other_encoding(data)) from None


def _other_encoding(data: bytes) -> str:
    """Tell how to convert a file that is not UTF-8, showing the words around the byte as Windows-1252 reads them."""
    try:
        data.decode(_UTF8)
        position = 0
    except UnicodeDecodeError as error:
        position = error.start
    try:
        around = data[max(0, position - 12) : position + 12].decode(_FALLBACK)
    except UnicodeDecodeError:
        return "save it as UTF-8"
    return (
        f"save it as UTF-8; if {shorten(ascii(around), 40)} is right, it is {_FALLBACK_NAME}: "
        f"iconv -f {_FALLBACK_NAME.upper()} -t UTF-8 FILE > NEW"
    )


def _actual_separator(text: str, separator: str) -> str:
    header = text.lstrip("\r\n").split("\n", 1)[0]
    if separator in header:
        return separator
    return max(_SEPARATORS, key=lambda mark: (header.count(mark), mark == separator))


def _records(text: str, where: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Split the text into records with their first lines, without blank ones."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(f"not a valid row: {error}", where=f"{where}, line {line}", remedy=_QUOTES) from None
        if fields is None:
            return
        # One field of white space is a blank line, unless there is only one column.
        if any(field.strip() for field in fields) or len(fields) > 1:
            yield line, fields
        line = reader.line_num + 1


def _header(fields: list[str], where: str) -> list[str]:
    names = [field.strip() for field in fields]
    if not any(names):
        raise DataError("there is no header", where=where, remedy="write the names of the columns on the first line")
    for name in names:
        if name and names.count(name) > 1:
            remedy = "give each column a name of its own"
            raise DataError(f"{names.count(name)} columns are called {name!r}", where=where, remedy=remedy)
    return names


def _wrong_count(fields: int, columns: int, where: str) -> DataError:
    if fields > columns:
        remedy = "put fields that hold the separator into double quotes"
    else:
        remedy = "write a separator also before an empty field, and double quotes around a field with line breaks"
    return DataError(f"the row has {fields} fields, the header has {columns}", where=where, remedy=remedy)
