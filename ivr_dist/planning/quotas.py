"""Quotas of a pool: how many uses of its samples each corpus has in an epoch. Pure functions of exact numbers.

Weights are exact fractions, so quotas are the same on every machine: a decimal number means what was written, and
powers are computed to 60 digits. Quotas are whole numbers that add up to the slots of an epoch (largest remainders).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction

from ivr_dist.errors import ConfigError
from ivr_dist.units import as_written

_DIGITS = 60


def share_weights(samples: Mapping[str, int], alpha: float) -> dict[str, Fraction]:
    """Weights `samples ** alpha` by corpus (Aharoni et al. 2019: temperature sampling with T = 1 / alpha).

    Args:
        samples: Samples of each corpus, at least 1.
        alpha: 1: every sample equally often; 0: every corpus equally often.
    """
    exponent = as_written(alpha)
    if exponent == 1:
        return {name: Fraction(count) for name, count in samples.items()}
    context = Context(prec=_DIGITS)
    power = context.divide(Decimal(exponent.numerator), Decimal(exponent.denominator))
    return {name: Fraction(context.power(Decimal(count), power)) for name, count in samples.items()}


def largest_remainders(total: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    """Divide `total` by weight into whole numbers: floors, then the largest remainders, ties to the earlier name.

    Args:
        total: The sum of the result, at least 0.
        weights: At least 0 each, of which one is above 0.
    """
    whole = sum(weights.values(), Fraction(0))
    exact = {name: weight * total / whole for name, weight in weights.items()}
    quotas = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[: total - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def capped_quotas(total: int, weights: Mapping[str, Fraction], caps: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` by weight, none above its cap; what a cap leaves over is divided among the others by weight.

    Args:
        total: Slots of an epoch.
        weights: By corpus, above 0.
        caps: Most uses an epoch, of corpora that have a limit.

    Raises:
        ConfigError: The caps of all corpora together are below `total`.
    """
    fixed: dict[str, int] = {}
    while True:
        rest = {name: weight for name, weight in weights.items() if name not in fixed}
        remaining = total - sum(fixed.values())
        if not rest:
            if remaining:
                raise ConfigError(f"the caps allow {sum(fixed.values())} of {total} uses an epoch")
            return {name: fixed[name] for name in weights}
        quotas = largest_remainders(remaining, rest)
        over = {name: caps[name] for name, quota in quotas.items() if quota > caps.get(name, quota)}
        if not over:
            return {name: fixed.get(name, quotas.get(name, 0)) for name in weights}
        fixed |= over


def pass_cap(samples: int, max_passes: float, epochs: Fraction) -> int:
    """Most uses an epoch of a corpus that must not be passed over more than `max_passes` times in `epochs` epochs."""
    return int(samples * as_written(max_passes) / epochs)


def epochs_until_exhausted(samples: Mapping[str, int], max_passes: Mapping[str, float], total: int) -> Fraction:
    """Epochs of `total` slots after which every corpus has reached its limit of passes."""
    return sum((samples[name] * as_written(most) for name, most in max_passes.items()), Fraction(0)) / total


def pool_lanes(quotas: Sequence[int], samples: Sequence[int], all_lanes: int = 512, most: int = 64) -> list[int]:
    """Lanes of the order of each corpus: by its share of the pool, 1 to `most`, `all_lanes` or little more together.

    A lane is a place in a corpus from which samples are read; a reader of the whole pool has a segment of each open.
    """
    total = sum(quotas)
    return [max(1, min(most, all_lanes * quota // total, count)) for quota, count in zip(quotas, samples, strict=True)]
