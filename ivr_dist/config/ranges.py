"""The range of every key of the config that is a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ivr_dist.config.schema import Modality


@dataclass(frozen=True)
class Range:
    """The numbers a key allows; an open end is not allowed itself."""

    low: float
    high: float = float("inf")
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.low_open else f"at least {self.low:g}"
        if self.high == float("inf"):
            return low
        return f"{low} and {'below' if self.high_open else 'at most'} {self.high:g}"


_AT_LEAST_0, _AT_LEAST_1, _ABOVE_0 = Range(0), Range(1), Range(0, low_open=True)
_ABOVE_1 = Range(1, low_open=True)
_SHARE, RATE = Range(0, 1), Range(0, 1, high_open=True)

RANGES: dict[str, Range] = {
    # What torch takes.
    "run.seed": Range(0, 2**64 - 1),
    "run.threads": Range(1, 4096),
    "run.wait_s": _AT_LEAST_0,
    "run.resize_s": _ABOVE_0,
    "run.hang_after_s": _AT_LEAST_0,
    "run.max_failures": Range(-1),
    "data.prefetch": _AT_LEAST_1,
    "data.deadline_s": _ABOVE_0,
    "data.max_skipped": _AT_LEAST_0,
    "model.hidden": Range(2),
    "model.dropout": RATE,
    "model.input_dropout": RATE,
    "model.feature_dropout": RATE,
    "model.modality_dropout": RATE,
    **{f"model.{m}.{name}": _AT_LEAST_1 for m in get_args(Modality) for name in ("layers", "heads", "feedforward")},
    "model.text.trained_layers": _AT_LEAST_0,
    "model.text.dropout": RATE,
    "model.fusion.heads": _AT_LEAST_1,
    "model.fusion.layers": _AT_LEAST_0,
    "loss.consistency.weight": _AT_LEAST_0,
    "loss.consistency.group": _AT_LEAST_1,
    "loss.consistency.moments": _AT_LEAST_1,
    "loss.adversary.weight": _AT_LEAST_0,
    "loss.adversary.scale": _ABOVE_0,
    "loss.adversary.margin": _AT_LEAST_0,
    "loss.reconstruction.weight": _AT_LEAST_0,
    "loss.svr.weight": _AT_LEAST_0,
    "loss.svr.warmup": _SHARE,
    "loss.svr.decay": _SHARE,
    "svr.temperature": _ABOVE_0,
    "train.global_batch": _AT_LEAST_1,
    "train.accumulation": _AT_LEAST_1,
    "train.max_micro_batch": _AT_LEAST_1,
    "train.max_steps": _AT_LEAST_1,
    "train.epochs": _ABOVE_0,
    "train.lr": _ABOVE_0,
    "train.text_lr": _ABOVE_0,
    "train.muon_lr": _ABOVE_0,
    "train.weight_decay": _AT_LEAST_0,
    "train.warmup": _SHARE,
    "train.min_lr_ratio": _SHARE,
    "train.grad_clip": _AT_LEAST_0,
    "train.patience": _AT_LEAST_1,
    "train.spike_factor": _ABOVE_1,
    "train.rollback_steps": _AT_LEAST_1,
    "train.max_faults": _AT_LEAST_0,
    "checkpoint.keep_last": _AT_LEAST_1,
    "checkpoint.max_failed": _AT_LEAST_0,
    "log.every": _AT_LEAST_1,
    "log.console_s": _AT_LEAST_0,
    "log.svr_every": _AT_LEAST_0,
}
