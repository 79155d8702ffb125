"""Counts of the labels of a packed split, by class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.shards.manifest import Manifest

_CHUNK = 4096


def class_counts(url: str, manifest: Manifest, task: str) -> npt.NDArray[np.int64]:
    """Count the samples of each class, [C], by reading the whole split once.

    Args:
        url: Directory or URL of the split.
        manifest: Its manifest.
        task: A classification.

    Raises:
        CorruptDataError, StorageError: The split cannot be read.
    """
    classes = manifest.tasks[task].classes or 0
    counts = np.zeros(classes, np.int64)
    reader = ShardReader(url, manifest, 1 << 26)
    try:
        chunks = (
            np.arange(first, min(first + _CHUNK, manifest.samples)) for first in range(0, manifest.samples, _CHUNK)
        )
        for result in reader.read_ahead(chunks):
            labels = [own[task] for own in result.all_or_raise().labels if own.get(task) is not None]
            counts += np.bincount(np.array(labels, np.float64).astype(np.int64), minlength=classes)[:classes]
    finally:
        reader.close()
    return counts
