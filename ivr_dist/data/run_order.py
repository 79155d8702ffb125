"""The data order of a run, of one corpus or of a pool: what each slot of each global batch holds, and what follows it.

The loader, the read forecast and the audit read the order through `RunOrder` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from ivr_dist.data.sample_order import Int64Array


@dataclass(frozen=True)
class GlobalBatch:
    """The samples of one global batch of G slots."""

    corpus: Int64Array
    """[G] number of the corpus of each slot; 0 where the slot is empty."""
    numbers: Int64Array
    """[G] number of the sample in its corpus (manifest order), EMPTY where the slot has none."""
    passes: Int64Array
    """[G] the pass over the corpus that the sample is used in, from 0; of one corpus, the epoch."""


class Cursor(Protocol):
    """Position of the next step to train on, with everything that the order depends on."""

    @property
    def epoch(self) -> int:
        """Completed epochs, 0 at the start."""

    @property
    def step(self) -> int:
        """Steps consumed within the epoch."""

    def check_matches(self, other: Self) -> None:
        """Compare a checkpoint's cursor (self) with that of the config; the position may differ.

        Raises:
            CheckpointMismatchError: The two describe different orders.
        """

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""


C = TypeVar("C", bound=Cursor)


class RunOrder(Protocol, Generic[C]):
    """The order of a run."""

    @property
    def start(self) -> C:
        """Cursor of the first step."""

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora, in the order of their numbers."""

    def batch(self, cursor: C) -> GlobalBatch:
        """Compute the global batch at a position. Sequential access is cheap, any access takes no walk."""

    def advance(self, cursor: C) -> C:
        """Return the position after one more step."""

    def at(self, step: int) -> C:
        """Return the position of a step of the run, counted from 0 over all epochs."""

    def uses(self, step: int) -> Mapping[str, int]:
        """Count the uses of samples of each corpus in the first `step` steps of the run, by name."""
