"""Format `merbench`: labels (label.npz) and transcripts (a csv file) as MERBench distributes corpora."""

from __future__ import annotations

from typing import Any

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.card_mappings import MerbenchMapping
from ivr_dist.corpora.card_source import CardSource
from ivr_dist.corpora.readers.object_npz import read_object_npz
from ivr_dist.corpora.readers.utterance_rows import read_rows
from ivr_dist.corpora.source import SampleRef, SourceSample, as_label, check_hygiene, checked_labels
from ivr_dist.errors import DataError

_NAME, _CHINESE, _ENGLISH = "name", "chinese", "english"
_ARRAY = "{}_corpus"
_SEPARATOR = "$_$"


class MerbenchSource(CardSource):
    """A corpus of MERBench: a dictionary of labels by clip for each split, and a transcript for each clip.

    A clip `VIDEO_NUMBER` gets the id `VIDEO$_$NUMBER`, as in the files of MMSA; the video is its group.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: A card of format `merbench`.

    Raises:
        DataError: A file does not match the card, a clip has no transcript, the splits have leakage, or a split has
            another number of samples than the card expects.
    """

    def __init__(self, root: str, card: Card) -> None:
        if card.merbench is None:
            raise ValueError(f"card {card.name} is not of format merbench")
        self._root = root
        self._card = card
        self._mapping: MerbenchMapping = card.merbench
        self._file = card.files[self._mapping.labels]
        self._where = storage.display(storage.join(root, self._file.path))
        table = card.files[self._mapping.transcripts]
        self._rows = {row.text(_NAME): row for row in read_rows(root, table, (_NAME, _CHINESE, _ENGLISH))}
        self._clips: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self._features = card.feature_specs()
        self._splits = check_hygiene(self._read_splits(), card.expected_counts(), f"corpus {card.name}", card.split_by)

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Assemble one sample.

        Raises:
            DataError: A label is missing, is not a number, or is out of range.
        """
        clip, entry = self._clips[split][ref.number]
        where = f"{self._where}, clip {clip}"
        labels = {}
        for task, key in self._mapping.tasks.items():
            value = entry.get(key)
            if value is not None:
                try:
                    value = as_label(value)
                except (TypeError, ValueError):
                    raise DataError(f"{key} is not a number", where=where) from None
            labels[task] = value
        row = self._rows[clip]
        other = _ENGLISH if self._mapping.language == _CHINESE else _CHINESE
        provenance = {"group": ref.group, other: row.text(other)} | row.origin()
        return SourceSample(
            id=ref.id,
            split=split,
            group=ref.group,
            labels=checked_labels(labels, self._card.tasks, where),
            transcript=row.text(self._mapping.language),
            provenance={name: value for name, value in provenance.items() if value is not None},
        )

    def _read_splits(self) -> dict[str, list[SampleRef]]:
        arrays = read_object_npz(self._root, self._file)
        splits = {}
        for name, described in self._card.splits.items():
            array = _ARRAY.format(described.called or name)
            entries = arrays.get(array)
            if entries is None:
                raise DataError(f"no array {array}", where=self._where, remedy=f"it has: {', '.join(arrays)}")
            if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
                raise DataError(f"{array} is not a dictionary of labels by clip", where=self._where)
            self._clips[name] = [(str(clip), entry) for clip, entry in entries.items()]
            for clip, _ in self._clips[name]:
                if clip not in self._rows:
                    table = self._card.files[self._mapping.transcripts].path
                    raise DataError(f"clip {clip} has no transcript in {table}", where=self._where)
            splits[name] = [_reference(number, clip) for number, (clip, _) in enumerate(self._clips[name])]
        return splits


def _reference(number: int, clip: str) -> SampleRef:
    video, _, last = clip.rpartition("_")
    return SampleRef(number, f"{video}{_SEPARATOR}{last}" if video else clip, video or None)
