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

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.shards import npy
from ivr_dist.shards.index import ShardIndex
from ivr_dist.shards.specs import FeatureSpec
from ivr_dist.shards.tar import BLOCK

Int64Array = npt.NDArray[np.int64]

_JSON = "json"


@dataclass(frozen=True)
class Kind:
    """Of what the arrays of a modality are."""

    dtype: np.dtype[np.generic]
    """As stored."""
    dim: int | None
    """Width of a step; None for token ids, which have one dimension."""

    @classmethod
    def of(cls, spec: FeatureSpec) -> Kind:
        """That of a modality."""
        return cls(np.dtype(spec.dtype), None if spec.kind == "tokens" else spec.dim)

    @property
    def step_bytes(self) -> int:
        """Bytes of one step."""
        return self.dtype.itemsize * (1 if self.dim is None else self.dim)

    def shape(self, *leading: int) -> tuple[int, ...]:
        """With these dimensions before those of a step."""
        return leading if self.dim is None else (*leading, self.dim)


@dataclass(frozen=True)
class MemberLayout:
    """The member of one modality in the samples of a split."""

    modality: str
    kind: Kind
    suffix: str
    """What follows the key in the member's name; empty where an array's header alone tells that it is the one: no other
    modality has such arrays."""
    headers: Headers
    """By steps: what the array's file begins with."""

    @property
    def head(self) -> int:
        """Bytes of the header; that of an array of very many steps is longer, and is not gone by."""
        return len(self.headers[0])


class Headers(dict[int, bytes]):
    """By steps of an array: its `.npy` header. Made as they are asked for."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, steps: int) -> bytes:
        """Make one; there is none where there is no array."""
        found = self[steps] = b"" if steps < 0 else npy.header(self._kind.dtype.str, self._kind.shape(steps))
        return found


@dataclass(frozen=True)
class Layout:
    """How `pack` lays out the samples of a split."""

    members: list[MemberLayout]

    @classmethod
    def of(cls, features: Mapping[str, FeatureSpec]) -> Layout:
        """That of a split with these features."""
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

    def places(self, index: ShardIndex) -> Int64Array:
        """The places of the members of a shard's n samples.

        Returns:
            [n, 1 + 4 M] with M modalities: where the member of the sample's JSON begins, -1 if its lengths cannot be;
            then for each modality the steps of its array, -1 where there is none, and where its file begins, where its
            values begin, and where they end: at one place where there is none. All places are counted from the first
            byte of the sample's segment.
        """
        segments = index.segment[:-1]
        begins = index.offset - np.repeat(index.offset[segments], np.diff(index.segment))
        steps = {
            each.modality: index.lengths[:, MODALITIES.index(each.modality)].astype(np.int64) for each in self.members
        }
        sizes = {each.modality: _member_bytes(each, steps[each.modality]) for each in self.members}
        sizes[_JSON] = index.size - sum(sizes.values(), np.zeros_like(begins))
        starts: dict[str, Int64Array] = {}
        at = begins
        for name in sorted(sizes):
            starts[name] = at
            at = at + sizes[name]
        # Members that take more than the sample has would lead out of it.
        columns = [np.where(sizes[_JSON] < BLOCK, -1, starts[_JSON])]
        for each in self.members:
            file = starts[each.modality] + BLOCK
            values = file + np.where(steps[each.modality] < 0, 0, each.head)
            ends = values + np.maximum(steps[each.modality], 0) * each.kind.step_bytes
            columns += [steps[each.modality], file, values, ends]
        return np.stack(columns, axis=1)


def _member_bytes(member: MemberLayout, steps: Int64Array) -> Int64Array:
    """[n] bytes of a modality's member with header and padding; 0 where it is absent."""
    content = member.head + np.maximum(steps, 0) * member.kind.step_bytes
    found: Int64Array = np.where(steps < 0, 0, BLOCK + -(-content // BLOCK) * BLOCK)
    return found
