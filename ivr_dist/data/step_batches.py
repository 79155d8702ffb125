"""The micro-batches of one rank for one optimizer step, as the loaders of one corpus and of a pool return them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ivr_dist.data.background_stream import BackgroundStream
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.sample_order import Int64Array


@dataclass(frozen=True)
class LeftOut:
    """A sample that was not trained on, whose slot is empty."""

    name: str
    """See `ShardReader.names`."""
    reason: str = ""
    """Why it could not be read; empty where the run leaves it out."""
    corpus: str = ""
    """Its corpus, in a pool."""
    number: int = 0
    """The pass over the corpus that it belongs to, in a pool."""


@dataclass(frozen=True)
class StepBatches:
    """Micro-batches of one rank for one optimizer step."""

    cursor: Any
    """Position of this step, a `Cursor`."""
    next_cursor: Any
    """Position of the next one, which a checkpoint written after the step holds."""
    micro_batches: list[Batch]
    """One for each micro-step; any of them may be empty."""
    skipped: Sequence[LeftOut] = ()
    """This rank's samples that could not be read, whose slots are empty."""
    excluded: Sequence[LeftOut] = ()
    """This rank's samples that the run leaves out, whose slots are empty."""
    passes: Sequence[Int64Array] = ()
    """By micro-batch: [B] the pass over its corpus that each sample is used in. Empty where there is one corpus, whose
    passes are the epochs."""
    wait_s: float = 0.0
    """Seconds the consumer waited for it."""

    @property
    def epoch(self) -> int:
        """The epoch of this step, 0 at the start."""
        epoch: int = self.cursor.epoch
        return epoch


def timed(stream: BackgroundStream[StepBatches]) -> Iterator[StepBatches]:
    """Iterate over the steps of a stream with the time that the consumer waited for each; closes it at the end."""
    try:
        while True:
            started = time.monotonic()
            step = next(stream)
            yield replace(step, wait_s=time.monotonic() - started)
    finally:
        stream.close()


def closing(stream: BackgroundStream[Batch]) -> Iterator[Batch]:
    """Iterate over a stream, and close it at the end."""
    try:
        yield from stream
    finally:
        stream.close()
