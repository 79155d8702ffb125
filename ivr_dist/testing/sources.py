"""Contract of corpus formats (`format` of a card)."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.corpora.source import Source, check_hygiene, checked_labels, dropped_by, notes_of, prepare
from ivr_dist.packing.pack import PackOptions, pack


class SourceContract(ABC):
    """Tests of a source: derive a class `TestMine` from it and implement `make`."""

    @abstractmethod
    def make(self, folder: Path) -> Source:
        """Write a small corpus into a folder, unless it is there already, and open it.

        Args:
            folder: A folder that is deleted after the test; the same one for all sources of a test.
        """

    def test_it_describes_its_corpus(self, tmp_path: Path) -> None:
        """Name, feature sets in the order of the modalities, tasks."""
        source = self.make(tmp_path)
        assert re.fullmatch(r"[A-Za-z0-9_]+", source.corpus)
        assert list(source.features) == [name for name in MODALITIES if name in source.features]
        assert source.tasks

    def test_ids_are_unique_and_no_group_is_in_two_splits(self, tmp_path: Path) -> None:
        """An evaluation on samples of a group that was trained on measures leakage."""
        source = self.make(tmp_path)
        splits = source.splits()
        assert any(splits.values())
        check_hygiene(splits, {}, source.corpus)

    def test_every_sample_is_what_its_split_lists(self, tmp_path: Path) -> None:
        """Id, split and group; labels and arrays that fit the description; JSON values as provenance."""
        source = self.make(tmp_path)
        for split, refs in source.splits().items():
            for ref in refs:
                sample = source.load(split, ref)
                assert (sample.id, sample.split, sample.group) == (ref.id, split, ref.group)
                checked_labels(sample.labels, source.tasks, sample.id)
                prepare(sample, source.features)
                assert isinstance(sample.transcript, str)
                json.dumps(sample.provenance)

    def test_opening_it_again_gives_the_same_samples(self, tmp_path: Path) -> None:
        """Other processes open the corpus each on their own, and load samples in any order."""
        first, second = self.make(tmp_path), self.make(tmp_path)
        assert first.splits() == second.splits()
        for split, refs in first.splits().items():
            loaded = {ref.id: second.load(split, ref) for ref in reversed(refs)}
            for ref in refs:
                one, other = first.load(split, ref), loaded[ref.id]
                assert (one.labels, one.transcript, one.provenance) == (
                    other.labels,
                    other.transcript,
                    other.provenance,
                )
                assert one.arrays.keys() == other.arrays.keys()
                for name, values in one.arrays.items():
                    np.testing.assert_array_equal(values, other.arrays[name])

    def test_notes_and_dropped_samples_are_reported(self, tmp_path: Path) -> None:
        """Notes are sentences; samples that are dropped are in no split and have a reason."""
        source = self.make(tmp_path)
        assert all(isinstance(note, str) and note for note in notes_of(source))
        ids = {ref.id for refs in source.splits().values() for ref in refs}
        assert all(sample.id not in ids and sample.reason for sample in dropped_by(source))

    def test_it_can_be_packed(self, tmp_path: Path) -> None:
        """Every sample of every split goes into the shards."""
        source = self.make(tmp_path)
        summary = pack(source, str(tmp_path / "packed"), PackOptions(shard_samples=4))
        assert {split.split: split.samples for split in summary.splits} == {
            split: len(refs) for split, refs in source.splits().items() if refs
        }
