"""Formatting of numbers and names in the tables and charts of packed data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ivr_dist.inspection.profile import ScannedPart, SplitProfile
from ivr_dist.inspection.summaries import Histogram, LabelSummary
from ivr_dist.shards.specs import TaskSpec

_MAX_CLASS_TICKS, _MAX_LENGTH_TICKS = 11, 8


def number(value: float | None) -> str:
    """Format a number with four digits; `-` for None."""
    return "-" if value is None else f"{value:.4g}"


def share(part: int, whole: int) -> str:
    """Format a part in percent; `-` of an empty whole."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def share_line(part: int, whole: int) -> str:
    """Format a count with its share in percent."""
    return f"{part:,} ({share(part, whole)})"


def class_bins(histogram: Histogram) -> list[str]:
    """Names of the bins of classes (`0`, `1`, ...) or of values (their centers)."""
    # Adding 0 turns -0 into 0.
    return [number(round((low + high) / 2, 9) + 0.0) for low, high in pairwise(histogram.edges)]


def length_bins(histogram: Histogram) -> list[str]:
    """Names of bins of integers: `4`, or `4-7`."""
    ends = [(int(low), int(high) - 1) for low, high in pairwise(histogram.edges)]
    return [str(low) if low == high else f"{low}-{high}" for low, high in ends]


def class_ticks(histogram: Histogram) -> list[tuple[float, str]]:
    """Tick labels for bins of classes or values: position and text; bin i spans i to i + 1."""
    names = class_bins(histogram)
    every = 1 + (len(names) - 1) // _MAX_CLASS_TICKS
    # Counted from the middle bin, where most scales have their 0.
    return [(bin_ + 0.5, names[bin_]) for bin_ in range(len(names) // 2 % every, len(names), every)]


def length_ticks(histogram: Histogram) -> list[tuple[float, str]]:
    """Tick labels for bins of integers: at the lower edges, or at the centers of bins of one integer."""
    edges = histogram.edges
    offset = 0.5 if edges[1] - edges[0] == 1 else 0.0
    bins = range(0, len(edges) - 1, 1 + (len(edges) - 2) // _MAX_LENGTH_TICKS)
    return [(bin_ + offset, f"{edges[bin_]:g}") for bin_ in bins]


def length_position(histogram: Histogram, length: int) -> float:
    """Position of a length on the axis of `length_ticks`."""
    edges = histogram.edges
    width = edges[1] - edges[0]
    return (length - edges[0] + (0.5 if width == 1 else 0.0)) / width


def task_line(task: TaskSpec) -> str:
    """Describe a task: its type, classes or range, and scale."""
    if task.type == "classification":
        return f"classification, {task.classes} classes, scale {task.scale}"
    ends = "" if task.low is None or task.high is None else f" {task.low:g} to {task.high:g}"
    return f"regression{ends}, scale {task.scale}"


def label_numbers(labels: LabelSummary) -> tuple[str, str, str, str]:
    """Minimum, mean, maximum and standard deviation of labels; `-` for classes, where they mean nothing."""
    if labels.task.type == "classification":
        return ("-", "-", "-", "-")
    return number(labels.min), number(labels.mean), number(labels.max), number(labels.std)


def scanned_line(scanned: ScannedPart) -> str:
    """Describe which part of a split the values were read from."""
    if scanned.is_all:
        return f"all {scanned.samples} samples"
    part = f"{scanned.segments} of {scanned.of_segments} segments, spread evenly"
    return f"{scanned.samples} of {scanned.of_samples} samples ({part})"


def columns_line(columns: Sequence[int], most: int = 4) -> str:
    """List column numbers: how many there are, and the first few."""
    if not columns:
        return "0"
    return f"{len(columns)}: {', '.join(map(str, columns[:most]))}{', ...' if len(columns) > most else ''}"


def titles(splits: Sequence[SplitProfile]) -> list[str]:
    """Column titles of splits; with the corpus if there are several corpora."""
    several = len({split.corpus for split in splits}) > 1
    return [f"{split.corpus} {split.split}" if several else split.split for split in splits]
