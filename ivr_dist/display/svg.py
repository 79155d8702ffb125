"""Plots as inline SVG: no library, no script; colours come from the page's style, texts are read out by screen readers.

Every function returns one `<svg>` element. Its `title` names it; every bar has a title of its own, shown on hovering.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ivr_dist.display.markup import Html, escaped

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 24.0
_WIDEST = 60.0
_COMPRESS_FROM = 30.0
"""How many times the usual deviation the largest value is from where on a linear scale would hide the small ones."""


@dataclass(frozen=True)
class Profile:
    """Numbers of each feature of a modality, all [D]."""

    mean: Sequence[float]
    std: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def bar_chart(
    title: str,
    names: Sequence[str],
    counts: Sequence[int],
    style: str,
    ticks: Sequence[tuple[float, str]],
    marked: float | None = None,
) -> Html:
    """A histogram.

    Args:
        title: What is counted, as a sentence.
        names: Of the bins.
        counts: Of the bins.
        style: Class of the bars.
        ticks: Places and texts of the labels below; bin i is from i to i + 1.
        marked: Place of a dashed line.
    """
    width, height = 360.0, 170.0
    bottom = height - _BOTTOM
    levels = _ticks(0, max([*counts, 1]), 4)
    total = sum(counts)
    step = (width - _LEFT - _RIGHT) / len(names)
    parts = [_grid(level, bottom - (bottom - _TOP) * level / levels[-1], width) for level in levels]
    for place, (name, number) in enumerate(zip(names, counts, strict=True)):
        left, tall = _LEFT + place * step, (bottom - _TOP) * number / levels[-1]
        wide = min(step - min(2.0, step / 5), _WIDEST)
        tip = f"{name}: {number:,} of {total:,}" + (f" ({100 * number / total:.1f} %)" if total else "")
        # The whole column answers to the pointer, so that low bars can be hit.
        parts.append(
            f'<g class="column"><title>{escaped(tip)}</title>'
            f'<rect class="hit" x="{left:.1f}" y="{_TOP}" width="{step:.1f}" height="{bottom - _TOP:.1f}"/>'
            f'<rect class="{escaped(style)}" x="{left + (step - wide) / 2:.1f}" y="{bottom - tall:.1f}" '
            f'width="{wide:.1f}" height="{tall:.1f}" rx="1.5"/></g>'
        )
    parts += [_text(_LEFT + place * step, height - 8, text, "middle") for place, text in ticks]
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{width - _RIGHT}" y2="{bottom}"/>')
    if marked is not None:
        x = _LEFT + marked * step
        parts.append(f'<line class="mark" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
    return _svg(title, width, height, parts)


def stacked_bar(title: str, counts: Sequence[tuple[str, int, str]]) -> Html:
    """One horizontal bar, divided into parts; it stretches to the width there is.

    Args:
        title: What is divided, as a sentence.
        counts: Name, number and class of each part.
    """
    total, x, parts = sum(number for _, number, _ in counts), 0.0, []
    for name, number, style in counts:
        wide = 1000 * number / max(total, 1)
        tip = f"{name}: {number:,} of {total:,} ({100 * number / max(total, 1):.1f} %)"
        shape = f'<rect class="{escaped(style)}" x="{x:.1f}" y="0" width="{wide:.1f}" height="22"/>'
        parts.append(f'<g class="column"><title>{escaped(tip)}</title>{shape}</g>')
        x += wide
    return _svg(title, 1000, 22, parts, ' preserveAspectRatio="none"')


def profile_chart(title: str, profile: Profile, style: str) -> Html:
    """Range, mean and standard deviation of each feature; large ranges are compressed (inverse hyperbolic sine).

    Args:
        title: What it shows, as a sentence.
        profile: The numbers.
        style: Class of the line; with `-wide` and `-near` behind it, of the bands.
    """
    width, height = 540.0, 210.0
    bottom = height - _BOTTOM
    style = escaped(style)
    low, high = min(profile.low), max(profile.high)
    unit = sorted(profile.std)[len(profile.std) // 2] or max(abs(low), abs(high)) or 1.0
    compressed = max(abs(low), abs(high)) > _COMPRESS_FROM * unit
    ticks = _decades(low, high, unit) if compressed else _ticks(low, high, 5)
    squeeze: Callable[[float], float] = (lambda value: math.asinh(value / unit)) if compressed else float
    floor, ceiling = squeeze(min(low, ticks[0])), squeeze(max(high, ticks[-1]))
    span = (ceiling - floor) or 1.0

    def y(value: float) -> float:
        return bottom - (squeeze(value) - floor) / span * (bottom - _TOP)

    parts = [_grid(tick, y(tick), width) for tick in ticks]
    columns = len(profile.mean)
    step = (width - _LEFT - _RIGHT) / columns
    near = [(m - s, m + s) for m, s in zip(profile.mean, profile.std, strict=True)]
    bands = {"wide": (profile.low, profile.high), "near": ([lo for lo, _ in near], [hi for _, hi in near])}
    for name, (lower, upper) in bands.items():
        there = [f"L{x:.1f} {y(value):.1f}" for x, value in _stairs(upper, step)]
        back = [f"L{x:.1f} {y(value):.1f}" for x, value in reversed(_stairs(lower, step))]
        parts.append(f'<path class="{style}-{name}" d="M{" ".join(there + back)[1:]} Z"/>')
    line = " ".join(f"L{x:.1f} {y(value):.1f}" for x, value in _stairs(profile.mean, step))
    parts.append(f'<path class="{style}-line" d="M{line[1:]}"/>')
    for column in dict.fromkeys(round(place * (columns - 1) / 6) for place in range(7)):
        parts.append(_text(_LEFT + (column + 0.5) * step, height - 8, str(column), "middle"))
    note = "; the scale is compressed" if compressed else ""
    return _svg(title + note, width, height, parts)


def _stairs(values: Sequence[float], step: float) -> list[tuple[float, float]]:
    return [(_LEFT + (place + side) * step, value) for place, value in enumerate(values) for side in (0, 1)]


def _svg(title: str, width: float, height: float, parts: Sequence[str], more: str = "") -> Html:
    name = escaped(title)
    size = f'viewBox="0 0 {width:g} {height:g}"{more}'
    return Html(f'<svg role="img" aria-label="{name}" {size}><title>{name}</title>{"".join(parts)}</svg>')


def _grid(value: float, y: float, width: float) -> str:
    line = f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{width - _RIGHT}" y2="{y:.1f}"/>'
    return line + _text(_LEFT - 6, y + 4, _brief(value), "end")


def _brief(value: float) -> str:
    """A number of at most six letters, such as -2.5, 400 or 100k."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1000 * unit and abs(value) >= 1e4:
            return f"{value / unit:g}{letter}"
    return f"{value:,g}" if abs(value) < 1e4 else f"{value:.0e}"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, at most `most` + 2 of them."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= most)
    return [round(number * step, 12) for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _decades(low: float, high: float, unit: float) -> list[float]:
    """0 and powers of ten on both sides, about three on each."""
    first = math.floor(math.log10(unit))
    last = math.ceil(math.log10(max(abs(low), abs(high))))
    powers = range(last, first, -max(1, math.ceil((last - first) / 3)))
    positive = [10.0**power for power in powers if high > 10.0 ** (power - 1)]
    negative = [-(10.0**power) for power in powers if low < -(10.0 ** (power - 1))]
    return sorted({*negative, 0.0, *positive})
