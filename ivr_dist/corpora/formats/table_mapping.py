"""Columns of a table become the fields of samples, as the card of format `table` maps them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.card_mappings import TableMapping
from ivr_dist.corpora.card_parser import suggest
from ivr_dist.corpora.readers import column_template
from ivr_dist.corpora.readers.delimited import DelimitedFile, Row
from ivr_dist.corpora.readers.texts import PLACEHOLDERS
from ivr_dist.errors import DataError
from ivr_dist.shards.specs import TaskSpec

NO_LABEL = PLACEHOLDERS | {"", "NA", "N/A", "n/a"}
"""Fields that stand for no label."""
TRUTH = {"true": 1.0, "false": 0.0}
"""Words for the classes 1 and 0, in any case."""


class MappedTable:
    """The rows of a table as objects with the keys of format `table`.

    Args:
        root: Folder or URL that paths are relative to.
        card: The card.
        mapping: Its section `table`.
        table: The file.

    Raises:
        DataError: A column does not exist.
    """

    def __init__(self, root: str, card: Card, mapping: TableMapping, table: DelimitedFile) -> None:
        self._root = root
        self._card = card
        self._table = table
        self._id = mapping.id
        is_assigned = card.split_shares is not None or card.splits_by_group()
        self._split = None if is_assigned else mapping.split or "split"
        self._group = mapping.group or self._optional("group")
        self._transcript = mapping.transcript or self._optional("transcript")
        self._labels = {task: (mapping.labels or {}).get(task, task) for task in card.tasks}
        self._templates = mapping.paths()
        self._paths = {
            name: name for name in card.features if name not in self._templates and name in self._table.columns
        }
        self._provenance = mapping.provenance
        named = [self._id, self._split, self._group, self._transcript, *self._templates.values()]
        table.require(
            column
            for name in (*filter(None, named), *self._labels.values(), *self._provenance)
            for column in (column_template.columns_of(name) if column_template.is_template(name) else [name])
        )
        self.notes: list[str] = []
        """Files that are missing, a sentence for each modality."""

    def rows(self) -> list[dict[str, Any]]:
        """Convert all rows.

        Raises:
            DataError: A value does not fit; names the line.
        """
        rows = [self._converted(row) for row in self._table.rows]
        for modality in self._templates:
            self._drop_missing_files(modality, rows)
        return rows

    def _optional(self, column: str) -> str | None:
        return column if column in self._table.columns else None

    def _converted(self, row: Row) -> dict[str, Any]:
        converted: dict[str, Any] = {"id": self._value(self._id, row)}
        if not converted["id"]:
            remedy = "fill in a unique id on every line"
            raise DataError(f"the sample has no id ({self._id})", where=self._table.at(row), remedy=remedy)
        if self._split is not None:
            converted["split"] = self._value(self._split, row)
        if self._group is not None and (group := self._value(self._group, row)):
            converted["group"] = group
        if self._transcript is not None:
            converted["transcript"] = row[self._transcript].strip()
        converted["labels"] = {task: self._label(task, row[column], row) for task, column in self._labels.items()}
        for name, text in (self._templates | self._paths).items():
            if path := self._value(text, row):
                converted[name] = path
        if self._provenance:
            converted["provenance"] = {column: row[column] for column in self._provenance}
        return converted

    def _value(self, text: str, row: Row) -> str:
        """Return the field of a column, or a filled template."""
        if not column_template.is_template(text):
            return row[text].strip()
        try:
            return column_template.fill(text, row.values.__getitem__)
        except ValueError as error:
            raise DataError(str(error), where=self._table.at(row), remedy=f"correct {text} in the card") from None

    def _label(self, task: str, text: str, row: Row) -> float | None:
        try:
            return parse_label(text, self._card.tasks[task])
        except ValueError as error:
            what, remedy = error.args
            raise DataError(f"label {task} is {what}", where=self._table.at(row), remedy=remedy) from None

    def _drop_missing_files(self, modality: str, rows: list[dict[str, Any]]) -> None:
        """Leave a modality out of the samples whose file does not exist; refuse a template that fits no file."""
        missing = [number for number, row in enumerate(rows) if modality not in row]
        paths = {number: row[modality] for number, row in enumerate(rows) if modality in row}
        existing = existing_files(self._root, paths.values())
        missing += [number for number, path in paths.items() if path not in existing]
        if not missing:
            return
        first = min(missing)
        path = rows[first].get(modality, "an empty name")
        if len(missing) == len(rows):
            raise DataError(
                f"none of the {len(rows)} files of {modality} exists, the first is {path}",
                where=self._table.at(self._table.rows[first]),
                remedy=f"correct table.{modality} in the card, or pack the folder that holds them",
            )
        self.notes.append(
            f"{modality} has no file in {len(missing)} of {len(rows)} rows, which are packed without it; the first is "
            f"{path} (line {self._table.rows[first].line})"
        )
        for number in missing:
            rows[number].pop(modality, None)


def parse_label(text: str, task: TaskSpec) -> float | None:
    """Convert a field to a label: a number, or the number of the class it names; None where it is empty.

    Raises:
        ValueError: It is neither; with the fault and a remedy as arguments.
    """
    text = text.strip()
    if text in NO_LABEL:
        return None
    if task.names is not None:
        exact = {name: float(number) for number, name in enumerate(task.names)}
        folded = {name.casefold(): number for name, number in exact.items()}
        if text in exact:
            return exact[text]
        if len(folded) == len(exact) and text.casefold() in folded:
            return folded[text.casefold()]
    if task.type == "classification" and text.lower() in TRUTH:
        return TRUTH[text.lower()]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    if task.names is not None:
        raise ValueError(f"{text!r}, not one of the classes", suggest(text, task.names))
    remedy = "write a number, or leave the field empty where there is no label"
    if task.type == "classification":
        remedy += "; names of classes stand in the card as tasks.TASK.names"
    raise ValueError(f"{text!r}, not a number", remedy)


def existing_files(root: str, paths: Iterable[str]) -> set[str]:
    """Return those of the paths below `root` that exist, listing each folder once; all where storage cannot list.

    Paths that lead out of `root` are returned, too: the reader refuses them with their line.
    """
    by_folder: dict[str, set[str]] = defaultdict(set)
    existing = set()
    for path in paths:
        by_folder[path.rpartition("/")[0]].add(path)
    for folder, below in by_folder.items():
        try:
            url = storage.join(root, folder) if folder else root
        except storage.UnsafeNameError:
            existing |= below
            continue
        if not storage.can_list(url):
            existing |= below
            continue
        names = set(storage.list_dir(url))
        existing |= {path for path in below if path.rpartition("/")[2] in names}
    return existing
