"""Intervals, sizes and durations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.units import format_bytes, format_count, format_duration, parse_bytes, parse_interval


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("200steps", 200),
        ("1step", 1),
        ("200 steps", 200),
        ("1epoch", 17),
        ("2epochs", 34),
        ("0.5epochs", 9),
        ("0.01epoch", 1),
        ("1.0epochs", 17),
        ("3.0steps", 3),
    ],
)
def test_interval_in_steps(text: str, steps: int) -> None:
    assert parse_interval(text).steps(steps_per_epoch=17) == steps


def test_fractions_of_epochs_are_decimal() -> None:
    # In floating point 1.1 * 10 is 11.000000000000002, which would round up to 12.
    assert parse_interval("1.1epochs").steps(steps_per_epoch=10) == 11


@pytest.mark.parametrize(
    "text", ["", "5", "steps", "-1epoch", "1.5steps", "0steps", "0.0epochs", "1e3steps", "2 weeks"]
)
def test_wrong_interval_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="step") as error:
        parse_interval(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512B", 512),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("256MiB", 256 * 2**20),
        ("1GB", 10**9),
        ("1.5 gib", 3 * 2**29),
        ("2TiB", 2**41),
        ("0B", 0),
    ],
)
def test_bytes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "12", "MiB", "-1MB", "1MBit", "1e3B", "1 MB 2"])
def test_wrong_size_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="size in bytes") as error:
        parse_bytes(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (3.21, "3.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (83, "1 min 23 s"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (100 * 3600, "100:00:00"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (4 * 10**18, "4000 PB"),
    ],
)
def test_byte_sizes_print_with_three_digits(count: int, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(1, 10**15))
def test_printed_counts_are_right_to_three_digits(count: int) -> None:
    number, _, prefix = format_count(count).partition(" ")
    value = float(number) * 1000 ** ["", "k", "M", "G", "T", "P"].index(prefix)
    assert value == pytest.approx(count, rel=0.0051)
    assert len(number.replace(".", "")) <= 3 or prefix == "P"


@given(st.integers(0, 2**40), st.sampled_from(["B", "KiB", "MB"]))
def test_bytes_round_trip(count: int, unit: str) -> None:
    assert parse_bytes(f"{count}{unit}") == count * {"B": 1, "KiB": 1024, "MB": 10**6}[unit]
