"""Member layout: offsets of the members of every sample of a shard, computed from its index instead of read.

`pack` writes the members of a sample in the order of their names, and the size of an array's member follows from its
time steps, which the index holds; the rest of the sample's bytes is its JSON. A tar made elsewhere may have any layout,
so a reader checks that a member is at its computed offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.shards import npy
from ivr_dist.shards.index import ShardIndex
from ivr_dist.shards.specs import FeatureSpec
from ivr_dist.shards.tar import BLOCK

Int64Array = npt.NDArray[np.int64]

_JSON = "json"


@dataclass(frozen=True)
class Kind:
    """Type and width of the arrays of a modality."""

    dtype: np.dtype[np.generic]
    """Stored type."""
    dim: int | None
    """Width of a time step; None for token ids, which have one dimension."""

    @classmethod
    def of(cls, spec: FeatureSpec) -> Kind:
        """Create the kind of a modality."""
        return cls(np.dtype(spec.dtype), None if spec.kind == "tokens" else spec.dim)

    @property
    def step_bytes(self) -> int:
        """Bytes of one time step."""
        return self.dtype.itemsize * (1 if self.dim is None else self.dim)

    def shape(self, *leading: int) -> tuple[int, ...]:
        """Return the shape with these dimensions before those of a time step."""
        return leading if self.dim is None else (*leading, self.dim)


@dataclass(frozen=True)
class MemberLayout:
    """The member of one modality in the samples of a split."""

    modality: str
    kind: Kind
    suffix: str
    """Part of the member's name after the key; empty where the array's header alone identifies the modality, because no
    other one has such arrays."""
    headers: Headers
    """First bytes of the array's file, by time steps."""

    @property
    def header_bytes(self) -> int:
        """Bytes of the header; arrays of very many steps have a longer one, and are not found by this layout."""
        return len(self.headers[0])


class Headers(dict[int, bytes]):
    """The `.npy` header of an array by its time steps, made on first use."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, steps: int) -> bytes:
        """Make a header; it is empty where there is no array."""
        header = self[steps] = b"" if steps < 0 else npy.header(self._kind.dtype.str, self._kind.shape(steps))
        return header


@dataclass(frozen=True)
class Layout:
    """Layout of the samples of a split, as `pack` writes them."""

    members: list[MemberLayout]

    @classmethod
    def of(cls, features: Mapping[str, FeatureSpec]) -> Layout:
        """Create the layout of a split with these features."""
        kinds = {name: Kind.of(spec) for name, spec in features.items()}
        return cls(
            [
                MemberLayout(
                    modality=name,
                    kind=kind,
                    suffix=f".{name}.npy\0" if list(kinds.values()).count(kind) > 1 else "",
                    headers=Headers(kind),
                )
                for name, kind in kinds.items()
            ]
        )

    # decision 017
    def member_offsets(self, index: ShardIndex) -> Int64Array:
        """Compute the offsets of the members of a shard's n samples.

        Returns:
            [n, 1 + 4 M] with M modalities: the offset of the member of the sample's JSON, -1 if its lengths contradict
            its size; then for each modality the time steps of its array, -1 where there is none, and the offsets of its
            file, of its values, and of the end of its values, which are equal where there is none. All offsets count
            from the first byte of the sample's segment.
        """
        segments = index.segment[:-1]
        begins = index.offset - np.repeat(index.offset[segments], np.diff(index.segment))
        steps = {
            each.modality: index.lengths[:, MODALITIES.index(each.modality)].astype(np.int64) for each in self.members
        }
        sizes = {each.modality: _member_bytes(each, steps[each.modality]) for each in self.members}
        sizes[_JSON] = index.size - sum(sizes.values(), np.zeros_like(begins))
        starts: dict[str, Int64Array] = {}
        offset = begins
        for name in sorted(sizes):
            starts[name] = offset
            offset = offset + sizes[name]
        # Members larger than their sample would have offsets outside it.
        columns = [np.where(sizes[_JSON] < BLOCK, -1, starts[_JSON])]
        for each in self.members:
            file = starts[each.modality] + BLOCK
            values = file + np.where(steps[each.modality] < 0, 0, each.header_bytes)
            ends = values + np.maximum(steps[each.modality], 0) * each.kind.step_bytes
            columns += [steps[each.modality], file, values, ends]
        return np.stack(columns, axis=1)


def _member_bytes(member: MemberLayout, steps: Int64Array) -> Int64Array:
    """[n] bytes of a modality's member with header and padding; 0 where it is absent."""
    content = member.header_bytes + np.maximum(steps, 0) * member.kind.step_bytes
    sizes: Int64Array = np.where(steps < 0, 0, BLOCK + -(-content // BLOCK) * BLOCK)
    return sizes
