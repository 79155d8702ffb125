"""What packed data holds, as one HTML page: no script, nothing loaded from anywhere, plots drawn in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ivr_dist import __version__
from ivr_dist.display.formatting import (
    class_bins,
    class_ticks,
    columns_line,
    label_numbers,
    length_bins,
    length_place,
    length_ticks,
    looked_line,
    number,
    share,
    task_line,
    titles,
)
from ivr_dist.display.markup import Html, code, escaped
from ivr_dist.display.page_style import STYLE
from ivr_dist.display.svg import Profile, bar_chart, profile_chart, stacked_bar
from ivr_dist.inspection.profile import SplitSurvey
from ivr_dist.inspection.summaries import FeatureValues, Spread, TokenValues
from ivr_dist.units import format_bytes

_PARTS = 8


def render_page(splits: Sequence[SplitSurvey]) -> str:
    """The page, as UTF-8 text to be written to a file."""
    corpora = ", ".join(dict.fromkeys(split.corpus for split in splits))
    names = titles(splits)
    body = "".join(
        (
            _head(splits, corpora),
            "<main>",
            _splits_section(splits, names),
            _labels_section(splits, names),
            _lengths_section(splits, names),
            _coverage_section(splits, names),
            _features_section(splits, names),
            _provenance_section(splits, names),
            "</main>",
            f"<footer>Written by <code>ivr-dist inspect</code>, version {escaped(__version__)}.</footer>",
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(corpora)}: packed data</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _head(splits: Sequence[SplitSurvey], corpora: str) -> str:
    modalities = dict.fromkeys(name for split in splits for name in split.modalities)
    tasks = dict.fromkeys(task for split in splits for task in split.labels)
    tiles = {
        "samples": f"{sum(split.samples for split in splits):,}",
        "splits": str(len(splits)),
        "shards": f"{sum(split.shards for split in splits):,}",
        "size": format_bytes(sum(split.bytes for split in splits)),
        "modalities": str(len(modalities)),
        "tasks": str(len(tasks)),
    }
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles.items())
    places = ", ".join(code(split.url) for split in splits)
    return f'<header><h1>{escaped(corpora)}</h1><p class="soft">{places}</p><dl class="tiles">{shown}</dl></header>'


def _splits_section(splits: Sequence[SplitSurvey], names: Sequence[str]) -> str:
    rows = [
        (
            name,
            f"{split.samples:,}",
            f"{split.shards:,}",
            format_bytes(split.bytes),
            f"{split.transcripts:,}",
            f"{split.groups:,}" if split.ungrouped < split.looked.samples else "unknown",
            code(split.manifest_id[:12]),
            looked_line(split.looked),
        )
        for name, split in zip(names, splits, strict=True)
    ]
    header = ("split", "samples", "shards", "size", "transcripts", "groups", "manifest", "values are from")
    partly = not all(split.looked.all for split in splits)
    note = "Counts and lengths are those of all samples; values, labels, words and groups are from the part named here."
    text = f'<p class="soft">{note}</p>' if partly else ""
    return f"<section><h2>Splits</h2>{text}{_card(_table(header, rows, named=(6, 7)))}</section>"


def _labels_section(splits: Sequence[SplitSurvey], names: Sequence[str]) -> str:
    cards = []
    for task in dict.fromkeys(task for split in splits for task in split.labels):
        found = [(name, split.labels[task]) for name, split in zip(names, splits, strict=True) if task in split.labels]
        plots = []
        for name, one in found:
            if one.histogram is None:
                continue
            title = f"Labels of {task} in {name}: samples by label"
            bins, ticks = class_bins(one.histogram), class_ticks(one.histogram)
            chart = bar_chart(title, bins, one.histogram.counts, "label", ticks)
            text = f"{one.labelled:,} samples"
            if one.task.type == "regression":
                low, mean, high, std = label_numbers(one)
                text += f" from {low} to {high}, mean {mean}, std {std}"
            text += f"; {one.missing:,} have none" if one.missing else ""
            plots.append(_figure(chart, name, text))
        kind = escaped(task_line(found[0][1].task))
        cards.append(_card(f'<h3>{escaped(task)}</h3><p class="soft">{kind}</p>{_plots(plots)}'))
    return f"<section><h2>Labels</h2>{''.join(cards)}</section>"


def _lengths_section(splits: Sequence[SplitSurvey], names: Sequence[str]) -> str:
    cards = []
    for modality in dict.fromkeys(name for split in splits for name in split.modalities):
        spreads = [
            (name, one.lengths)
            for name, split in zip(names, splits, strict=True)
            if (one := split.modalities.get(modality)) is not None
        ]
        cards.append(_spread_card(f"Steps of {modality}", spreads, modality))
    words = [(name, split.words) for name, split in zip(names, splits, strict=True)]
    cards.append(_spread_card("Words of the transcript", words, "words"))
    note = "How many samples have how many steps; the dashed line marks the median."
    return f'<section><h2>Lengths</h2><p class="soft">{note}</p>{"".join(cards)}</section>'


def _spread_card(title: str, spreads: Iterable[tuple[str, Spread | None]], style: str) -> str:
    plots = []
    for name, spread in spreads:
        if spread is None:
            continue
        bins, ticks = length_bins(spread.histogram), length_ticks(spread.histogram)
        median = length_place(spread.histogram, spread.median)
        text = f"{title} in {name}: samples by length"
        chart = bar_chart(text, bins, spread.histogram.counts, style, ticks, median)
        text = f"{spread.min:,} to {spread.max:,}, median {spread.median:,}, mean {number(spread.mean)}, "
        plots.append(_figure(chart, name, f"{text}95 % up to {spread.p95:,}"))
    return _card(f"<h3>{escaped(title)}</h3>{_plots(plots)}") if plots else ""


def _coverage_section(splits: Sequence[SplitSurvey], names: Sequence[str]) -> str:
    patterns = list(dict.fromkeys(pattern for split in splits for pattern in split.coverage))
    rows = [
        (pattern, *(_count_of(split.coverage.get(pattern, 0), split.samples) for split in splits))
        for pattern in patterns
    ]
    table = _table(("modalities of a sample", *names), rows)
    if len(patterns) == 1:
        return f"<section><h2>Missing modalities</h2>{_card(table)}</section>"
    styles = {pattern: f"part-{place % _PARTS}" for place, pattern in enumerate(patterns)}
    bars = []
    for name, split in zip(names, splits, strict=True):
        counts = [(pattern, split.coverage.get(pattern, 0), style) for pattern, style in styles.items()]
        chart = stacked_bar(f"Samples of {name} by the modalities they have", counts)
        bars.append(f"<span>{escaped(name)}</span>{chart}")
    legend = "".join(f'<li><span class="{style}"></span>{escaped(pattern)}</li>' for pattern, style in styles.items())
    shown = f'<div class="bars">{"".join(bars)}</div><ul class="legend">{legend}</ul>'
    return f"<section><h2>Missing modalities</h2>{_card(shown)}{_card(table)}</section>"


def _features_section(splits: Sequence[SplitSurvey], names: Sequence[str]) -> str:
    rows = []
    for name, split in zip(names, splits, strict=True):
        for modality, one in split.modalities.items():
            spec = one.features
            about = (f"{name} {modality}", spec.set, f"{spec.dim:,}", spec.dtype, f"{one.steps:,}")
            if isinstance(one.values, FeatureValues):
                some = one.values
                numbers = tuple(map(number, (some.min, some.mean, some.max, some.std)))
                zeros = share(some.zero_steps, some.steps)
                rows.append((*about, *numbers, f"{some.nonfinite:,}", zeros, columns_line(some.constant)))
            elif isinstance(one.values, TokenValues):
                ids = one.values
                rows.append((*about, str(ids.min), "", str(ids.max), "", "", "", f"{ids.distinct:,} different ids"))
            else:
                rows.append((*about, *6 * ("",), "nothing read"))
    header = ("features", "set", "width", "type", "steps", "min", "mean", "max", "std", "not finite", "zero steps")
    table = _table((*header, "constant columns"), rows, named=(1, 11), long=(11,))
    first, name = splits[0], names[0]
    plots = [
        _figure(_profile(modality, name, one.values), modality, f"{one.features.set}, {one.features.dim:,} features")
        for modality, one in first.modalities.items()
        if isinstance(one.values, FeatureValues)
    ]
    charts = ""
    if plots:
        text = "A column a feature: pale from smallest to largest value, darker one standard deviation around the mean."
        charts = _card(f'<h3>Features of {escaped(name)}</h3><p class="soft">{text}</p>{_plots(plots, " broad")}')
    return f"<section><h2>Features</h2>{_card(table)}{charts}</section>"


def _profile(modality: str, split: str, values: FeatureValues) -> Html:
    columns = values.columns
    profile = Profile(columns["mean"], columns["std"], columns["min"], columns["max"])
    return profile_chart(f"Features of {modality} in {split}: range, mean and deviation by column", profile, modality)


def _provenance_section(splits: Sequence[SplitSurvey], names: Sequence[str]) -> str:
    rows = [
        (
            f"{name} {key}",
            f"{found.samples:,}",
            f"{found.distinct:,}{'+' if found.more else ''}",
            code(", ".join(found.examples), 160),
        )
        for name, split in zip(names, splits, strict=True)
        for key, found in split.provenance.items()
    ]
    if not rows:
        return ""
    table = _table(("key", "samples", "different values", "such as"), rows, named=(3,), long=(3,))
    return f"<section><h2>Provenance</h2>{_card(table)}</section>"


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], named: Sequence[int] = (), long: Sequence[int] = ()
) -> str:
    """A table; the first column names the rows, those in `named` are text, those in `long` may wrap."""
    styles = [" ".join(["name"] * (place in named) + ["long"] * (place in long)) for place in range(len(header))]
    attributes = [f' class="{style}"' if style else "" for style in styles]
    head = "".join(
        f'<th scope="col"{attribute}>{escaped(name)}</th>' for name, attribute in zip(header, attributes, strict=True)
    )
    lines = []
    for row in rows:
        cells = "".join(
            f"<td{attribute}>{escaped(cell)}</td>" for cell, attribute in zip(row[1:], attributes[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row">{escaped(row[0])}</th>{cells}</tr>')
    return Html(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>')


def _figure(chart: Html, name: str, text: str) -> str:
    return f"<figure>{chart}<figcaption><b>{escaped(name)}</b> {escaped(text)}</figcaption></figure>"


def _plots(figures: Sequence[str], style: str = "") -> str:
    return f'<div class="plots{style}">{"".join(figures)}</div>'


def _card(content: str) -> str:
    return f'<div class="card">{content}</div>'


def _count_of(count: int, whole: int) -> str:
    return f"{count:,} ({share(count, whole)})"
