"""A packed split as a Python sequence: samples by index, labels as arrays, a profile, batches in training order."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import UserError
from ivr_dist.inspection import profile
from ivr_dist.planning.plan import data_order
from ivr_dist.sanitize import plain
from ivr_dist.shards.decode import ContextUtterance, RawSample, Transcript, words_of
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import FeatureSpec, TaskSpec

if TYPE_CHECKING:
    from ivr_dist.data.batches.batch import Batch

Array = npt.NDArray[Any]

_CACHE_BYTES = 64 << 20
_CHUNK = 256
"""Samples of one request while a whole split is read."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One utterance of a split."""

    id: str
    """Identity in its corpus."""
    labels: Mapping[str, float | None]
    """By task; None where there is no label."""
    arrays: Mapping[str, Array]
    """By modality: [T, D] features or [T] token ids; a missing modality is absent."""
    transcript: Transcript = ()
    """Transcript: a text, or a sequence of words; empty if there is none."""
    context: tuple[ContextUtterance, ...] = ()
    """The utterances before it in its dialogue, oldest first, each with `text` and `speaker`; empty if there are
    none."""

    def __repr__(self) -> str:
        shapes = [f"{name} {list(array.shape)}" for name, array in self.arrays.items()]
        labels = [f"{task} = {label}" for task, label in self.labels.items()]
        return f"<sample {plain(self.id)}: {', '.join(shapes + labels)}>"

    @property
    def text(self) -> Array | None:
        """[T, D] features or [T] token ids of the text; None where it is missing."""
        return self.arrays.get("text")

    @property
    def audio(self) -> Array | None:
        """[T, D] features of the audio; None where it is missing."""
        return self.arrays.get("audio")

    @property
    def vision(self) -> Array | None:
        """[T, D] features of the video; None where it is missing."""
        return self.arrays.get("vision")

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the transcript."""
        return words_of(self.transcript)


class PackedSplit(Sequence[Sample]):
    """A packed split; made by `open_split`.

    Indexing and iterating read samples on demand; `labels` and `ids` read the whole split once. Use it as a context
    manager, or call `close`, to end its reading threads. It can be pickled, so that other processes read it too.

    Args:
        url: Path or URL of the split.

    Raises:
        DataError: There is no packed split.
    """

    def __init__(self, url: str) -> None:
        self.url = storage.absolute(url)
        """Absolute path or URL of the split."""
        self.manifest = Manifest.load(self.url)
        """Content of `manifest.json`."""
        self._reader = self._new_reader()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_reader"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reader = self._new_reader()

    def __enter__(self) -> PackedSplit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"<{manifest.corpus}/{manifest.split}: {len(self)} samples in {storage.display(self.url)}>"

    def __len__(self) -> int:
        return self.manifest.samples

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One sample by its position in the split, or several by a slice.

        Raises:
            IndexError: There is no such position.
            DataError, CorruptDataError, StorageError: A sample cannot be read.
        """
        if isinstance(index, slice):
            return list(self._read(range(len(self))[index]))
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"there is no sample {position} in a split of {len(self)} samples")
        return next(self._read([position % len(self)]))

    def __iter__(self) -> Iterator[Sample]:
        return self._read(range(len(self)))

    @property
    def features(self) -> dict[str, FeatureSpec]:
        """By modality: width, stored type and feature set."""
        return self.manifest.features

    @property
    def tasks(self) -> dict[str, TaskSpec]:
        """By task: what is predicted."""
        return self.manifest.tasks

    @property
    def ids(self) -> list[str]:
        """Ids of all samples, in the order of the split."""
        return self._columns[0]

    @property
    def labels(self) -> dict[str, npt.NDArray[np.float64]]:
        """By task: [N] labels in the order of the split, NaN where there is none."""
        return self._columns[1]

    @cached_property
    def _columns(self) -> tuple[list[str], dict[str, npt.NDArray[np.float64]]]:
        ids: list[str] = []
        values: dict[str, list[float]] = {task: [] for task in self.tasks}
        for result in self._reader.read_ahead(_chunks(range(len(self)))):
            samples = result.all_or_raise()
            ids += samples.ids
            for task, column in values.items():
                labels_of_task = (labels.get(task) for labels in samples.labels)
                column += [np.nan if label is None else label for label in labels_of_task]
        return ids, {task: np.array(column, np.float64) for task, column in values.items()}

    def profile(self, *, full: bool = False) -> profile.SplitProfile:
        """Counts, lengths, labels and value ranges of the split, as `ivr-dist inspect` shows them.

        Args:
            full: Read the values of all samples instead of a sample of segments.

        Raises:
            DataError, CorruptDataError, StorageError: The split cannot be read.
        """
        return profile.profile([self.url], full)[0]

    def batches(
        self,
        *,
        global_batch: int,
        seed: int = 0,
        epoch: int = 0,
        modalities: Sequence[str] = MODALITIES,
        standardize: Sequence[str] = ("audio", "vision"),
        statistics: PackedSplit | None = None,
        lanes: int | None = None,
        shuffle_delay: int | None = None,
    ) -> Iterator[Batch]:
        """Batches of one epoch, in the order in which training reads them.

        Args:
            global_batch: Samples of a batch (`train.global_batch`).
            seed: Seed of the order (`run.seed`).
            epoch: The epoch, 0 for the first.
            modalities: Modalities to read, of those that the split has (`data.modalities`).
            standardize: Modalities to scale to mean 0 and deviation 1 (`data.standardize`), where statistics are known.
            statistics: The training split whose statistics are used; None: this split's own, which only a training
                split has.
            lanes: Lanes of the order (`data.lanes`); None: as training chooses them.
            shuffle_delay: Shuffle delay of the order (`data.shuffle_delay`); None: as training chooses it.

        Raises:
            ConfigError: The order is not defined for these values.
            DataError: The split has none of the modalities.
        """
        from ivr_dist.data.batches.collate import BatchSpec
        from ivr_dist.data.loader import Loader

        global_batch, seed, epoch = map(operator.index, (global_batch, seed, epoch))
        if global_batch < 1 or seed < 0 or epoch < 0:
            raise UserError(
                f"no batches of {global_batch} samples in epoch {epoch} of seed {seed}",
                remedy="global_batch is at least 1, epoch and seed at least 0",
            )
        # A single name is a sequence of characters.
        modalities = [modalities] if isinstance(modalities, str) else modalities
        standardize = [standardize] if isinstance(standardize, str) else standardize
        source = self.manifest if statistics is None else statistics.manifest
        spec = BatchSpec.from_manifest(source, modalities, [name for name in standardize if name in source.statistics])
        # Labels are those of this split: it may be unlabeled, or of another corpus than the statistics.
        spec = replace(spec, tasks=self.tasks)
        default = Config()
        config = replace(
            default,
            data=replace(default.data, lanes=lanes, shuffle_delay=shuffle_delay),
            train=replace(default.train, global_batch=global_batch),
        )
        lanes, delay = data_order(config, len(self), self.manifest.total_bytes)
        loader = Loader(self._new_reader(), spec, global_batch=global_batch, lanes=lanes, delay=delay, seed=seed)
        return _one_epoch(loader, epoch)

    def close(self) -> None:
        """End the reading threads, and free what they have read; a later access begins again."""
        reader, self._reader = self._reader, self._new_reader()
        reader.close()

    def _new_reader(self) -> ShardReader:
        return ShardReader(self.url, self.manifest, _CACHE_BYTES)

    def _read(self, positions: Sequence[int]) -> Iterator[Sample]:
        for result in self._reader.read_ahead(_chunks(positions)):
            yield from map(_sample, result.all_or_raise())


def _chunks(positions: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    for first in range(0, len(positions), _CHUNK):
        yield np.array(positions[first : first + _CHUNK], np.int64)


def _sample(raw: RawSample) -> Sample:
    # Copies: the arrays of a raw sample keep the whole segment in memory that they were read with.
    arrays = {name: array.copy() for name, array in raw.arrays.items()}
    return Sample(raw.id, dict(raw.labels), arrays, raw.transcript, raw.context)


def _one_epoch(loader: Any, epoch: int) -> Iterator[Batch]:
    with loader:
        for step in loader.steps(replace(loader.start, epoch=epoch)):
            if step.epoch != epoch:
                return
            yield from step.micro_batches
