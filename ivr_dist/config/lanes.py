"""Lanes of the data order: their defaults and limits. Pure functions of numbers, without numpy."""

from __future__ import annotations

from ivr_dist.errors import ConfigError

_MAX_DELAY = 1 << 40


_WINDOW_BYTES = 1 << 30


_SEGMENT_BYTES = 1 << 20


_LONGEST_DEFAULT_DELAY = 1000


def default_lanes(global_batch: int) -> int:
    """The largest divisor of the global batch that is not above 64."""
    return max(lanes for lanes in range(1, 65) if global_batch % lanes == 0)


def default_delay(samples: int, split_bytes: int, lanes: int) -> int:
    """The delay of a shuffle where none was chosen: 1000, or as far as one reader of all lanes has memory for.

    A lane's next outputs come from a window of twice the delay, and a segment at either end of it; the windows of all
    lanes are to fit into a GiB. It must not depend on who reads: the order would.

    Args:
        samples: Of the split.
        split_bytes: Of its shards.
        lanes: L.
    """
    if split_bytes <= _WINDOW_BYTES:
        return _LONGEST_DEFAULT_DELAY
    sample_bytes = split_bytes / samples
    window = _WINDOW_BYTES / lanes - 2 * max(_SEGMENT_BYTES, sample_bytes)
    return max(0, min(_LONGEST_DEFAULT_DELAY, int(window / sample_bytes) // 2))


def check_layout(lanes: int, global_batch: int, delay: int) -> None:
    """Refuse an order that is not defined.

    Raises:
        ConfigError: The lanes do not divide the global batch, or the delay is out of range.
    """
    if global_batch < 1:
        raise ConfigError(f"train.global_batch is {global_batch}", remedy="set it to 1 or more")
    if lanes < 1 or global_batch % lanes:
        raise ConfigError(
            f"data.lanes is {lanes}, which does not divide train.global_batch {global_batch}",
            remedy=f"leave data.lanes unset or set it to {default_lanes(global_batch)}",
        )
    if not 0 <= delay <= _MAX_DELAY:
        raise ConfigError(f"data.shuffle_delay is {delay}", remedy=f"set it to 0..{_MAX_DELAY} samples")
