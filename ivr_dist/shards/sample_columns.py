"""Samples of one request, column by column: no object is made for a sample, nor for an array of one.

Tens of thousands go by in a second. What a batch holds of a modality is joined in one call from the bytes where they
were read; only who looks at single samples gets one as a `RawSample`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ivr_dist.errors import CorruptDataError
from ivr_dist.shards.decode import RawSample, Transcript
from ivr_dist.shards.member_layout import Kind, Layout


@dataclass(frozen=True, slots=True)
class Column:
    """One modality of n samples."""

    kind: Kind
    steps: Sequence[int]
    """[n] steps of each array; -1 where there is none."""
    values: Sequence[bytes | memoryview]
    """[n] values of each array, step after step, as stored; empty where there is none."""

    def array(self, place: int) -> npt.NDArray[np.generic]:
        """The array of one sample that has one, read-only."""
        found: npt.NDArray[np.generic] = np.ndarray(
            self.kind.shape(self.steps[place]), self.kind.dtype, self.values[place]
        )
        return found


@dataclass(frozen=True, slots=True)
class Samples:
    """n samples; see `RawSample` for what each field holds of one."""

    keys: Sequence[str]
    ids: Sequence[str]
    labels: Sequence[Mapping[str, float | None]]
    transcripts: Sequence[Transcript]
    shards: Sequence[str]
    columns: Mapping[str, Column]
    """By modality of the split."""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> RawSample:
        """One of them."""
        return RawSample(
            key=self.keys[place],
            id=self.ids[place],
            labels=self.labels[place],
            arrays={name: column.array(place) for name, column in self.columns.items() if column.steps[place] >= 0},
            shard=self.shards[place],
            transcript=self.transcripts[place],
        )

    def __iter__(self) -> Iterator[RawSample]:
        return map(self.__getitem__, range(len(self)))

    def where(self, place: int) -> str:
        """Shard and key of one of them, for errors."""
        return f"{self.shards[place]}, sample {self.keys[place]}"

    def part(self, first: int, end: int) -> Samples:
        """Some that follow each other."""
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
        )

    @classmethod
    def joined(cls, parts: Sequence[Samples], layout: Layout) -> Samples:
        """All samples of some parts, in their order."""
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
        )

    @classmethod
    def of(cls, samples: Sequence[RawSample], layout: Layout) -> Samples:
        """Those that were decoded one by one.

        Raises:
            CorruptDataError: An array is not of its modality's kind, or has values that this cannot hold.
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
        )


def _values(array: npt.NDArray[np.generic], kind: Kind, modality: str, sample: RawSample) -> bytes:
    """An array as its modality is stored; numbers of another type are taken for what they are worth."""
    if array.shape[1:] != kind.shape() or array.dtype.kind not in ("iu" if kind.dim is None else "fiu"):
        expected = "integers [steps]" if kind.dim is None else f"numbers [steps, {kind.dim}]"
        raise _refused(f"{modality} is {array.dtype} {list(array.shape)}, the manifest says {expected}", sample)
    with np.errstate(over="ignore", invalid="ignore"):
        found = array.astype(kind.dtype)
    if kind.dtype.kind in "iu":
        same = np.array_equal(found, array)
    else:
        same = np.array_equal(np.isfinite(found), np.isfinite(array))
    if not same:
        raise _refused(f"{modality} is {array.dtype} with values that the manifest's {kind.dtype} cannot hold", sample)
    return found.tobytes()


def _refused(what: str, sample: RawSample) -> CorruptDataError:
    return CorruptDataError(what, where=sample.where, remedy="pack the split again with one feature set")
