"""Lanes of the data order: their defaults and limits. Pure functions of numbers, without numpy."""

from __future__ import annotations

from ivr_dist.errors import ConfigError

_MAX_DELAY = 1 << 40
_WINDOW_BYTES = 1 << 30
_SEGMENT_BYTES = 1 << 20
_LONGEST_DEFAULT_DELAY = 1000


def default_lanes(global_batch: int) -> int:
    """The largest divisor of the global batch up to 64."""
    return max(lanes for lanes in range(1, 65) if global_batch % lanes == 0)


def default_delay(samples: int, split_bytes: int, lanes: int, window_bytes: int = _WINDOW_BYTES) -> int:
    """The default shuffle delay: 1000, or less where the windows of all lanes would not fit into memory.

    The next outputs of a lane come from a window of twice the delay, with a segment at either end; the windows of all
    lanes must fit into `window_bytes`. The result must not depend on the number of readers, since the order depends on
    it.

    Args:
        samples: Samples of the split.
        split_bytes: Size of its shards.
        lanes: Number of lanes.
        window_bytes: Memory for the windows, by default 1 GiB.
    """
    if split_bytes <= window_bytes:
        return _LONGEST_DEFAULT_DELAY
    sample_bytes = split_bytes / samples
    window = window_bytes / lanes - 2 * max(_SEGMENT_BYTES, sample_bytes)
    return max(0, min(_LONGEST_DEFAULT_DELAY, int(window / sample_bytes) // 2))


def check_layout(lanes: int, global_batch: int, delay: int) -> None:
    """Check that lanes, global batch and delay define an order.

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
