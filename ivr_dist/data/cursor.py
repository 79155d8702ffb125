"""Data cursor: the position of a run in its data, with everything that the sample order depends on.

The cursor is equal on all ranks and independent of their number. It counts steps that the optimizer has taken, not
prefetched ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ivr_dist.common.decoder import DecodeError, decode
from ivr_dist.data.exclusions import describe
from ivr_dist.errors import CheckpointError, CheckpointMismatchError

_REMEDIES = {
    "manifest_id": "point data.train at the shards that the run started with, or start a new run (another run.dir)",
    "seed": "set run.seed to the checkpoint's value",
    "lanes": "set data.lanes to the checkpoint's value",
    "global_batch": "set train.global_batch to the checkpoint's value",
    "delay": "set data.shuffle_delay to the checkpoint's value",
}


@dataclass(frozen=True, kw_only=True)
class DataCursor:
    """Position of the next step to train on."""

    manifest_id: str
    """Id of the training split's manifest."""
    seed: int
    epoch: int = 0
    """Completed epochs, 0 at the start."""
    step: int = 0
    """Steps consumed within the epoch, 0..steps_per_epoch-1."""
    lanes: int
    global_batch: int
    delay: int
    excluded: str = ""
    """Digest of the samples that are left out; empty where there are none."""

    def advance(self, steps_per_epoch: int) -> DataCursor:
        """Return the cursor after one more step; wraps into the next epoch."""
        if self.step + 1 < steps_per_epoch:
            return replace(self, step=self.step + 1)
        return replace(self, epoch=self.epoch + 1, step=0)

    def check_matches(self, other: DataCursor) -> None:
        """Compare a checkpoint's cursor (self) with the one of the config; epoch and step may differ.

        Raises:
            CheckpointMismatchError: The two describe different orders; names the first different field.
        """
        for name, remedy in _REMEDIES.items():
            stored, current = getattr(self, name), getattr(other, name)
            if stored != current:
                raise CheckpointMismatchError(
                    f"the checkpoint's data order has {name} {stored}, this run has {current}", remedy=remedy
                )
        if self.excluded != other.excluded:
            there, here = describe(self.excluded), describe(other.excluded)
            raise CheckpointMismatchError(
                f"the checkpoint's data order leaves out {there}, this run {here}",
                remedy="restore data.exclude of the checkpoint, or start a new run (another run.dir)",
            )

    def to_json(self) -> dict[str, Any]:
        """Convert the fields to JSON values; `excluded` only where samples are left out."""
        return {name: value for name, value in asdict(self).items() if value or name != "excluded"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataCursor:
        """Rebuild a cursor.

        Raises:
            CheckpointError: A field is missing, unknown or of the wrong type.
        """
        try:
            return decode(cls, {"excluded": "", **value}, complete=True)
        except DecodeError as error:
            raise CheckpointError(
                f"the checkpoint's data cursor is damaged: {error}", remedy="resume from another checkpoint"
            ) from None
