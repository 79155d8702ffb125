"""Columnar samples: the samples of one request as columns, without an object for each sample or array.

Throughput is tens of thousands of samples a second. A batch joins a modality in one call, from the bytes as they were
read; a `RawSample` is created only on access to a single sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist.errors import CorruptDataError
from ivr_dist.shards.decode import RawSample, Transcript, context_of
from ivr_dist.shards.member_layout import Kind, Layout


@dataclass(frozen=True, slots=True)
class Column:
    """One modality of n samples."""

    kind: Kind
    steps: Sequence[int]
    """[n] time steps of each array; -1 where there is none."""
    values: Sequence[bytes | memoryview]
    """[n] values of each array, step after step, as stored; empty where there is none."""

    def array(self, row: int) -> npt.NDArray[np.generic]:
        """Return the array of one sample that has one, read-only."""
        array: npt.NDArray[np.generic] = np.ndarray(self.kind.shape(self.steps[row]), self.kind.dtype, self.values[row])
        return array


@dataclass(frozen=True, slots=True)
class Samples:
    """n samples as columns; see `RawSample` for the fields of one."""

    keys: Sequence[str]
    ids: Sequence[str]
    labels: Sequence[Mapping[str, float | None]]
    transcripts: Sequence[Transcript]
    shards: Sequence[str]
    columns: Mapping[str, Column]
    """By modality of the split."""
    contexts: Sequence[Any] = ()
    """[n] context of each sample as JSON values, None where there is none; empty if no sample has one."""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> RawSample:
        """Return one sample."""
        return RawSample(
            key=self.keys[row],
            id=self.ids[row],
            labels=self.labels[row],
            arrays={name: column.array(row) for name, column in self.columns.items() if column.steps[row] >= 0},
            shard=self.shards[row],
            transcript=self.transcripts[row],
            context=context_of(self.contexts[row]) if self.contexts else (),
        )

    def __iter__(self) -> Iterator[RawSample]:
        return map(self.__getitem__, range(len(self)))

    def where(self, row: int) -> str:
        """Shard and key of one sample, for errors."""
        return f"{self.shards[row]}, sample {self.keys[row]}"

    def rows(self, first: int, end: int) -> Samples:
        """Return the rows [first, end)."""
        if first == 0 and end == len(self):
            return self
        return Samples(
            self.keys[first:end],
            self.ids[first:end],
            self.labels[first:end],
            self.transcripts[first:end],
            self.shards[first:end],
            {
                name: Column(column.kind, column.steps[first:end], column.values[first:end])
                for name, column in self.columns.items()
            },
            self.contexts[first:end],
        )

    @classmethod
    def joined(cls, parts: Sequence[Samples], layout: Layout) -> Samples:
        """Concatenate samples."""
        columns = {}
        for member in layout.members:
            own = [part.columns[member.modality] for part in parts]
            steps, values = [n for column in own for n in column.steps], [v for column in own for v in column.values]
            columns[member.modality] = Column(member.kind, steps, values)
        return cls(
            [key for part in parts for key in part.keys],
            [id_ for part in parts for id_ in part.ids],
            [labels for part in parts for labels in part.labels],
            [transcript for part in parts for transcript in part.transcripts],
            [shard for part in parts for shard in part.shards],
            columns,
            [context for part in parts for context in part.contexts or [None] * len(part)]
            if any(part.contexts for part in parts)
            else (),
        )

    @classmethod
    def of(cls, samples: Sequence[RawSample], layout: Layout) -> Samples:
        """Convert samples that were decoded one by one.

        Raises:
            CorruptDataError: An array is not of its modality's kind, or has values that this kind cannot hold.
        """
        columns = {}
        for member in layout.members:
            arrays = [sample.arrays.get(member.modality) for sample in samples]
            columns[member.modality] = Column(
                member.kind,
                [-1 if array is None else len(array) for array in arrays],
                [
                    b"" if array is None else _values(array, member.kind, member.modality, sample)
                    for array, sample in zip(arrays, samples, strict=True)
                ],
            )
        return cls(
            [sample.key for sample in samples],
            [sample.id for sample in samples],
            [sample.labels for sample in samples],
            [sample.transcript for sample in samples],
            [sample.shard for sample in samples],
            columns,
            [[utterance._asdict() for utterance in sample.context] for sample in samples]
            if any(sample.context for sample in samples)
            else (),
        )


def _values(array: npt.NDArray[np.generic], kind: Kind, modality: str, sample: RawSample) -> bytes:
    """Encode an array as its modality is stored; numbers of another type are converted if no value changes range."""
    if array.shape[1:] != kind.shape() or array.dtype.kind not in ("iu" if kind.dim is None else "fiu"):
        expected = "integers [steps]" if kind.dim is None else f"numbers [steps, {kind.dim}]"
        raise _refused(f"{modality} is {array.dtype} {list(array.shape)}, the manifest says {expected}", sample)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(kind.dtype)
    if kind.dtype.kind in "iu":
        same = np.array_equal(converted, array)
    else:
        same = np.array_equal(np.isfinite(converted), np.isfinite(array))
    if not same:
        raise _refused(f"{modality} is {array.dtype} with values that the manifest's {kind.dtype} cannot hold", sample)
    return converted.tobytes()


def _refused(what: str, sample: RawSample) -> CorruptDataError:
    return CorruptDataError(what, where=sample.where, remedy="pack the split again with one feature set")
