"""Lookup of one sample of packed data by its id."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import DataError
from ivr_dist.shards.decode import RawSample, decode_with_json
from ivr_dist.shards.index import ShardIndex
from ivr_dist.shards.index import load as load_index
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_ids import tar_key

_THREADS = 8
_MAX_CANDIDATES = 50_000
"""Number of ids that an unknown id is compared with."""


@dataclass(frozen=True)
class FoundSample:
    """A sample and its position in the split."""

    url: str
    """URL of its split."""
    manifest: Manifest
    number: int
    """Position in the split, in the order of the manifest."""
    sample: RawSample
    about: dict[str, Any]
    """The JSON of the sample."""

    @property
    def words(self) -> dict[str, list[str]]:
        """By modality of token ids, where the manifest knows their words: the word of each id."""
        return {
            name: [words[number] if 0 <= number < len(words) else str(number) for number in array.tolist()]
            for name, words in self.manifest.words.items()
            if (array := self.sample.arrays.get(name)) is not None
        }

    def to_json(self) -> dict[str, Any]:
        """Return the sample as JSON values: arrays as shape, dtype and values, null for a value that is not finite."""
        arrays = {
            name: {"shape": list(array.shape), "dtype": str(array.dtype), "values": _values(array)}
            for name, array in self.sample.arrays.items()
        }
        position = {"url": storage.display(self.url), "shard": self.sample.shard, "number": self.number}
        words = {"words": self.words} if self.words else {}
        return {**position, "key": self.sample.key, "about": self.about, "arrays": arrays, **words}


def find_sample(split_urls: Sequence[str], key: str) -> FoundSample:
    """Find a sample by its id and read it.

    Args:
        split_urls: Folder or URL of each split.
        key: Its id, or its KEY in the tar; an id takes precedence over the KEY of another sample.

    Raises:
        DataError: There is no such sample; the text suggests similar ids.
        CorruptDataError: The sample is damaged.
    """
    # Indexes of older versions have KEYs only, which are derived from ids.
    tar_keys = {key, tar_key(key)}
    candidates: list[str] = []
    with_this_key: tuple[str, Manifest, int] | None = None
    for url in split_urls:
        manifest, first = Manifest.load(url), 0
        for index in _indexes(url, manifest):
            for number, name in enumerate(index.names, first):
                if name == key or (index.ids is None and name in tar_keys):
                    return _read(url, manifest, number)
            if index.ids is not None and with_this_key is None and key in index.keys:
                with_this_key = url, manifest, first + index.keys.index(key)
            candidates += index.names[: _MAX_CANDIDATES - len(candidates)]
            first += len(index.keys)
    if with_this_key is not None:
        return _read(*with_this_key)
    close = difflib.get_close_matches(key, candidates, n=3)
    remedy = f"did you mean {', '.join(close)}?" if close else f"ids look like {', '.join(candidates[:3])}"
    raise DataError(f"no sample {key}", where=", ".join(map(storage.display, split_urls)), remedy=remedy)


def _indexes(url: str, manifest: Manifest) -> Iterator[ShardIndex]:
    """Read the indexes of all shards, in the order of the manifest."""
    urls = [storage.join(url, shard.index.name) for shard in manifest.shards]
    with ThreadPoolExecutor(_THREADS) as pool:
        # In small groups, so that a sample that is found early does not wait for the rest.
        for first in range(0, len(urls), _THREADS):
            yield from pool.map(load_index, urls[first : first + _THREADS])


def _values(array: npt.NDArray[Any]) -> Any:
    values = array.astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()


def _read(url: str, manifest: Manifest, number: int) -> FoundSample:
    reader = ShardReader(url, manifest, 0)
    try:
        (stored,) = reader.stored(np.array([number]))
    finally:
        reader.close()
    sample, about = decode_with_json(stored.content, stored.shard, stored.key, manifest.features)
    return FoundSample(url, manifest, number, sample, about)
