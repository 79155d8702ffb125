"""Charts as inline SVG, without script: colors come from the page's style sheet, screen readers read the titles.

The functions compute geometry; `chart.svg` is the template that draws it. Every function returns one `<svg>` element.
Its `title` names it, and every bar has a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ivr_dist.display import templates
from ivr_dist.inspection.summaries import ColumnStatistics

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 24.0
_MAX_BAR_WIDTH = 60.0
_COMPRESS_FROM = 30.0
"""Ratio of the largest value to the median standard deviation above which a linear scale would hide the small ones."""


@dataclass(frozen=True)
class Label:
    """A text and its coordinate: y of a grid line, or x of a tick."""

    at: float
    text: str


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Bar:
    """A bar with its tooltip."""

    tooltip: str
    style: str
    box: Box
    target: Box | None = None
    """Area that shows the tooltip and is highlighted under the pointer; None: the bar itself."""


@dataclass(frozen=True)
class Curve:
    """A line or a filled band."""

    style: str
    path: str


@dataclass(frozen=True)
class _Chart:
    """The variables of the template."""

    title: str
    width: int
    height: int
    grid: Sequence[Label] = ()
    curves: Sequence[Curve] = ()
    bars: Sequence[Bar] = ()
    ticks: Sequence[Label] = ()
    has_axis: bool = False
    marked: float | None = None
    """x of a dashed vertical line."""
    stretched: bool = False
    """Whether the chart stretches to the width of its container, without keeping its proportions."""

    @property
    def right(self) -> float:
        return self.width - _RIGHT

    @property
    def bottom(self) -> float:
        return self.height - _BOTTOM

    def render(self) -> Markup:
        frame = {"left": _LEFT, "right": self.right, "top": _TOP, "bottom": self.bottom}
        return templates.render("chart.svg", {**vars(self), **frame})


def bar_chart(
    title: str,
    names: Sequence[str],
    counts: Sequence[int],
    style: str,
    ticks: Sequence[tuple[float, str]],
    marked: float | None = None,
) -> Markup:
    """Draw a histogram.

    Args:
        title: What is counted, as a sentence.
        names: One per bin.
        counts: One per bin.
        style: CSS class of the bars.
        ticks: Positions and texts of the labels below the axis; bin i spans i to i + 1.
        marked: Position of a dashed line.
    """
    width, height = 360, 170
    bottom = height - _BOTTOM
    levels = _round_numbers(0, max([*counts, 1]), 4)
    step = (width - _LEFT - _RIGHT) / len(names)
    bar_width = min(step - min(2.0, step / 5), _MAX_BAR_WIDTH)

    def bar(position: int, name: str, count: int) -> Bar:
        x, bar_height = _LEFT + position * step, (bottom - _TOP) * count / levels[-1]
        box = Box(x + (step - bar_width) / 2, bottom - bar_height, bar_width, bar_height)
        return Bar(_tooltip(name, count, sum(counts)), style, box, Box(x, _TOP, step, bottom - _TOP))

    return _Chart(
        title,
        width,
        height,
        grid=[Label(bottom - (bottom - _TOP) * level / levels[-1], _short_number(level)) for level in levels],
        bars=[bar(position, *pair) for position, pair in enumerate(zip(names, counts, strict=True))],
        ticks=[Label(_LEFT + position * step, text) for position, text in ticks],
        has_axis=True,
        marked=None if marked is None else _LEFT + marked * step,
    ).render()


def stacked_bar(title: str, counts: Sequence[tuple[str, int, str]]) -> Markup:
    """Draw one horizontal bar, divided into segments; it stretches to the width of its container.

    Args:
        title: What is divided, as a sentence.
        counts: Name, count and CSS class of each segment.
    """
    width, height = 1000, 22
    total = sum(count for _, count, _ in counts)
    x, bars = 0.0, []
    for name, count, style in counts:
        segment_width = width * count / max(total, 1)
        bars.append(Bar(_tooltip(name, count, total), style, Box(x, 0.0, segment_width, height)))
        x += segment_width
    return _Chart(title, width, height, bars=bars, stretched=True).render()


def column_chart(title: str, columns: ColumnStatistics, style: str) -> Markup:
    """Draw range, mean and standard deviation of each feature column; wide ranges use an inverse hyperbolic sine scale.

    Args:
        title: What it shows, as a sentence.
        columns: Statistics of D >= 1 columns.
        style: CSS class; with `-line` for the mean, `-near` for one deviation around it, `-wide` for the range.
    """
    width, height = 540, 210
    bottom = height - _BOTTOM
    low, high = min(columns.min), max(columns.max)
    unit = sorted(columns.std)[len(columns.std) // 2] or max(abs(low), abs(high)) or 1.0
    is_compressed = max(abs(low), abs(high)) > _COMPRESS_FROM * unit
    levels = _powers_of_ten(low, high, unit) if is_compressed else _round_numbers(low, high, 5)
    scale: Callable[[float], float] = (lambda value: math.asinh(value / unit)) if is_compressed else float
    floor, ceiling = scale(min(low, levels[0])), scale(max(high, levels[-1]))
    span = (ceiling - floor) or 1.0
    step = (width - _LEFT - _RIGHT) / len(columns.mean)

    def y(value: float) -> float:
        return bottom - (scale(value) - floor) / span * (bottom - _TOP)

    def points(values: Sequence[float]) -> list[str]:
        """Both ends of a horizontal line for each column."""
        return [
            f"{_LEFT + (at + side) * step:.1f} {y(value):.1f}" for at, value in enumerate(values) for side in (0, 1)
        ]

    def band(name: str, lower: Sequence[float], upper: Sequence[float]) -> Curve:
        return Curve(f"{style}-{name}", f"M{' L'.join([*points(upper), *reversed(points(lower))])} Z")

    pairs = list(zip(columns.mean, columns.std, strict=True))
    last = len(columns.mean) - 1
    labeled_columns = dict.fromkeys(round(position * last / 6) for position in range(7))
    return _Chart(
        title + ("; the scale is compressed" if is_compressed else ""),
        width,
        height,
        grid=[Label(y(level), _short_number(level)) for level in levels],
        curves=[
            band("wide", columns.min, columns.max),
            band("near", [mean - std for mean, std in pairs], [mean + std for mean, std in pairs]),
            Curve(f"{style}-line", f"M{' L'.join(points(columns.mean))}"),
        ],
        ticks=[Label(_LEFT + (column + 0.5) * step, str(column)) for column in labeled_columns],
    ).render()


def _tooltip(name: str, count: int, total: int) -> str:
    return f"{name}: {count:,} of {total:,}" + (f" ({100 * count / total:.1f} %)" if total else "")


def _short_number(value: float) -> str:
    """A number of at most six characters, such as -2.5, 400 or 100k."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1000 * unit and abs(value) >= 1e4:
            return f"{value / unit:g}{letter}"
    return f"{value:,g}" if abs(value) < 1e4 else f"{value:.0e}"


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, at most `most` + 2 of them."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= most)
    return [round(number * step, 12) for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _powers_of_ten(low: float, high: float, unit: float) -> list[float]:
    """0 and powers of ten on both sides, about three on each."""
    first = math.floor(math.log10(unit))
    last = math.ceil(math.log10(max(abs(low), abs(high))))
    powers = range(last, first, -max(1, math.ceil((last - first) / 3)))
    positive = [10.0**power for power in powers if high > 10.0 ** (power - 1)]
    negative = [-(10.0**power) for power in powers if low < -(10.0 ** (power - 1))]
    return sorted({*negative, 0.0, *positive})
