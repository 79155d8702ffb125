"""Survey of a table for a card: what was asked for is checked against the file, the rest is guessed from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ivr_dist import storage
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.corpora import column_guesses as guesses
from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.card_parser import suggest
from ivr_dist.corpora.formats.table_mapping import existing_files
from ivr_dist.corpora.readers import column_template
from ivr_dist.corpora.readers.delimited import DelimitedFile
from ivr_dist.corpora.readers.numpy_file import parse_npy
from ivr_dist.corpora.readers.table_cells import read_cells
from ivr_dist.errors import DataError, UserError
from ivr_dist.shards.specs import FeatureKind, TaskSpec

G = TypeVar("G", str, list[str], str | None)

SHARES = {"train": 70.0, "valid": 10.0, "test": 20.0}
"""Shares of splits where the table names none."""
_MOST_READ = 64
"""Files of a modality that are read for widths and lengths."""
_TRIED = 20
"""Rows whose file is looked for in a folder named like a modality."""
_FOLDERS = {"text": ("text",), "audio": ("audio",), "vision": ("vision", "video", "visual")}


@dataclass(frozen=True)
class Wishes:
    """What the user named; everything else is guessed."""

    id: str | None = None
    group: str | None = None
    """Empty: there is none."""
    transcript: str | None = None
    """Empty: there is none."""
    split: str | None = None
    labels: Sequence[str] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    """Templates of paths by modality."""
    shares: Mapping[str, float] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Features:
    """Files of one modality, as far as they were read."""

    template: str
    kind: FeatureKind
    dim: int
    shortest: int
    longest: int
    """Steps of the shortest and the longest that was read."""
    missing: int
    """Rows without a file."""
    first_missing: str = ""
    """Path and line of the first one."""


@dataclass(frozen=True)
class Survey:
    """A table, and how it becomes samples."""

    path: str
    """Path of the table, relative to the folder that is packed."""
    rows: int
    id: str
    group: str | None
    groups: int
    """Number of groups; 0 without them."""
    transcript: str | None
    split: str | None
    splits: Mapping[str, str]
    """By split what the column calls it; empty where samples are assigned by shares."""
    shares: Mapping[str, float] | None
    seed: int
    labels: Mapping[str, str]
    """By task its column."""
    tasks: Mapping[str, TaskSpec]
    features: Mapping[str, Features]
    others: tuple[str, ...]
    """Columns that have no part in a sample; they become its provenance."""
    guessed: Mapping[str, str]
    """What was guessed, by what it is: id, label, splits ..."""


def survey_table(root: str, path: str, wishes: Wishes) -> Survey:
    """Look at a table and the files that it names.

    Args:
        root: Folder or URL that is packed.
        path: Path of the table relative to it: .csv, .tsv or JSONL.
        wishes: What the user named.

    Raises:
        UserError: A column that was named does not exist or cannot be what it should be, no file of a modality exists,
            or the id or the labels cannot be guessed.
        DataError: The table cannot be read or has no rows.
    """
    return _Surveyor(root, path, wishes).survey()


class _Surveyor:
    def __init__(self, root: str, path: str, wishes: Wishes) -> None:
        self._root = root
        self._path = path
        self._wishes = wishes
        self._table: DelimitedFile = read_cells(root, SourceFile(path=path))
        if not self._table.rows:
            raise DataError("the table has no rows", where=self._table.where, remedy="write one row for each sample")
        self._columns = {name: [row[name].strip() for row in self._table.rows] for name in self._table.columns}
        self._guessed: dict[str, str] = {}

    def survey(self) -> Survey:
        wishes = self._wishes
        for option, text in (("id", wishes.id), ("group", wishes.group), ("transcript", wishes.transcript)):
            self._require(option, text or "")
        for label in wishes.labels:
            self._require("label", label)
        for modality, template in wishes.paths.items():
            self._require(modality, template)
        paths = {**guesses.guess_paths(self._columns), **wishes.paths}
        taken = {column for template in paths.values() for column in self._named(template)}
        sample_id = self._id(taken)
        paths = {**self._folders(sample_id, paths), **paths}
        split, splits = self._splits()
        given: set[str | None] = {*wishes.labels, wishes.group, wishes.transcript, split, *self._named(sample_id)}
        labels = list(wishes.labels) or self._guess("label", guesses.guess_labels(self._columns, given))
        if not labels:
            raise UserError(
                "no column looks like a label",
                where=self._table.where,
                remedy=f"name it with --label; columns: {', '.join(self._columns)}",
            )
        transcript = wishes.transcript
        if transcript is None:
            transcript = self._guess("transcript", guesses.guess_transcript(self._columns, {*given, *labels, *paths}))
        group = self._group(split, {*labels, transcript, sample_id})
        named: set[str | None] = {*labels, transcript, split, *paths}
        named |= {*self._named(sample_id), *self._named(group or "")}
        tasks = self._tasks(labels)
        return Survey(
            path=self._path,
            rows=len(self._table.rows),
            id=sample_id,
            group=group or None,
            groups=len(set(self._values(group))) if group else 0,
            transcript=transcript or None,
            split=split,
            splits=splits,
            shares=None if split is not None else wishes.shares or SHARES,
            seed=wishes.seed,
            labels={task: column for task, (column, _) in tasks.items()},
            tasks={task: spec for task, (_, spec) in tasks.items()},
            features={name: self._features(name, paths[name]) for name in MODALITIES if name in paths},
            others=tuple(column for column in self._columns if column not in named),
            guessed=self._guessed,
        )

    def _id(self, in_paths: set[str]) -> str:
        if (sample_id := self._wishes.id) is not None:
            ids = Counter(self._values(sample_id))
            (value, count) = ids.most_common(1)[0]
            if count > 1 or not all(ids):
                pairs = zip(self._table.rows, self._values(sample_id), strict=True)
                lines = [row.line for row, each in pairs if each == value]
                what = f"{value!r} is the id of lines {lines[0]} and {lines[1]}" if count > 1 else "an id is empty"
                remedy = "name a column that differs in every row, or join several: --id '{video}_{clip}'"
                raise UserError(what, where=f"{self._table.where}, --id {sample_id}", remedy=remedy)
            return sample_id
        # The column that names files is the id, if it is different in all rows.
        first = {name: self._columns[name] for name in self._columns if name in in_paths}
        found = guesses.guess_id(first) or guesses.guess_id(self._columns)
        if found is None:
            remedy = "name columns that together do, such as --id '{video}_{clip}'"
            raise UserError("no column differs in every row", where=self._table.where, remedy=remedy)
        return self._guess("id", found)

    def _folders(self, sample_id: str, named: Mapping[str, str]) -> dict[str, str]:
        """Find folders named like a modality that hold files named like ids."""
        template = sample_id if column_template.is_template(sample_id) else f"{{{sample_id}}}"
        ids = self._values(sample_id)[:_TRIED]
        found = {}
        for modality in MODALITIES:
            for folder in () if modality in named else _FOLDERS[modality]:
                if existing_files(self._root, [f"{folder}/{each}.npy" for each in ids]):
                    found[modality] = self._guess(modality, f"{folder}/{template}.npy")
                    break
        return found

    def _splits(self) -> tuple[str | None, dict[str, str]]:
        wishes = self._wishes
        if wishes.shares is not None:
            if wishes.split is not None:
                raise UserError("--split and --split-shares are both given", remedy="keep one of the two")
            return None, {}
        split = wishes.split
        if split is None:
            split = guesses.guess_split(self._columns)
            if split is None:
                shares = " / ".join(f"{share:g}" for share in SHARES.values())
                self._guess("splits", f"shares {shares} by a hash (--split-shares)")
                return None, {}
            self._guess("split", split)
        self._require("split", split)
        called = guesses.splits_of(self._columns[split])
        if called is None:
            known = [name for names in guesses.SPLIT_NAMES.values() for name in names]
            odd = next(v for v in self._columns[split] if v.lower() not in known)
            raise UserError(
                f"column {split} has the value {odd!r}, which is no name of a split, or two names of one split",
                where=self._table.where,
                remedy="write train, valid (or dev) and test, or leave it out and give --split-shares 70,10,20",
            )
        if "train" not in called:
            raise UserError(f"column {split} has no train", where=self._table.where, remedy="give --split-shares")
        return split, called

    def _group(self, split: str | None, taken: set[str | None]) -> str | None:
        group = self._wishes.group
        if group is None:
            found = guesses.guess_group(self._columns, split, taken)
            return found and self._guess("group", found)
        if group and split is not None and (both := guesses.crossing(self._values(group), self._columns[split])):
            raise UserError(
                f"{len(both)} of {len(set(self._values(group)))} groups are in two splits, the first is {both[0]}",
                where=f"{self._table.where}, --group {group}",
                remedy="give --split-shares 70,10,20 for splits of whole groups, or --group '' for none",
            )
        return group

    def _tasks(self, labels: Sequence[str]) -> dict[str, tuple[str, TaskSpec]]:
        tasks: dict[str, tuple[str, TaskSpec]] = {}
        for column in labels:
            try:
                spec = guesses.guess_task(self._columns[column])
            except ValueError as error:
                remedy = "name another column with --label"
                raise UserError(str(error), where=f"{self._table.where}, column {column}", remedy=remedy) from None
            name = guesses.task_name(column)
            if name in tasks:
                remedy = "rename one of them"
                raise UserError(f"{column} and {tasks[name][0]} would both be the task {name}", remedy=remedy)
            tasks[name] = column, spec
        return tasks

    def _features(self, modality: str, template: str) -> Features:
        rows = list(zip(self._table.rows, self._values(template), strict=True))
        existing = existing_files(self._root, [path for _, path in rows if path])
        present = [path for _, path in rows if path in existing]
        missing = [f"{path or 'an empty name'} (line {row.line})" for row, path in rows if path not in existing]
        if not present:
            folder = template.rpartition("/")[0]
            names = storage.list_dir(storage.join(self._root, folder) if folder else self._root)[:3]
            held = f"{folder or 'the folder'} holds {', '.join(names)}" if names else f"there is no folder {folder}"
            raise UserError(
                f"none of the {len(rows)} files of {modality} exists, the first is {missing[0]}",
                where=f"{storage.display(self._root)}, --{modality} {template}",
                remedy=f"{held}; correct the template",
            )
        shapes = {path: self._shape(path) for path in present[:: max(1, len(present) // _MOST_READ)]}
        (first, (kind, dim, _)), *_ = shapes.items()
        for path, (own, width, _) in shapes.items():
            if (own, width) != (kind, dim):
                what = f"{path} has {own} of width {width}, {first} has {kind} of width {dim}"
                raise UserError(what, where=storage.display(self._root), remedy="extract all with one program")
        lengths = [steps for _, _, steps in shapes.values()]
        return Features(template, kind, dim, min(lengths), max(lengths), len(missing), missing[0] if missing else "")

    def _shape(self, path: str) -> tuple[FeatureKind, int, int]:
        """Return kind, width and steps of a file."""
        url = storage.join(self._root, path)
        array = parse_npy(storage.read_bytes(url), storage.display(url))
        if array.ndim == 2 and array.dtype.kind in "fiub":
            return "features", array.shape[1], len(array)
        if array.ndim == 1 and array.dtype.kind in "fiub":
            return ("tokens", 1, len(array)) if array.dtype.kind in "iu" else ("features", len(array), 1)
        what = f"an array {list(array.shape)} of {array.dtype}"
        raise UserError(what, where=storage.display(url), remedy="save [steps, features] numbers with numpy.save")

    def _values(self, text: str) -> list[str]:
        """Return the fields of a column, or of a filled template."""
        if not column_template.is_template(text):
            return self._columns[text]
        fields: list[Callable[[str], str]] = [row.values.__getitem__ for row in self._table.rows]
        try:
            return [column_template.fill(text, of) for of in fields]
        except ValueError as error:
            raise UserError(str(error), where=self._table.where, remedy=f"correct {text}") from None

    def _named(self, text: str) -> list[str]:
        return column_template.columns_of(text) if column_template.is_template(text) else [text] if text else []

    def _require(self, option: str, text: str) -> None:
        if option in MODALITIES and not column_template.is_template(text):
            remedy = f"name a column in braces, such as --{option} '{option}/{{id}}.npy'"
            raise UserError(f"--{option} {text} would be the same file for all rows", remedy=remedy)
        for column in self._named(text):
            if column not in self._columns:
                where, remedy = f"{self._table.where}, --{option}", suggest(column, self._columns)
                raise UserError(f"there is no column {column!r}", where=where, remedy=remedy)

    def _guess(self, what: str, value: G) -> G:
        """Note what was guessed; returns it."""
        if value:
            self._guessed[what] = value if isinstance(value, str) else ", ".join(value)
        return value
