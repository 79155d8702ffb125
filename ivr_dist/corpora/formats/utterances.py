"""Format `utterances`: tables of transcripts and labels as the authors of a corpus publish them (.csv, .tsv, .json)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.card_mappings import UtterancesMapping
from ivr_dist.corpora.card_parser import suggest
from ivr_dist.corpora.card_source import CardSource
from ivr_dist.corpora.files import split_of_group
from ivr_dist.corpora.readers.features_by_id import FeatureTable
from ivr_dist.corpora.readers.nearest_segment import SegmentTable, number
from ivr_dist.corpora.readers.pickle_arrays import as_numbers
from ivr_dist.corpora.readers.safe_pickle import load_pickle
from ivr_dist.corpora.readers.utterance_rows import (
    ID,
    UtteranceRow,
    fill,
    read_rows,
    speakers,
    template_columns,
)
from ivr_dist.corpora.source import SampleRef, SourceSample, check_hygiene, checked_labels
from ivr_dist.errors import DataError
from ivr_dist.shards.decode import ContextUtterance
from ivr_dist.shards.specs import TaskSpec

_TRAIN, _TEST = "train", "test"
_BOOLS = {"false": 0.0, "true": 1.0}
_DIGITS = 10


@dataclass(frozen=True)
class _Utterance:
    """A labeled row."""

    row: UtteranceRow
    id: str
    group: str | None
    turn: int | None
    labels: Mapping[str, float | None]
    context: tuple[ContextUtterance, ...] = ()
    folds: tuple[int, ...] = ()
    """Folds in which it is test, where there are folds."""


class UtterancesSource(CardSource):
    """A corpus in tables of utterances.

    Tables are read completely when the corpus is opened; features stay in their files if these are pickles.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: A card of format `utterances`.

    Raises:
        DataError: A table does not match the card, a label is no class of its task, the splits have leakage, or a split
            has another number of samples than the card expects.
    """

    def __init__(self, root: str, card: Card) -> None:
        if card.utterances is None:
            raise ValueError(f"card {card.name} is not of format utterances")
        self._root = root
        self._card = card
        self._mapping: UtterancesMapping = card.utterances
        self._notes: list[str] = []
        self._tables = self._read_features()
        self._utterances: dict[str, list[_Utterance]] = {name: [] for name in card.splits}
        self._read_splits()
        self._label_by_segments()
        dims = {name: width for name, table in self._tables.items() if (width := table.width) is not None}
        described = {name: features for name, features in card.features.items() if name in self._tables}
        self._features = replace(card, features=described).feature_specs(dims)
        refs = {
            split: [SampleRef(n, utterance.id, utterance.group) for n, utterance in enumerate(utterances)]
            for split, utterances in self._utterances.items()
        }
        self._splits = check_hygiene(refs, card.expected_counts(), f"corpus {card.name}", card.split_by)

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Assemble one sample.

        Raises:
            DataError: A label is out of range, or the features of the sample cannot be read.
        """
        utterance = self._utterances[split][ref.number]
        row, mapping = utterance.row, self._mapping
        provenance: dict[str, Any] = {name: row.values.get(name) for name in mapping.provenance}
        if mapping.speaker is not None:
            provenance["speaker"] = _speaker(row, mapping.speaker)
        if mapping.folds is not None:
            provenance["test_folds"] = list(utterance.folds)
        if ref.group is not None:
            provenance["group"] = ref.group
        return SourceSample(
            id=ref.id,
            split=split,
            group=ref.group,
            labels=checked_labels(utterance.labels, self._card.tasks, row.where),
            transcript=_one_line(row.text(mapping.transcript)),
            provenance=provenance | row.origin(),
            arrays={name: table.steps(ref.id) for name, table in self._tables.items()},
            context=utterance.context,
            turn=utterance.turn,
        )

    def _read_features(self) -> dict[str, FeatureTable]:
        """Open the files of features; a modality whose optional file is absent is left out, with a note."""
        tables = {}
        for name, mapping in self._mapping.modalities().items():
            file = self._card.files[mapping.file]
            url = storage.join(self._root, file.path)
            if file.optional and not storage.exists(url):
                self._notes.append(f"no {name}: there is no {file.path}")
            else:
                tables[name] = FeatureTable(self._root, file, mapping)
        return tables

    def _columns(self) -> list[str]:
        mapping = self._mapping
        named = [*template_columns(mapping.id), *template_columns(mapping.group or ""), mapping.transcript]
        named += [*mapping.labels.values(), *mapping.provenance]
        optional = (mapping.turn, mapping.speaker, *(mapping.nearest.times if mapping.nearest else ()))
        if mapping.context is not None:
            optional += (mapping.context.texts, mapping.context.speakers, mapping.context.unlabeled)
        named += [name for name in optional if name is not None]
        return [name for name in dict.fromkeys(named) if name != ID]

    def _read_splits(self) -> None:
        columns = self._columns()
        for split, file in self._mapping.tables.items():
            rows = read_rows(self._root, self._card.files[file], columns)
            self._utterances[split] = self._read_utterances(rows, self._card.splits[split].called or split)
        if self._mapping.table is not None:
            rows = read_rows(self._root, self._card.files[self._mapping.table], columns)
            utterances = self._read_utterances(rows, "")
            if self._mapping.folds is not None:
                utterances = self._with_folds(utterances, self._mapping.folds)
            by_group = split_of_group(self._root, self._card)
            for utterance in utterances:
                name = self._split_of(utterance, by_group)
                if name not in self._utterances:
                    what = f"sample {utterance.id} (group {utterance.group}) is in no split"
                    remedy = "describe its group in the card"
                    raise DataError(what, where=utterance.row.where, remedy=remedy)
                self._utterances[name].append(utterance)
        if not self._card.splits.keys() & {name for name, found in self._utterances.items() if found}:
            raise DataError("the tables have no utterances", where=f"card {self._card.name}")

    def _split_of(self, utterance: _Utterance, by_group: Mapping[str, str] | None) -> str | None:
        if self._mapping.fold is not None:
            return _TEST if self._mapping.fold in utterance.folds else _TRAIN
        if self._mapping.hashed:
            digit = int(hashlib.sha256(utterance.id.encode()).hexdigest(), 16) % _DIGITS
            return next((name for name, digits in self._mapping.hashed.items() if digit in digits), None)
        return (by_group or {}).get(str(utterance.group))

    def _read_utterances(self, rows: Iterable[UtteranceRow], split: str) -> list[_Utterance]:
        """Read the labeled rows of a table, each with its context."""
        mapping, context = self._mapping, self._mapping.context
        utterances = []
        pending: list[tuple[str, ContextUtterance]] = []
        for row in rows:
            id_ = fill(mapping.id, row, split)
            if context is not None and context.unlabeled is not None and not row.text(context.unlabeled).strip():
                pending.append((id_, self._as_context(row)))
                continue
            before = tuple(spoken for name, spoken in pending if name == id_)
            pending = []
            if context is not None and context.texts is not None:
                before = _listed(row, context.texts, context.speakers)
            utterances.append(
                _Utterance(
                    row=row,
                    id=id_,
                    group=fill(mapping.group, row, split) or None if mapping.group else None,
                    turn=None if mapping.turn is None else _turn(row, mapping.turn),
                    labels={task: self._label(row, task, column) for task, column in mapping.labels.items()},
                    context=before,
                )
            )
        if context is not None and context.previous is not None:
            return self._with_previous(utterances, context.previous)
        return utterances

    def _with_previous(self, utterances: list[_Utterance], most: int) -> list[_Utterance]:
        """Add the utterances of the same group with lower numbers, the nearest `most`, oldest first."""
        groups: dict[str | None, list[_Utterance]] = {}
        for utterance in utterances:
            groups.setdefault(utterance.group, []).append(utterance)
        context: dict[str, tuple[ContextUtterance, ...]] = {}
        for group, members in groups.items():
            members.sort(key=lambda utterance: utterance.turn or 0)
            spoken = [self._as_context(utterance.row) for utterance in members]
            for position, utterance in enumerate(members):
                first = max(0, position - most)
                context[utterance.id] = () if group is None else tuple(spoken[first:position])
        return [replace(utterance, context=context[utterance.id]) for utterance in utterances]

    def _as_context(self, row: UtteranceRow) -> ContextUtterance:
        name = "" if self._mapping.speaker is None else ", ".join(speakers(row.text(self._mapping.speaker)))
        return ContextUtterance(_one_line(row.text(self._mapping.transcript)), name)

    def _label(self, row: UtteranceRow, task: str, column: str) -> float | None:
        text, spec = row.text(column).strip(), self._card.tasks[task]
        if not text:
            return None
        names = {name.casefold(): float(number) for number, name in enumerate(spec.names or ())}
        found = names.get(text.casefold())
        if found is None and spec.type == "classification":
            found = _BOOLS.get(text.casefold())
        if found is not None:
            return found
        try:
            return float(text)
        except ValueError:
            raise DataError(_no_label(text, task, spec), where=row.where, remedy=_label_remedy(text, spec)) from None

    def _with_folds(self, utterances: list[_Utterance], file: str) -> list[_Utterance]:
        """Add the numbers of the folds in which each utterance is test."""
        described = self._card.files[file]
        where = storage.display(storage.join(self._root, described.path))
        content = load_pickle(self._root, described)
        folds: list[list[int]] = [[] for _ in utterances]
        try:
            pairs = [tuple(map(_row_numbers, pair)) for pair in _sequence(content)]
            for fold, (train, test) in enumerate(pairs):
                if not np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(utterances))):
                    raise ValueError(f"fold {fold} does not have each of the {len(utterances)} utterances once")
                for row in test.tolist():
                    folds[row].append(fold)
        except (TypeError, ValueError) as error:
            raise DataError(f"not a list of (train, test) folds: {error}", where=where) from None
        if self._mapping.fold is not None and not 0 <= self._mapping.fold < len(pairs):
            raise DataError(f"there is no fold {self._mapping.fold}", where=where, remedy=f"use 0 to {len(pairs) - 1}")
        return [replace(one, folds=tuple(own)) for one, own in zip(utterances, folds, strict=True)]

    def _label_by_segments(self) -> None:
        nearest = self._mapping.nearest
        if nearest is None:
            return
        table = SegmentTable(self._root, self._card.files[nearest.table], nearest)
        unmatched = 0
        for utterances in self._utterances.values():
            for position, one in enumerate(utterances):
                start, end = (number(one.row, column) for column in nearest.times)
                found = table.labels(one.group or "", start, end, one.labels)
                unmatched += not found
                utterances[position] = replace(one, labels={**one.labels, **found})
        if unmatched:
            where = self._card.files[nearest.table].path
            self._notes.append(f"{unmatched} utterances have no segment in {where}, so they lack its labels")


