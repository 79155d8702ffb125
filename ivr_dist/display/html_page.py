"""The HTML report of `inspect`: one page without script that loads nothing, with inline charts.

This module turns profiles into texts and charts; `page.html` is the template, `page.css` its style sheet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ivr_dist import __version__
from ivr_dist.display import templates
from ivr_dist.display.formatting import (
    class_bins,
    class_ticks,
    columns_line,
    label_numbers,
    length_bins,
    length_position,
    length_ticks,
    number,
    scanned_line,
    share,
    share_line,
    task_line,
    titles,
)
from ivr_dist.display.svg import bar_chart, column_chart, stacked_bar
from ivr_dist.inspection.profile import ModalityProfile, SplitProfile
from ivr_dist.inspection.summaries import FeatureValues, LabelSummary, Spread, TokenValues
from ivr_dist.sanitize import plain
from ivr_dist.units import format_bytes

_COLORS = 8
"""Classes `part-0`, `part-1`, ... of the style sheet."""
_MAX_EXAMPLE = 160


@dataclass(frozen=True)
class Column:
    """A column of a table; the first one holds the row headers."""

    name: str
    style: str = ""
    """CSS classes: `name` for text instead of numbers, `long` for cells that may wrap."""
    is_code: bool = False


@dataclass(frozen=True)
class Table:
    """A table; every row has as many cells as there are columns."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A chart and its caption."""

    chart: Markup
    name: str
    caption: str


@dataclass(frozen=True)
class Card:
    """Figures of one thing in all splits."""

    title: str
    figures: Sequence[Figure]
    subtitle: str = ""


@dataclass(frozen=True)
class Page:
    """The variables of the template."""

    corpora: str
    urls: Sequence[str]
    tiles: Sequence[tuple[str, str]]
    splits: Table
    is_sampled: bool
    """Whether the values of some samples were not read."""
    labels: Sequence[Card]
    lengths: Sequence[Card]
    coverage: Table
    coverage_bars: Sequence[tuple[str, Markup]]
    """Name and chart of each split; empty where all samples have the same modalities."""
    coverage_legend: Sequence[tuple[str, str]]
    """Modalities and CSS class."""
    features: Table
    columns: Card | None
    provenance: Table | None
    style_sheet: Markup
    version: str = __version__


def render_page(splits: Sequence[SplitProfile]) -> str:
    """Render the page of some splits, as text to be written in UTF-8."""
    names = titles(splits)
    patterns = _distinct(pattern for split in splits for pattern in split.coverage)
    styles = {pattern: f"part-{position % _COLORS}" for position, pattern in enumerate(patterns)}
    page = Page(
        corpora=", ".join(_distinct(split.corpus for split in splits)),
        urls=[split.url for split in splits],
        tiles=_tiles(splits),
        splits=_splits_table(splits, names),
        is_sampled=not all(split.scanned.is_all for split in splits),
        labels=_label_cards(splits, names),
        lengths=_length_cards(splits, names),
        coverage=_coverage_table(splits, names, patterns),
        coverage_bars=_coverage_bars(splits, names, styles) if len(patterns) > 1 else (),
        coverage_legend=list(styles.items()),
        features=_features_table(splits, names),
        columns=_columns_card(splits[0], names[0]),
        provenance=_provenance_table(splits, names),
        style_sheet=templates.style_sheet("page.css"),
    )
    return templates.render("page.html", vars(page))


def _tiles(splits: Sequence[SplitProfile]) -> list[tuple[str, str]]:
    return [
        ("samples", f"{sum(split.samples for split in splits):,}"),
        ("splits", str(len(splits))),
        ("shards", f"{sum(split.shards for split in splits):,}"),
        ("size", format_bytes(sum(split.bytes for split in splits))),
        ("modalities", str(len(_distinct(name for split in splits for name in split.modalities)))),
        ("tasks", str(len(_distinct(task for split in splits for task in split.labels)))),
    ]


def _splits_table(splits: Sequence[SplitProfile], names: Sequence[str]) -> Table:
    rows = [
        (
            name,
            f"{split.samples:,}",
            f"{split.shards:,}",
            format_bytes(split.bytes),
            f"{split.transcripts:,}",
            f"{split.groups:,}" if split.ungrouped < split.scanned.samples else "unknown",
            split.manifest_id[:12],
            scanned_line(split.scanned),
        )
        for name, split in zip(names, splits, strict=True)
    ]
    numbers = map(Column, ("split", "samples", "shards", "size", "transcripts", "groups"))
    columns = [*numbers, Column("manifest", "name", is_code=True), Column("values are from", "name")]
    return Table(columns, rows)


def _label_cards(splits: Sequence[SplitProfile], names: Sequence[str]) -> list[Card]:
    cards = []
    for task in _distinct(task for split in splits for task in split.labels):
        labels = [(name, split.labels[task]) for name, split in zip(names, splits, strict=True) if task in split.labels]
        figures = [figure for name, one in labels if (figure := _label_figure(task, name, one)) is not None]
        cards.append(Card(task, figures, subtitle=task_line(labels[0][1].task)))
    return cards


