"""Tables of `verify` and `inspect` in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.display.formatting import (
    class_bins,
    columns_line,
    label_numbers,
    number,
    scanned_line,
    share,
    share_line,
    task_line,
    titles,
)
from ivr_dist.display.plain_output import say
from ivr_dist.display.tables import print_rows, print_table
from ivr_dist.inspection.find_sample import FoundSample
from ivr_dist.inspection.profile import ModalityProfile, SplitProfile
from ivr_dist.inspection.summaries import FeatureValues, TokenValues
from ivr_dist.inspection.verify import Verification
from ivr_dist.sanitize import plain
from ivr_dist.shards.decode import ContextUtterance
from ivr_dist.units import format_bytes

MAX_SHOWN = 8
"""Findings of each kind that are printed; the JSON output has all."""

_BAR_WIDTH = 24
_SPARKLINE_WIDTH = 48
_LEVELS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII_LEVELS = "_.-=+*%#"


def print_verification(result: Verification, stream: TextIO) -> None:
    """Print one row per split, one line per finding up to MAX_SHOWN of each kind, and the verdict."""
    rows = [
        (
            f"{split.corpus} {split.split}",
            str(split.samples),
            str(split.shards),
            format_bytes(split.bytes),
            "unknown" if split.ungrouped and not split.groups else str(split.groups),
            str(split.faults),
            split.url,
        )
        for split in result.splits
    ]
    print_table(("split", "samples", "shards", "size", "groups", "problems", "URL"), rows, stream, text=("URL",))
    for split in result.splits:
        if split.ungrouped and split.groups:
            say(f"note: {split.ungrouped} samples of {split.corpus} {split.split} have no group", stream)
    for notice in result.notices:
        say(f"warning: {notice.what}", stream)
    for kind in dict.fromkeys(finding.kind for finding in result.findings):
        findings = [finding for finding in result.findings if finding.kind == kind]
        for finding in findings[:MAX_SHOWN]:
            say(f"problem ({kind}): {finding}", stream)
        if len(findings) > MAX_SHOWN:
            say(f"problem ({kind}): {len(findings) - MAX_SHOWN} more; --json lists all", stream)
    samples = sum(split.samples for split in result.splits)
    verdict = f"ok: {samples} samples" if result.ok else f"NOT ok: {len(result.findings)} problems"
    say(f"{verdict} in {len(result.splits)} splits", stream)


def print_profile(splits: Sequence[SplitProfile], stream: TextIO) -> None:
    """Print all tables of `inspect`."""
    names = titles(splits)
    _print_overview(splits, names, stream)
    _print_modalities(splits, names, stream)
    _print_labels(splits, names, stream)
    _print_texts(splits, names, stream)
    for name, split in zip(names, splits, strict=True):
        say(f"{name}: values, labels and words from {scanned_line(split.scanned)}", stream)
    for caution in dict.fromkeys(caution for split in splits for caution in split.cautions):
        say(f"caution: {caution}", stream)
    if not all(split.scanned.is_all for split in splits):
        say("--full reads all samples", stream)


def _print_overview(splits: Sequence[SplitProfile], names: Sequence[str], stream: TextIO) -> None:
    rows = [
        (name, str(split.samples), str(split.shards), format_bytes(split.bytes), split.manifest_id[:12], split.url)
        for name, split in zip(names, splits, strict=True)
    ]
    corpora = ", ".join(dict.fromkeys(split.corpus for split in splits))
    print_table((corpora, "samples", "shards", "size", "id", "URL"), rows, stream, text=("id", "URL"))
    patterns = dict.fromkeys(pattern for split in splits for pattern in split.coverage)
    cells = [
        (pattern, *(share_line(split.coverage.get(pattern, 0), split.samples) for split in splits))
        for pattern in patterns
    ]
    print_table(("samples that have", *names), cells, stream)


def _print_modalities(splits: Sequence[SplitProfile], names: Sequence[str], stream: TextIO) -> None:
    profiles = [
        (f"{name} {modality}", profile)
        for name, split in zip(names, splits, strict=True)
        for modality, profile in split.modalities.items()
    ]
    rows = [(name, *_feature_cells(profile)) for name, profile in profiles]
    print_table(("features", "set", "width", "type", "samples", "steps"), rows, stream, text=("set", "type"))
    lengths = [
        (name, *map(str, (spread.min, spread.median)), number(spread.mean), *map(str, (spread.p95, spread.max)))
        for name, profile in profiles
        if (spread := profile.lengths) is not None
    ]
    print_table(("steps per sample", "min", "median", "mean", "95 %", "max"), lengths, stream)
    value_rows = [
        (
            name,
            *map(number, (values.min, values.mean, values.max, values.std)),
            str(values.nonfinite),
            share(values.zero_steps, values.steps),
            columns_line(values.constant),
        )
        for name, profile in profiles
        if isinstance(values := profile.values, FeatureValues)
    ]
    if value_rows:
        header = ("values", "min", "mean", "max", "std", "not finite", "zero steps", "constant columns")
        print_table(header, value_rows, stream, text=("constant columns",))
    tokens = [
        (name, str(values.min), str(values.max), str(values.distinct))
        for name, profile in profiles
        if isinstance(values := profile.values, TokenValues)
    ]
    if tokens:
        print_table(("token ids", "min", "max", "distinct"), tokens, stream)


def _feature_cells(profile: ModalityProfile) -> tuple[str, ...]:
    spec = profile.features
    return spec.set, str(spec.dim), spec.dtype, str(profile.present), str(profile.steps)


def _print_labels(splits: Sequence[SplitProfile], names: Sequence[str], stream: TextIO) -> None:
    for task in dict.fromkeys(task for split in splits for task in split.labels):
        labels = [(name, split.labels[task]) for name, split in zip(names, splits, strict=True) if task in split.labels]
        rows = [(name, str(one.labelled), str(one.missing), *label_numbers(one)) for name, one in labels]
        say(f"task {task}: {task_line(labels[0][1].task)}", stream)
        print_table(("labels", "labeled", "unlabeled", "min", "mean", "max", "std"), rows, stream)
        histograms = [one.histogram for _, one in labels if one.histogram is not None]
        if not histograms:
            continue
        header = [cell for name, _ in labels for cell in (name, "%", "")]
        highest = [max(histogram.counts) or 1 for histogram in histograms]
        bins = [
            (
                label,
                *(
                    cell
                    for histogram, top in zip(histograms, highest, strict=True)
                    for cell in _bin_cells(histogram.counts[row], sum(histogram.counts), top, stream)
                ),
            )
            for row, label in enumerate(class_bins(histograms[0]))
        ]
        print_table((task, *header), bins, stream, text=("",))


def _bin_cells(count: int, total: int, highest: int, stream: TextIO) -> tuple[str, str, str]:
    bar = _levels(stream)[-1] * round(_BAR_WIDTH * count / highest)
    return str(count), share(count, total).removesuffix(" %"), bar


def _print_texts(splits: Sequence[SplitProfile], names: Sequence[str], stream: TextIO) -> None:
    rows = [
        (
            name,
            str(split.transcripts),
            *((str(words.median), number(words.mean), str(words.max)) if (words := split.words) else ("-", "-", "-")),
            str(split.groups),
            str(split.ungrouped),
        )
        for name, split in zip(names, splits, strict=True)
    ]
    header = ("transcripts, groups", "transcripts", "median words", "mean", "max", "groups", "ungrouped")
    print_table(header, rows, stream)
    fields = [
        (
            f"{name} {plain(key, 30)}",
            str(field.samples),
            f"{field.distinct}{'+' if field.more else ''}",
            plain(", ".join(field.examples), 80),
        )
        for name, split in zip(names, splits, strict=True)
        for key, field in split.provenance.items()
    ]
    if fields:
        print_table(("provenance", "samples", "distinct", "examples"), fields, stream, text=("examples",))


def print_sample(located: FoundSample, stream: TextIO) -> None:
    """Print one sample: its id, labels and provenance, then statistics and a sparkline of each modality."""
    sample, about = located.sample, located.about
    rows = [
        ("id", sample.id),
        ("file", f"{storage.display(located.url)}, {sample.shard}, members {sample.key}.*"),
        ("number", f"{located.number} of {located.manifest.samples}"),
        *((f"label {task}", "none" if value is None else f"{value:g}") for task, value in sample.labels.items()),
        *((f"context -{len(sample.context) - number}", _spoken(one)) for number, one in enumerate(sample.context)),
        ("transcript", " ".join(sample.words) or "none"),
        *((f"{name} ids as words", " ".join(words)) for name, words in located.words.items()),
        *((f"provenance: {key}", plain(str(value), 120)) for key, value in _provenance(about).items()),
    ]
    print_rows(rows, stream)
    cells: list[tuple[str, ...]] = []
    for name, spec in located.manifest.features.items():
        array = sample.arrays.get(name)
        if array is None:
            cells.append((name, spec.set, "missing", *6 * ("",)))
        else:
            cells.append((name, spec.set, *_array_cells(array, stream)))
    header = ("modality", "set", "shape", "type", "min", "mean", "max", "first values", "RMS by step")
    print_table(header, cells, stream, text=("set", "shape", "type", "first values", "RMS by step"))


def _spoken(utterance: ContextUtterance) -> str:
    return plain(f"{utterance.speaker}: {utterance.text}" if utterance.speaker else utterance.text, 120)


def _provenance(about: dict[str, Any]) -> dict[str, Any]:
    provenance = about.get("provenance")
    return provenance if isinstance(provenance, dict) else {}


def _array_cells(array: npt.NDArray[Any], stream: TextIO) -> tuple[str, ...]:
    shape = f"[{', '.join(map(str, array.shape))}]"
    first = ", ".join(number(value) for value in array.reshape(-1)[:4].tolist())
    if not array.size:
        return shape, str(array.dtype), "-", "-", "-", "", ""
    values = array.astype(np.float64)
    # Root mean square over the features of a step, [T]; token ids are shown unchanged.
    magnitudes = np.sqrt(np.square(values).mean(axis=1)) if array.ndim == 2 else values
    numbers = (number(float(value)) for value in (values.min(), values.mean(), values.max()))
    return shape, str(array.dtype), *numbers, first, sparkline(magnitudes, stream)


def sparkline(values: npt.NDArray[np.float64], stream: TextIO) -> str:
    """Draw a curve of at most 48 characters; longer sequences are averaged over neighbors. [T], T >= 1."""
    means = [float(part.mean()) for part in np.array_split(values, min(len(values), _SPARKLINE_WIDTH))]
    levels = _levels(stream)
    low, high = min(means), max(means)
    if not (math.isfinite(low) and math.isfinite(high)) or high == low:
        return levels[0] * len(means)
    return "".join(levels[round((mean - low) / (high - low) * (len(levels) - 1))] for mean in means)


def _levels(stream: TextIO) -> str:
    """Return the bar characters from low to high, in ASCII if the stream's encoding lacks the block elements."""
    try:
        _LEVELS.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return _ASCII_LEVELS
    return _LEVELS
