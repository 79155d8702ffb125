"""One sample of packed data, found by its id."""

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
_CANDIDATES = 50_000
"""Keys that an unknown one is compared with."""


@dataclass(frozen=True)
class FoundSample:
    """A sample and where it is."""

    url: str
    """Of its split."""
    manifest: Manifest
    number: int
    """In the order of the manifest."""
    sample: RawSample
    about: dict[str, Any]
    """Its JSON."""

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON values; arrays as shape, dtype and values, null where one is not finite."""
        arrays = {
            name: {"shape": list(array.shape), "dtype": str(array.dtype), "values": _values(array)}
            for name, array in self.sample.arrays.items()
        }
        place = {"url": storage.display(self.url), "shard": self.sample.shard, "number": self.number}
        return {**place, "key": self.sample.key, "about": self.about, "arrays": arrays}


def find_sample(places: Sequence[str], key: str) -> FoundSample:
    """Find a sample and read it.

    Args:
        places: Folder or URL of each split.
        key: Its id, or the name of its tar members; an id goes first where it is the name of another sample's.

    Raises:
        DataError: There is none; names those that are close.
        CorruptDataError: It is damaged.
    """
    wanted = {key, tar_key(key)}
    known: list[str] = []
    named_so: tuple[str, Manifest, int] | None = None
    for place in places:
        manifest, first = Manifest.load(place), 0
        for index in _indexes(place, manifest):
            for number, name in enumerate(index.names, first):
                if name == key or (index.ids is None and name in wanted):
                    return _read(place, manifest, number)
            if index.ids is not None and named_so is None and key in index.keys:
                named_so = place, manifest, first + index.keys.index(key)
            known += index.names[: _CANDIDATES - len(known)]
            first += len(index.keys)
    if named_so is not None:
        return _read(*named_so)
    close = difflib.get_close_matches(key, known, n=3)
    remedy = f"did you mean {', '.join(close)}?" if close else f"ids look like {', '.join(known[:3])}"
    raise DataError(f"no sample {key}", where=", ".join(map(storage.display, places)), remedy=remedy)


def _indexes(url: str, manifest: Manifest) -> Iterator[ShardIndex]:
    """The indexes of all shards in the order of the manifest."""
    urls = [storage.join(url, shard.index.name) for shard in manifest.shards]
    with ThreadPoolExecutor(_THREADS) as pool:
        # A few at a time: whoever found a key does not wait for the rest.
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
