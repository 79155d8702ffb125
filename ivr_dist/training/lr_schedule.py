"""Learning rate and regularizer weight as pure functions of the optimizer step (decision 030)."""

from __future__ import annotations

import math


def lr_at(step: int, total_steps: int, warmup_steps: int, peak: float, schedule: str, min_ratio: float) -> float:
    """Return the learning rate of one optimizer step.

    It rises linearly over the warm-up, from `peak / warmup_steps` at step 0 to `peak` at the last warm-up step, then
    falls from `peak` towards `min_ratio * peak`, which it would reach at step `total_steps`: the last step still learns
    when `min_ratio` is 0.

    Args:
        step: Steps already taken, so 0 for the first.
        total_steps: Steps of the whole run; beyond them the rate stays at its final value.
        warmup_steps: Steps of the warm-up, 0 to `total_steps`.
        peak: Largest rate.
        schedule: `cosine` (half a cosine wave), `linear` or `constant`.
        min_ratio: Final rate as a share of `peak`; a constant schedule has none.

    Raises:
        ValueError: `schedule` is none of the three.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = 1.0 if step >= total_steps else (step - warmup_steps) / (total_steps - warmup_steps)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        remaining = 1.0 - progress
    elif schedule == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        raise ValueError(f"unknown schedule {schedule!r}, one of cosine, linear, constant")
    return peak * (min_ratio + (1.0 - min_ratio) * remaining)


def svr_weight_at(step: int, total_steps: int, warmup_steps: int, decay_steps: int, weight: float) -> float:
    """Return the weight of the sequential variation regularizer in one optimizer step.

    It rises linearly from 0 over the warm-up, stays, and falls linearly over the last steps towards 0, which it would
    reach at step `total_steps`.

    Args:
        step: Steps already taken, so 0 for the first.
        total_steps: Steps of the whole run.
        warmup_steps: Steps of the rise; 0 for none.
        decay_steps: Steps of the fall; 0 for none.
        weight: The full weight.
    """
    if step < warmup_steps:
        return weight * step / warmup_steps
    left = max(total_steps - step, 0)
    return weight * left / decay_steps if left < decay_steps else weight
