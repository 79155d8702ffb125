"""Fragments: one worker's share of the parameters and of the optimizer state (decision 011).

Whatever the ZeRO stage, a worker's share of a parameter is a run of elements of the flattened parameter. A checkpoint
consists of such runs, each with its offset, so that any number of workers at any stage can read it: elements 300 to 700
of a parameter are read from the runs that hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Fragment:
    """Elements `offset .. offset + numel` of a flattened parameter, or a whole buffer of the model."""

    parameter: str
    """Its name in the model."""
    offset: int
    numel: int
    tensors: dict[str, Tensor]
    """Flat tensors of `numel` elements: `weight`, and the optimizer's state of each element, by its names."""
    scalars: dict[str, float] = field(default_factory=dict)
    """Optimizer state kept once for the parameter, such as its step count."""

    def cut(self, start: int, end: int) -> Fragment:
        """Return elements [start, end) of this fragment."""
        tensors = {name: tensor[start:end] for name, tensor in self.tensors.items()}
        return Fragment(self.parameter, self.offset + start, end - start, tensors, self.scalars)


def share(fragments: Sequence[Fragment], rank: int, world: int) -> list[Fragment]:
    """Return one rank's even share of replicated fragments, cut at most once at each end.

    Over all ranks each element is in exactly one share; a fragment without elements is in the first.

    Args:
        fragments: The same on every rank.
        rank: 0 to world - 1.
        world: Number of shares.
    """
    total = sum(fragment.numel for fragment in fragments)
    first, last = total * rank // world, total * (rank + 1) // world
    own = []
    position = 0
    for fragment in fragments:
        start, end = max(first - position, 0), min(last - position, fragment.numel)
        if start < end or (fragment.numel == 0 and rank == 0):
            own.append(fragment.cut(start, max(end, start)))
        position += fragment.numel
    return own


@dataclass(frozen=True)
class Piece:
    """Location of a run of a parameter's elements in a checkpoint."""

    part: int
    """Rank whose file holds it."""
    start: int
    """Its first element in that fragment."""
    target: int
    """Its first element in the requested range."""
    numel: int


def pieces(spans: Sequence[tuple[int, int, int]], offset: int, numel: int) -> Iterator[Piece]:
    """Yield the pieces that make up elements [offset, offset + numel) of a parameter.

    Args:
        spans: (part, offset, numel) of each fragment of the parameter, in any order; none overlap.
        offset: First element.
        numel: Number of elements.

    Raises:
        ValueError: Some of them are in no fragment.
    """
    covered = 0
    for part, first, length in spans:
        start, end = max(first, offset), min(first + length, offset + numel)
        if start < end:
            covered += end - start
            yield Piece(part, start - first, start - offset, end - start)
    if covered != numel:
        raise ValueError(f"{numel - covered} of {numel} elements are missing")


def saved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the persistent buffers of a module, by name; those it recomputes itself are left out."""
    buffers = dict(module.named_buffers())
    saved = module.state_dict(keep_vars=True).keys() if buffers else ()
    return {name: buffer for name, buffer in buffers.items() if name in saved}
