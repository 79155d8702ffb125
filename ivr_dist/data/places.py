"""Where the members of every sample of a shard are, if `pack` wrote it: worked out, not read.

`pack` writes the members of a sample in the order of their names, and how large an array's member is follows from its
steps, which the index holds; what is left of the sample's bytes is its JSON. A tar made elsewhere may be laid out in
any way, so whoever goes by these places looks whether the member is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ivr_dist.data import npy
from ivr_dist.data.index import ShardIndex
from ivr_dist.data.manifest import MODALITIES, FeatureSpec
from ivr_dist.data.tar import BLOCK

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ArrayPlaces:
    """The member of one modality in every sample of a shard."""

    modality: str
    suffix: bytes
    """What follows the key in the member's name; empty where an array's header alone tells that it is the one: no other
    modality has such arrays."""
    dtype: np.dtype[np.generic]
    """As stored."""
    dim: int | None
    """Width of a step; None for token ids, which have one dimension."""
    at: list[int]
    """By sample: bytes from the start of the sample to that of the member."""
    steps: list[int]
    """By sample: steps of the array; -1 where there is none."""
    headers: Headers
    """By steps: what the array's file begins with."""


class Headers(dict[int, tuple[bytes, tuple[int, ...]]]):
    """By steps of an array: its `.npy` header, and its shape. Made as they are asked for."""

    def __init__(self, dtype: np.dtype[np.generic], dim: int | None) -> None:
        super().__init__()
        self._descr = dtype.str
        self._width = () if dim is None else (dim,)

    def __missing__(self, steps: int) -> tuple[bytes, tuple[int, ...]]:
        """Make one."""
        shape = (steps, *self._width)
        found = self[steps] = (npy.header(self._descr, shape), shape)
        return found


@dataclass(frozen=True)
class ShardPlaces:
    """All members of every sample of a shard."""

    arrays: list[ArrayPlaces]
    json: list[int]
    """By sample: where the member of its JSON begins, from the start of the sample; -1 where its lengths cannot be."""


def shard_places(index: ShardIndex, features: Mapping[str, FeatureSpec]) -> ShardPlaces:
    """The places of a shard's members, of a split with these features."""
    members = {
        name: _sizes(index.lengths[:, MODALITIES.index(name)].astype(np.int64), features[name]) for name in features
    }
    kinds = [_kind(spec) for spec in features.values()]
    at = np.zeros(len(index.keys), np.int64)
    starts: dict[str, Int64Array] = {}
    rest = index.size - sum(members.values(), np.zeros_like(at))
    for name in sorted([*features, _JSON]):
        starts[name] = at
        at = at + (rest if name == _JSON else members[name])
    return ShardPlaces(
        arrays=[
            ArrayPlaces(
                modality=name,
                suffix=f".{name}.npy\0".encode() if kinds.count(_kind(spec)) > 1 else b"",
                dtype=np.dtype(spec.dtype),
                dim=None if spec.kind == "tokens" else spec.dim,
                at=starts[name].tolist(),
                steps=index.lengths[:, MODALITIES.index(name)].tolist(),
                headers=Headers(np.dtype(spec.dtype), None if spec.kind == "tokens" else spec.dim),
            )
            for name, spec in features.items()
        ],
        # Members that take more than the sample has would lead out of it.
        json=np.where(rest < BLOCK, -1, starts[_JSON]).tolist(),
    )


_JSON = "json"


def _kind(spec: FeatureSpec) -> tuple[np.dtype[np.generic], int | None]:
    return np.dtype(spec.dtype), None if spec.kind == "tokens" else spec.dim


def _sizes(steps: Int64Array, spec: FeatureSpec) -> Int64Array:
    """[n] bytes of a modality's member with header and padding; 0 where it is absent."""
    width = np.dtype(spec.dtype).itemsize * (1 if spec.kind == "tokens" else spec.dim)
    head = len(npy.header(np.dtype(spec.dtype).str, (0,) if spec.kind == "tokens" else (0, spec.dim)))
    content = head + np.maximum(steps, 0) * width
    found: Int64Array = np.where(steps < 0, 0, BLOCK + -(-content // BLOCK) * BLOCK)
    return found
