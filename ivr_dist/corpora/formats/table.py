"""Format `table`: a JSONL, csv or tsv file with a row for each sample, and a .npy file for each of its modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ivr_dist import storage
from ivr_dist.common.file_signatures import is_text
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.corpora.card import Card, FeatureSet
from ivr_dist.corpora.card_mappings import TableMapping
from ivr_dist.corpora.card_parser import suggest
from ivr_dist.corpora.card_source import CardSource
from ivr_dist.corpora.files import split_of_group
from ivr_dist.corpora.formats.table_mapping import MappedTable
from ivr_dist.corpora.readers.numpy_file import parse_npy
from ivr_dist.corpora.readers.table_cells import is_delimited, read_cells, read_objects
from ivr_dist.corpora.readers.texts import is_missing
from ivr_dist.corpora.source import Array, SampleRef, SourceSample, check_hygiene, checked_labels
from ivr_dist.corpora.split_shares import split_by_shares
from ivr_dist.errors import DataError
from ivr_dist.shards.npy import NUMBERS

_KEYS = frozenset(("id", "split", "group", "labels", "transcript", "provenance", *MODALITIES))


class TableSource(CardSource):
    """A corpus listed in a table.

    Columns are those that the card maps (see `TableMapping`). A JSONL file without a mapping is read strictly: a line
    is an object with `id`, `split` (unless the card assigns groups to splits), `labels` (numbers by task, null or
    absent where there is none) and optionally `group`, `transcript`, `provenance`, and `text`, `audio`, `vision`: paths
    of .npy files relative to the folder that is packed. A file of one vector is a sequence of one step.

    Args:
        root: Folder or URL that all paths are relative to.
        card: A card of format `table`.

    Raises:
        DataError: A row is invalid, the splits have leakage, or a split has another number of samples than the card
            expects.
    """

    def __init__(self, root: str, card: Card) -> None:
        if card.table is None:
            raise ValueError(f"card {card.name} is not of format table")
        self._root = root
        self._card = card
        self._file = card.files[card.table.file]
        self._rows: list[dict[str, Any]] = []
        self._lines: list[int] = []
        self._read_rows(card.table)
        self._features = card.feature_specs(self._read_dims())
        self._splits = check_hygiene(self._read_splits(), card.expected_counts(), f"corpus {card.name}", card.split_by)

    def paths(self) -> list[str]:
        """List the .npy files of all samples, relative to the folder that is packed."""
        return [row[name] for row in self._rows for name in MODALITIES if row.get(name) is not None]

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Read the arrays of one sample.

        Raises:
            DataError: A .npy file is missing or damaged, or a label is out of range.
        """
        row = self._rows[ref.number]
        provenance = {"file": self._file.path, "line": self._lines[ref.number]}
        if ref.group is not None:
            provenance["group"] = ref.group
        return SourceSample(
            id=ref.id,
            split=split,
            group=ref.group,
            labels=checked_labels(row.get("labels", {}), self._card.tasks, self._where(ref.number)),
            transcript=row.get("transcript") or "",
            provenance=row.get("provenance", {}) | provenance,
            arrays={name: self._array(name, ref.number) for name in MODALITIES if row.get(name) is not None},
        )

    def _where(self, number: int) -> str:
        return f"{self._table_name()}, line {self._lines[number]}"

    def _table_name(self) -> str:
        return storage.display(storage.join(self._root, self._file.path))

    def _read_rows(self, mapping: TableMapping) -> None:
        if is_delimited(self._file.path) or not mapping.is_plain():
            table = read_cells(self._root, self._file, mapping.encoding)
            mapped = MappedTable(self._root, self._card, mapping, table)
            self._lines = [row.line for row in table.rows]
            self._rows, self._notes = mapped.rows(), mapped.notes
        else:
            for line, row in read_objects(self._root, self._file):
                self._lines.append(line)
                self._rows.append(_checked_row(row, self._where(len(self._rows)), self._card.features))
        first_of: dict[str, int] = {}
        for number, row in enumerate(self._rows):
            if (first := first_of.setdefault(row["id"], number)) != number:
                lines = f"lines {self._lines[first]} and {self._lines[number]}"
                raise DataError(
                    f"sample id {row['id']} is given twice",
                    where=f"{self._table_name()}, {lines}",
                    remedy="make ids unique; table.id can join columns, such as '{video}_{clip}'",
                )
            for name in MODALITIES:
                if name in row:
                    self._url(row[name], number)

    def _read_dims(self) -> dict[str, int]:
        """Read the widths that the card does not state, from the first sample that has the modality."""
        dims = {}
        for name, described in self._card.features.items():
            number = next((number for number, row in enumerate(self._rows) if row.get(name) is not None), None)
            if described.dim is None and described.kind == "features" and number is not None:
                array = self._array(name, number)
                if array.ndim == 2:
                    dims[name] = array.shape[1]
        return dims

    def _read_splits(self) -> dict[str, list[SampleRef]]:
        if self._card.split_shares is not None:
            refs = [SampleRef(number, row["id"], row.get("group")) for number, row in enumerate(self._rows)]
            where = f"corpus {self._card.name}"
            return split_by_shares(refs, self._card.split_shares, self._card.split_seed, where)
        by_group = split_of_group(self._root, self._card)
        splits: dict[str, list[SampleRef]] = {name: [] for name in self._card.splits}
        called = {split.called or name: name for name, split in self._card.splits.items()}
        for number, row in enumerate(self._rows):
            group = row.get("group")
            stated = row.get("split")
            name = called.get(str(stated)) if by_group is None else by_group.get(str(group))
            if name is None:
                what = f"unknown split {stated!r}" if by_group is None else f"group {group} is in no split"
                remedy = f"describe it in the card; it has {', '.join(splits)}"
                raise DataError(what, where=self._where(number), remedy=remedy)
            splits[name].append(SampleRef(number, row["id"], group))
        return splits

    def _url(self, path: str, number: int) -> str:
        try:
            return storage.join(self._root, path)
        except storage.UnsafeNameError:
            remedy = "use a path below the folder that is packed"
            raise DataError(f"{path!r} leads out of the corpus", where=self._where(number), remedy=remedy) from None

    def transcript(self, split: str, ref: SampleRef) -> str:
        """Return the transcript of one sample without reading its arrays."""
        return self._rows[ref.number].get("transcript") or ""

    def _array(self, modality: str, number: int) -> Array:
        url = self._url(self._rows[number][modality], number)
        where = f"{storage.display(url)}, named by {self._where(number)}"
        try:
            data = storage.read_bytes(url)
        except storage.NotFoundError:
            raise DataError("no such file", where=where, remedy="correct the table or add the file") from None
        array = parse_npy(data, where)
        if array.ndim == 0 or array.dtype.kind not in NUMBERS:
            what = "text" if array.dtype.kind not in NUMBERS else "a single value"
            raise DataError(f"an array of {what} ({array.dtype}), not numbers of one or more steps", where=where)
        described = self._card.features[modality]
        if array.ndim == 1 and described.kind == "features":
            # One vector for the whole sample is a sequence of one step.
            return array[:, None] if described.dim == 1 else array[None, :]
        return array


def _checked_row(row: dict[str, Any], where: str, features: Mapping[str, FeatureSet]) -> dict[str, Any]:
    """Check an object that has the keys of the format; returns it without missing values."""
    # Many programs write NaN for null.
    row = {name: value for name, value in row.items() if name == "id" or not is_missing(value) or name not in _KEYS}
    for name, value in row.items():
        if name not in _KEYS:
            raise DataError(f"unknown key {name}", where=where, remedy=suggest(name, _KEYS))
        if name in MODALITIES and name not in features:
            raise DataError(f"{name} is not among the card's features", where=where, remedy="describe it in the card")
        expected = dict if name in ("labels", "provenance") else str
        if not isinstance(value, expected):
            kind = "an object" if expected is dict else "a text"
            raise DataError(f"key {name} is not {kind}", where=where)
        if name in MODALITIES and not (is_text(str(value)) and "\0" not in value):
            raise DataError(f"key {name} is not the name of a file", where=where)
    if not row.get("id"):
        raise DataError("the sample has no id", where=where, remedy="write a unique id on every line")
    for task, value in row.get("labels", {}).items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise DataError(f"label {task} is not a number or null", where=where)
    return row