def _listed(row: UtteranceRow, texts: str, names: str | None) -> tuple[ContextUtterance, ...]:
    spoken = row.texts(texts)
    by = row.texts(names) if names is not None else [""] * len(spoken)
    if len(by) != len(spoken):
        raise DataError(f"{len(spoken)} {texts} and {len(by)} {names}", where=row.where)
    return tuple(ContextUtterance(_one_line(text), speaker) for text, speaker in zip(spoken, by, strict=True))


def _sequence(value: Any) -> list[Any]:
    items = getattr(value, "items", None) if not isinstance(value, list | tuple) else value
    if not isinstance(items, list | tuple):
        raise ValueError("it is not a list")
    return list(items)


def _row_numbers(value: Any) -> Any:
    numbers = as_numbers(value) if isinstance(value, list | tuple) else value.load()
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise ValueError("a part that is not a list of row numbers")
    return numbers


def _turn(row: UtteranceRow, column: str) -> int:
    text = row.text(column).strip()
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{column} is {text!r}, not a whole number", where=row.where) from None


def _speaker(row: UtteranceRow, column: str) -> str | list[str]:
    names = speakers(row.text(column))
    return names[0] if len(names) == 1 else names


def _one_line(text: str) -> str:
    """Replace line breaks by spaces."""
    return " ".join(text.splitlines()) if "\n" in text or "\r" in text else text


def _no_label(text: str, task: str, spec: TaskSpec) -> str:
    expected = f"one of {', '.join(spec.names)}" if spec.names else "a number"
    return f"label {task} is {text!r}, not {expected}"


def _label_remedy(text: str, spec: TaskSpec) -> str:
    return suggest(text.casefold(), spec.names) if spec.names else "correct it, or leave it empty"
