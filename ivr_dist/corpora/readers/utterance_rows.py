"""Rows of a table of utterances: .csv and .tsv files, and .json files of objects, with the same interface."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ivr_dist import storage
from ivr_dist.common import strict_json
from ivr_dist.common.library_errors import describe
from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.card_parser import suggest
from ivr_dist.corpora.files import read_source_text
from ivr_dist.corpora.readers import column_template
from ivr_dist.corpora.readers.delimited import read_delimited
from ivr_dist.corpora.readers.texts import is_missing
from ivr_dist.errors import DataError

ID = "id"
"""Column of the key of an object, in a .json file of objects by id."""
_MAX_LIST = 2000
"""Maximum number of characters of a list in a field."""


@dataclass(frozen=True)
class UtteranceRow:
    """One row."""

    values: Mapping[str, Any]
    """By column: text, or in .json files any JSON value."""
    file: str
    """Path of its file, as in the card."""
    line: int | None
    """Line on which it begins; None in a .json file."""
    where: str
    """File and line, or file and id, for errors."""

    def text(self, column: str) -> str:
        """Return a value as text; empty where it is missing.

        Raises:
            DataError: It is a list or an object.
        """
        value = self.values.get(column)
        if is_missing(value):
            return ""
        if not isinstance(value, str | int | float):
            raise DataError(f"{column} is not a text or a number", where=self.where)
        return str(value)

    def texts(self, column: str) -> list[str]:
        """Return a list of texts; empty where it is missing.

        Raises:
            DataError: It is not a list of texts.
        """
        values = self.values.get(column) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise DataError(f"{column} is not a list of texts", where=self.where)
        return values

    def origin(self) -> dict[str, Any]:
        """Return file and line for the provenance."""
        return {"file": self.file} | ({} if self.line is None else {"line": self.line})


def read_rows(root: str, file: SourceFile, columns: Iterable[str]) -> list[UtteranceRow]:
    """Read a table.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card; the suffix .json means JSON, others are those of `delimited`.
        columns: Columns that it must have.

    Raises:
        DataError: It is missing, has another checksum, cannot be read, or lacks a column.
    """
    if file.path.lower().endswith(".json"):
        return _read_json(root, file, list(columns))
    table = read_delimited(root, file, columns)
    return [UtteranceRow(row.values, file.path, row.line, table.at(row)) for row in table.rows]


def _read_json(root: str, file: SourceFile, columns: list[str]) -> list[UtteranceRow]:
    where = storage.display(storage.join(root, file.path))
    try:
        content = strict_json.loads(read_source_text(root, file, "a JSON file"))
    except ValueError as error:
        raise DataError(f"not a JSON file: {describe(error)}", where=where, remedy="check files in the card") from None
    entries = content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else ())
    rows = []
    for key, entry in entries:
        at = f"{where}, entry {key}"
        if not isinstance(entry, dict):
            raise DataError("not an object with the columns of an utterance", where=at)
        values = {ID: key, **entry} if isinstance(content, dict) else entry
        for column in columns:
            if column not in values:
                raise DataError(f"there is no key {column!r}", where=at, remedy=suggest(column, values))
        rows.append(UtteranceRow(values, file.path, None, at))
    if not rows:
        what = "neither an object of objects nor a list of them"
        raise DataError(what, where=where, remedy="check files in the card")
    return rows


def template_columns(template: str) -> list[str]:
    """List the columns that a template names, without `split`."""
    return [name for name in column_template.columns_of(template) if name != "split"]


def fill(template: str, row: UtteranceRow, split: str) -> str:
    """Fill a template such as `{split}_u{Utterance_ID:03}` with the values of a row; empty where one is empty.

    Raises:
        DataError: A value that has to be a number of some digits is none.
    """
    try:
        return column_template.fill(template, lambda name: split if name == "split" else row.text(name))
    except ValueError as error:
        raise DataError(str(error), where=row.where) from None


def speakers(text: str) -> list[str]:
    """Split a field of one speaker, or of a list as Python writes it, into names."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]") and len(text) <= _MAX_LIST:
        try:
            names = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [text]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
    return [text] if text else []
