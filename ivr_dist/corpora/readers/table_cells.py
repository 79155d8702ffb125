"""Tables of texts: .csv and .tsv files, and .jsonl files of flat objects, with the same interface."""

from __future__ import annotations

import json
from typing import Any

from ivr_dist import storage
from ivr_dist.common import strict_json
from ivr_dist.common.library_errors import describe
from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.files import read_source_text
from ivr_dist.corpora.readers.delimited import SUFFIXES, DelimitedFile, Row, read_delimited
from ivr_dist.corpora.readers.texts import is_missing
from ivr_dist.errors import DataError

_OBJECT = "write one whole JSON object on every line"
_CALL_IT_CSV = "this looks like a table with a header; call it .csv or .tsv"


def is_delimited(path: str) -> bool:
    """Whether the suffix of a path means csv or tsv."""
    return path.lower().endswith(tuple(SUFFIXES))


def read_cells(root: str, file: SourceFile, encoding: str = "utf-8") -> DelimitedFile:
    """Read a table; its kind is that of the suffix: .csv, .tsv, or JSONL.

    Values of JSONL become texts: null and NaN an empty one, objects one column for each key (`labels.sentiment`), lists
    their JSON.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card.
        encoding: Encoding of a csv or tsv file.

    Raises:
        DataError: It is missing, has another checksum, or cannot be read.
    """
    if is_delimited(file.path):
        return read_delimited(root, file, encoding=encoding)
    where = storage.display(storage.join(root, file.path))
    rows, columns = [], dict[str, None]()
    for line, value in read_objects(root, file):
        cells: dict[str, str] = {}
        for key, item in value.items():
            if isinstance(item, dict):
                cells |= {f"{key}.{name}": _text(inner) for name, inner in item.items()}
            else:
                cells[key] = _text(item)
        columns |= dict.fromkeys(cells)
        rows.append(Row(line, cells))
    empty = dict.fromkeys(columns, "")
    return DelimitedFile(where, tuple(columns), [Row(row.line, {**empty, **row.values}) for row in rows])


def read_objects(root: str, file: SourceFile) -> list[tuple[int, dict[str, Any]]]:
    """Read the objects of a JSONL file with their lines.

    Raises:
        DataError: It is missing, has another checksum, or a line is not a JSON object.
    """
    text = read_source_text(root, file, "a JSONL file")
    url = storage.display(storage.join(root, file.path))
    objects = list[tuple[int, dict[str, Any]]]()
    # Not splitlines, which also splits at characters that JSON allows in a string.
    for line, row_text in enumerate(text.split("\n"), start=1):
        if row_text.strip():
            objects.append((line, _object(row_text, f"{url}, line {line}", is_first=not objects)))
    return objects


def _object(text: str, where: str, is_first: bool) -> dict[str, Any]:
    try:
        row = strict_json.loads(text)
    except ValueError as error:
        is_header = is_first and not text.lstrip().startswith(("{", "[")) and any(mark in text for mark in ",;\t")
        remedy = _CALL_IT_CSV if is_header else _OBJECT
        raise DataError(f"not JSON: {describe(error)}", where=where, remedy=remedy) from None
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=where, remedy="write one object on every line, without a list")
    return row


def _text(value: Any) -> str:
    if is_missing(value):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
