"""Numbers and names of data as they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ivr_dist.inspection.profile import ScannedPart, SplitSurvey
from ivr_dist.inspection.summaries import Histogram, LabelSummary
from ivr_dist.shards.specs import TaskSpec

_CLASS_TICKS, _LENGTH_TICKS = 11, 8


def number(value: float | None) -> str:
    """Four digits; `-` where there is no number."""
    return "-" if value is None else f"{value:.4g}"


def share(part: int, whole: int) -> str:
    """A part in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def class_bins(histogram: Histogram) -> list[str]:
    """Names of the bins of classes, `0`, `1`, ..., or of values, by their middle."""
    # Adding 0 makes 0 of -0.
    return [number(round((low + high) / 2, 9) + 0.0) for low, high in pairwise(histogram.edges)]


def length_bins(histogram: Histogram) -> list[str]:
    """Names of bins of whole numbers: `4`, or `4-7`."""
    ends = [(int(low), int(high) - 1) for low, high in pairwise(histogram.edges)]
    return [str(low) if low == high else f"{low}-{high}" for low, high in ends]


def class_ticks(histogram: Histogram) -> list[tuple[float, str]]:
    """Labels below bins of classes or values: the place, where bin i is from i to i + 1, and the text."""
    names = class_bins(histogram)
    every = 1 + (len(names) - 1) // _CLASS_TICKS
    # From the middle out, where the 0 of most scales is.
    return [(place + 0.5, names[place]) for place in range(len(names) // 2 % every, len(names), every)]


def length_ticks(histogram: Histogram) -> list[tuple[float, str]]:
    """Labels below bins of whole numbers, at their lower edges; of bins of one number, in their middle."""
    edges = histogram.edges
    middle = 0.5 if edges[1] - edges[0] == 1 else 0.0
    places = range(0, len(edges) - 1, 1 + (len(edges) - 2) // _LENGTH_TICKS)
    return [(place + middle, f"{edges[place]:g}") for place in places]


def length_place(histogram: Histogram, length: int) -> float:
    """Where a length is between the bins, as for `length_ticks`."""
    edges = histogram.edges
    width = edges[1] - edges[0]
    return (length - edges[0] + (0.5 if width == 1 else 0.0)) / width


def task_line(task: TaskSpec) -> str:
    """What a task is, in a few words."""
    if task.type == "classification":
        return f"classification, {task.classes} classes, scale {task.scale}"
    ends = "" if task.low is None or task.high is None else f" {task.low:g} to {task.high:g}"
    return f"regression{ends}, scale {task.scale}"


def label_numbers(labels: LabelSummary) -> tuple[str, str, str, str]:
    """Smallest, mean and largest label and their deviation; of classes these say nothing."""
    if labels.task.type == "classification":
        return ("-", "-", "-", "-")
    return number(labels.min), number(labels.mean), number(labels.max), number(labels.std)


def looked_line(looked: ScannedPart) -> str:
    """Which part of a split the values are from."""
    if looked.all:
        return f"all {looked.samples} samples"
    part = f"{looked.segments} of {looked.of_segments} segments, spread evenly"
    return f"{looked.samples} of {looked.of_samples} samples ({part})"


def columns_line(columns: Sequence[int], most: int = 4) -> str:
    """Numbers of columns: how many, and the first few."""
    if not columns:
        return "0"
    return f"{len(columns)}: {', '.join(map(str, columns[:most]))}{', ...' if len(columns) > most else ''}"


def titles(splits: Sequence[SplitSurvey]) -> list[str]:
    """Names of splits as columns; with the corpus where there are several."""
    several = len({split.corpus for split in splits}) > 1
    return [f"{split.corpus} {split.split}" if several else split.split for split in splits]