def _label_figure(task: str, split: str, labels: LabelSummary) -> Figure | None:
    if labels.histogram is None:
        return None
    title = f"Labels of {task} in {split}: samples by label"
    bins, ticks = class_bins(labels.histogram), class_ticks(labels.histogram)
    caption = f"{labels.labelled:,} samples"
    if labels.task.type == "regression":
        low, mean, high, std = label_numbers(labels)
        caption += f" from {low} to {high}, mean {mean}, std {std}"
    caption += f"; {labels.missing:,} have none" if labels.missing else ""
    return Figure(bar_chart(title, bins, labels.histogram.counts, "label", ticks), split, caption)


def _length_cards(splits: Sequence[SplitProfile], names: Sequence[str]) -> list[Card]:
    cards = []
    for modality in _distinct(name for split in splits for name in split.modalities):
        profiles = [(name, split.modalities.get(modality)) for name, split in zip(names, splits, strict=True)]
        spreads = [(name, one.lengths) for name, one in profiles if one is not None]
        cards.append(_length_card(f"Steps of {modality}", spreads, modality))
    words = [(name, split.words) for name, split in zip(names, splits, strict=True)]
    cards.append(_length_card("Words of the transcript", words, "words"))
    return [card for card in cards if card.figures]


def _length_card(title: str, spreads: Iterable[tuple[str, Spread | None]], style: str) -> Card:
    figures = []
    for name, spread in spreads:
        if spread is None:
            continue
        bins, ticks = length_bins(spread.histogram), length_ticks(spread.histogram)
        median = length_position(spread.histogram, spread.median)
        chart_title = f"{title} in {name}: samples by length"
        chart = bar_chart(chart_title, bins, spread.histogram.counts, style, ticks, median)
        numbers = f"{spread.min:,} to {spread.max:,}, median {spread.median:,}, mean {number(spread.mean)}"
        figures.append(Figure(chart, name, f"{numbers}, 95 % up to {spread.p95:,}"))
    return Card(title, figures)


def _coverage_table(splits: Sequence[SplitProfile], names: Sequence[str], patterns: Sequence[str]) -> Table:
    rows = [
        (pattern, *(share_line(split.coverage.get(pattern, 0), split.samples) for split in splits))
        for pattern in patterns
    ]
    return Table([*map(Column, ("modalities of a sample", *names))], rows)


def _coverage_bars(
    splits: Sequence[SplitProfile], names: Sequence[str], styles: dict[str, str]
) -> list[tuple[str, Markup]]:
    bars = []
    for name, split in zip(names, splits, strict=True):
        counts = [(pattern, split.coverage.get(pattern, 0), style) for pattern, style in styles.items()]
        bars.append((name, stacked_bar(f"Samples of {name} by the modalities they have", counts)))
    return bars


def _features_table(splits: Sequence[SplitProfile], names: Sequence[str]) -> Table:
    rows = [
        _feature_row(f"{name} {modality}", one)
        for name, split in zip(names, splits, strict=True)
        for modality, one in split.modalities.items()
    ]
    numbers = map(Column, ("width", "type", "steps", "min", "mean", "max", "std", "not finite", "zero steps"))
    return Table([Column("features"), Column("set", "name"), *numbers, Column("constant columns", "name long")], rows)


def _feature_row(name: str, modality: ModalityProfile) -> tuple[str, ...]:
    spec, values = modality.features, modality.values
    head = (name, spec.set, f"{spec.dim:,}", spec.dtype, f"{modality.steps:,}")
    if isinstance(values, FeatureValues):
        numbers = map(number, (values.min, values.mean, values.max, values.std))
        zeros = share(values.zero_steps, values.steps)
        return (*head, *numbers, f"{values.nonfinite:,}", zeros, columns_line(values.constant))
    if isinstance(values, TokenValues):
        return (*head, str(values.min), "", str(values.max), "", "", "", f"{values.distinct:,} distinct ids")
    return (*head, *6 * ("",), "nothing read")


def _columns_card(split: SplitProfile, name: str) -> Card | None:
    """Charts of the feature columns of the first split; None where it has only tokens."""
    figures = []
    for modality, one in split.modalities.items():
        if isinstance(one.values, FeatureValues):
            title = f"Features of {modality} in {name}: range, mean and deviation by column"
            chart = column_chart(title, one.values.columns, modality)
            figures.append(Figure(chart, modality, f"{one.features.set}, {one.features.dim:,} features"))
    return Card(f"Features of {name}", figures) if figures else None


def _provenance_table(splits: Sequence[SplitProfile], names: Sequence[str]) -> Table | None:
    rows = [
        (
            f"{name} {key}",
            f"{field.samples:,}",
            f"{field.distinct:,}{'+' if field.more else ''}",
            plain(", ".join(field.examples), _MAX_EXAMPLE),
        )
        for name, split in zip(names, splits, strict=True)
        for key, field in split.provenance.items()
    ]
    if not rows:
        return None
    numbers = map(Column, ("key", "samples", "distinct values"))
    return Table([*numbers, Column("examples", "name long", is_code=True)], rows)


def _distinct(values: Iterable[str]) -> list[str]:
    """The values without repetitions, in the order of their first occurrence."""
    return list(dict.fromkeys(values))
