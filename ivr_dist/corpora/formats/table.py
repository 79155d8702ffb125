"""Format `table`: a JSONL file with a line for each sample, and a .npy file for each modality of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ivr_dist import storage
from ivr_dist.common import strict_json
from ivr_dist.common.file_signatures import is_text
from ivr_dist.common.library_errors import describe
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.corpora.card import Card, FeatureSet
from ivr_dist.corpora.card_parser import suggest
from ivr_dist.corpora.card_source import CardSource
from ivr_dist.corpora.files import read_source_text, split_of_group
from ivr_dist.corpora.readers.numpy_file import parse_npy
from ivr_dist.corpora.readers.texts import is_missing
from ivr_dist.corpora.source import Array, SampleRef, SourceSample, check_hygiene, checked_labels
from ivr_dist.errors import DataError
from ivr_dist.shards.npy import NUMBERS

_KEYS = frozenset(("id", "split", "group", "labels", "transcript", "provenance", *MODALITIES))


class TableSource(CardSource):
    """A corpus listed in a JSONL table.

    A line is an object with `id`, `split` (unless the card lists groups), `labels` (numbers by task, null or absent
    where there is none) and optionally `group`, `transcript`, `provenance`, and `text`, `audio`, `vision`: paths of
    .npy files relative to the folder that is packed.

    Args:
        root: Folder or URL that all paths are relative to.
        card: A card of format `table`.

    Raises:
        DataError: A line is invalid, the splits have leakage, or a split has another number of samples than the card
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
        self._read_rows()
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
            arrays={name: self._array(row[name], ref.number) for name in MODALITIES if row.get(name) is not None},
        )

    def _where(self, number: int) -> str:
        return f"{storage.display(storage.join(self._root, self._file.path))}, line {self._lines[number]}"

    def _read_rows(self) -> None:
        text = read_source_text(self._root, self._file, "a JSONL file")
        # Not splitlines, which also splits at characters that JSON allows in a string.
        for line, row_text in enumerate(text.split("\n"), start=1):
            if row_text.strip():
                self._lines.append(line)
                self._rows.append(_parse_row(row_text, self._where(len(self._rows)), self._card.features))
                for path in (self._rows[-1].get(name) for name in MODALITIES):
                    if path is not None:
                        self._url(path, len(self._rows) - 1)

    def _read_dims(self) -> dict[str, int]:
        """Read the widths that the card does not state, from the first sample that has the modality."""
        dims = {}
        for name, described in self._card.features.items():
            number = next((number for number, row in enumerate(self._rows) if row.get(name) is not None), None)
            if described.dim is None and described.kind == "features" and number is not None:
                array = self._array(self._rows[number][name], number)
                if array.ndim == 2:
                    dims[name] = array.shape[1]
        return dims

    def _read_splits(self) -> dict[str, list[SampleRef]]:
        by_group = split_of_group(self._root, self._card)
        splits: dict[str, list[SampleRef]] = {name: [] for name in self._card.splits}
        for number, row in enumerate(self._rows):
            group = row.get("group")
            name = row.get("split") if by_group is None else by_group.get(str(group))
            if name not in splits:
                what = f"unknown split {name!r}" if by_group is None else f"group {group} is in no split"
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

    def _array(self, path: str, number: int) -> Array:
        url = self._url(path, number)
        where = f"{storage.display(url)}, named by {self._where(number)}"
        try:
            data = storage.read_bytes(url)
        except storage.NotFoundError:
            raise DataError("no such file", where=where, remedy="correct the table or add the file") from None
        array = parse_npy(data, where)
        if array.ndim == 0 or array.dtype.kind not in NUMBERS:
            what = "text" if array.dtype.kind not in NUMBERS else "a single value"
            raise DataError(f"an array of {what} ({array.dtype}), not numbers of one or more steps", where=where)
        return array


def _parse_row(text: str, where: str, features: Mapping[str, FeatureSet]) -> dict[str, Any]:
    try:
        row = strict_json.loads(text)
    except ValueError as error:
        what = f"not JSON: {describe(error)}"
        raise DataError(what, where=where, remedy="write one whole JSON object on every line") from None
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=where, remedy="write one object on every line, without a list")
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
