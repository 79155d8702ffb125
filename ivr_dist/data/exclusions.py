"""Samples that a run leaves out (withdrawn consent, leakage): their slots stay empty, which gives them weight 0.

The list is a set of sample numbers of one split. Its digest is part of the data cursor, so that a run never goes on
with another list; the run directory holds the list itself, for `audit`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.data.sample_order import EMPTY, Int64Array
from ivr_dist.errors import CorruptDataError
from ivr_dist.run.paths import RunPaths
from ivr_dist.shards import npy
from ivr_dist.shards.manifest import Manifest

_DIGITS = 12
"""Digits of a checksum that suffice to tell two lists apart."""


@dataclass(frozen=True)
class Exclusions:
    """The samples of one split that are left out."""

    numbers: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64), repr=False, compare=False)
    """Their numbers in the split (manifest order), ascending and distinct."""
    digest: str = ""
    """`COUNT:SHA256` of the split's identity and the numbers; empty where nothing is left out."""

    @classmethod
    def of(cls, numbers: npt.ArrayLike, manifest_id: str) -> Exclusions:
        """Make the list of some samples.

        Args:
            numbers: Their numbers, in any order; a number may be repeated.
            manifest_id: Identity of their split.
        """
        distinct = np.unique(np.asarray(numbers, np.int64))
        if not distinct.size:
            return cls()
        content = manifest_id.encode() + b"\n" + distinct.astype("<i8").tobytes()
        return cls(distinct, f"{distinct.size}:{hashlib.sha256(content).hexdigest()}")

    def __len__(self) -> int:
        """Count the samples that are left out."""
        return int(self.numbers.size)

    def mask(self, numbers: Int64Array) -> npt.NDArray[np.bool_]:
        """Tell which samples are left out.

        Args:
            numbers: Sample numbers of any shape; EMPTY is never left out.

        Returns:
            True where the sample is left out, in the same shape.
        """
        if not self.numbers.size:
            return np.zeros(numbers.shape, bool)
        positions = np.minimum(np.searchsorted(self.numbers, numbers), self.numbers.size - 1)
        return np.asarray((self.numbers[positions] == numbers) & (numbers != EMPTY))

    def kept(self, samples: int) -> Int64Array:
        """Return the numbers of the samples that are not left out, of a split of so many."""
        return np.setdiff1d(np.arange(samples, dtype=np.int64), self.numbers, assume_unique=True)

    def union(self, other: Exclusions | None, manifest_id: str) -> Exclusions:
        """Return the list of the samples of both lists, of the split with this identity."""
        return self if not other else Exclusions.of(np.concatenate([self.numbers, other.numbers]), manifest_id)

    def to_bytes(self) -> bytes:
        """Encode the numbers as a `.npy` file."""
        out = io.BytesIO()
        np.lib.format.write_array(out, self.numbers.astype("<i8"), (1, 0), allow_pickle=False)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, manifest_id: str, where: str) -> Exclusions:
        """Decode the file.

        Args:
            data: The file.
            manifest_id: Identity of the split.
            where: Its name, for errors.

        Raises:
            CorruptDataError: It is not a list of numbers.
        """
        numbers = npy.parse(data, where, npy.NUMBERS)
        if numbers.ndim != 1 or numbers.dtype != np.dtype("<i8"):
            raise CorruptDataError("not a list of sample numbers", where=where, remedy="restore the run directory")
        return cls.of(numbers, manifest_id)


def save_excluded(run_url: str, manifests: Mapping[str, Manifest], excluded: Mapping[str, Exclusions]) -> None:
    """Keep the lists of a run in its directory, for `audit` and later evaluations.

    Args:
        run_url: The run's directory.
        manifests: The manifest of each split.
        excluded: The lists, by split.
    """
    for name, manifest in manifests.items():
        url = RunPaths(run_url).excluded(manifest.id)
        if name in excluded:
            storage.write_bytes(url, excluded[name].to_bytes())
        else:
            # Of a run in the same directory that was started over.
            storage.delete_tree(url)


def read_excluded(run_url: str, manifest_id: str) -> Exclusions:
    """Read the list of a run for the split with this manifest; nothing where the run has none.

    Raises:
        CorruptDataError: The file is damaged.
        StorageError: It cannot be read.
    """
    url = RunPaths(run_url).excluded(manifest_id)
    try:
        data = storage.read_bytes(url)
    except storage.NotFoundError:
        return NOTHING
    return Exclusions.from_bytes(data, manifest_id, storage.display(url))


def excluded_by_run_of(checkpoint: str, manifest_id: str) -> Exclusions:
    """Read what the run of a checkpoint leaves out of the split with this manifest.

    Nothing where the checkpoint is no longer in the directory of its run.

    Raises:
        CorruptDataError: The list is damaged.
        StorageError: It cannot be read.
    """
    run = RunPaths.of_checkpoint(checkpoint)
    return NOTHING if run is None else read_excluded(run.url, manifest_id)


def describe(digest: str) -> str:
    """Describe a digest in words, for errors: how many samples, and which list."""
    count, _, checksum = digest.partition(":")
    return f"{count} samples (list {checksum[:_DIGITS]})" if checksum else "none"


NOTHING = Exclusions()
"""The list of a run that leaves nothing out."""
