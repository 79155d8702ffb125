"""The tables of `verify` and `inspect`."""

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
    looked_line,
    number,
    share,
    task_line,
    titles,
)
from ivr_dist.display.tables import print_rows, print_table
from ivr_dist.inspection.find_sample import FoundSample
from ivr_dist.inspection.profile import ModalitySurvey, SplitSurvey
from ivr_dist.inspection.summaries import FeatureValues, TokenValues
from ivr_dist.inspection.verify import Verification
from ivr_dist.sanitize import plain, say
from ivr_dist.units import format_bytes

FAULTS_SHOWN = 8
"""Of each kind; all are in the JSON output."""

_BAR = 24
_SPARK = 48
_LEVELS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII_LEVELS = "_.-=+*%#"


def print_verification(found: Verification, stream: TextIO) -> None:
    """One row a split, one line a fault up to FAULTS_SHOWN of each kind, and the verdict."""
    rows = [
        (
            f"{result.corpus} {result.split}",
            str(result.samples),
            str(result.shards),
            format_bytes(result.bytes),
            "unknown" if result.ungrouped and not result.groups else str(result.groups),
            str(result.faults),
            result.url,
        )
        for result in found.splits
    ]
    print_table(("split", "samples", "shards", "size", "groups", "faults", "place"), rows, stream, text=("place",))
    for result in found.splits:
        if result.ungrouped and result.groups:
            say(f"note: {result.ungrouped} samples of {result.corpus} {result.split} name no group", stream)
    for notice in found.notices:
        say(f"warning: {notice.what}", stream)
    for kind in dict.fromkeys(fault.kind for fault in found.faults):
        some = [fault for fault in found.faults if fault.kind == kind]
        for fault in some[:FAULTS_SHOWN]:
            say(f"fault ({kind}): {fault}", stream)
        if len(some) > FAULTS_SHOWN:
            say(f"fault ({kind}): {len(some) - FAULTS_SHOWN} more, all of them with --json", stream)
    samples = sum(result.samples for result in found.splits)
    verdict = f"sound: {samples} samples" if found.ok else f"NOT sound: {len(found.faults)} faults"
    say(f"{verdict} in {len(found.splits)} splits", stream)


def print_survey(splits: Sequence[SplitSurvey], stream: TextIO) -> None:
    """All tables of `inspect`."""
    names = titles(splits)
    _print_overview(splits, names, stream)
    _print_modalities(splits, names, stream)
    _print_labels(splits, names, stream)
    _print_texts(splits, names, stream)
    for name, split in zip(names, splits, strict=True):
        say(f"{name}: values, labels and words from {looked_line(split.looked)}", stream)
    if not all(split.looked.all for split in splits):
        say("--full reads all samples", stream)


def _print_overview(splits: Sequence[SplitSurvey], names: Sequence[str], stream: TextIO) -> None:
    rows = [
        (name, str(split.samples), str(split.shards), format_bytes(split.bytes), split.manifest_id[:12], split.url)
        for name, split in zip(names, splits, strict=True)
    ]
    corpora = ", ".join(dict.fromkeys(split.corpus for split in splits))
    print_table((corpora, "samples", "shards", "size", "id", "place"), rows, stream, text=("id", "place"))
    patterns = dict.fromkeys(pattern for split in splits for pattern in split.coverage)
    cells = [
        (pattern, *(_part(split.coverage.get(pattern, 0), split.samples) for split in splits)) for pattern in patterns
    ]
    print_table(("samples that have", *names), cells, stream)


def _print_modalities(splits: Sequence[SplitSurvey], names: Sequence[str], stream: TextIO) -> None:
    found = [
        (f"{name} {modality}", one)
        for name, split in zip(names, splits, strict=True)
        for modality, one in split.modalities.items()
    ]
    rows = [(name, *_feature_cells(one)) for name, one in found]
    print_table(("features", "set", "width", "type", "samples", "steps"), rows, stream, text=("set", "type"))
    lengths = [
        (name, *map(str, (spread.min, spread.median)), number(spread.mean), *map(str, (spread.p95, spread.max)))
        for name, one in found
        if (spread := one.lengths) is not None
    ]
    print_table(("steps of a sample", "min", "median", "mean", "95 %", "max"), lengths, stream)
    values = [
        (
            name,
            *map(number, (some.min, some.mean, some.max, some.std)),
            str(some.nonfinite),
            share(some.zero_steps, some.steps),
            columns_line(some.constant),
        )
        for name, one in found
        if isinstance(some := one.values, FeatureValues)
    ]
    if values:
        header = ("values", "min", "mean", "max", "std", "not finite", "steps of zeros", "constant columns")
        print_table(header, values, stream, text=("constant columns",))
    tokens = [
        (name, str(some.min), str(some.max), str(some.distinct))
        for name, one in found
        if isinstance(some := one.values, TokenValues)
    ]
    if tokens:
        print_table(("token ids", "min", "max", "different"), tokens, stream)


def _feature_cells(one: ModalitySurvey) -> tuple[str, ...]:
    spec = one.features
    return spec.set, str(spec.dim), spec.dtype, str(one.present), str(one.steps)


def _print_labels(splits: Sequence[SplitSurvey], names: Sequence[str], stream: TextIO) -> None:
    for task in dict.fromkeys(task for split in splits for task in split.labels):
        found = [(name, split.labels[task]) for name, split in zip(names, splits, strict=True) if task in split.labels]
        rows = [(name, str(one.labelled), str(one.missing), *label_numbers(one)) for name, one in found]
        say(f"task {task}: {task_line(found[0][1].task)}", stream)
        print_table(("labels", "labelled", "without", "min", "mean", "max", "std"), rows, stream)
        histograms = [one.histogram for _, one in found if one.histogram is not None]
        if not histograms:
            continue
        header = [cell for name, _ in found for cell in (name, "%", "")]
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
    return str(count), share(count, total).removesuffix(" %"), _levels(stream)[-1] * round(_BAR * count / highest)


def _print_texts(splits: Sequence[SplitSurvey], names: Sequence[str], stream: TextIO) -> None:
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
    header = ("transcripts, groups", "transcripts", "median words", "mean", "max", "groups", "samples without")
    print_table(header, rows, stream)
    fields = [
        (
            f"{name} {plain(key, 30)}",
            str(found.samples),
            f"{found.distinct}{'+' if found.more else ''}",
            plain(", ".join(found.examples), 80),
        )
        for name, split in zip(names, splits, strict=True)
        for key, found in split.provenance.items()
    ]
    if fields:
        print_table(("provenance", "samples", "different", "such as"), fields, stream, text=("such as",))


def print_sample(found: FoundSample, stream: TextIO) -> None:
    """One sample: what it is, and a line and a small curve for each modality."""
    sample, about = found.sample, found.about
    rows = [
        ("id", sample.id),
        ("place", f"{storage.display(found.url)}, {sample.shard}, members {sample.key}.*"),
        ("number", f"{found.number} of {found.manifest.samples}"),
        *((f"label {task}", "none" if value is None else f"{value:g}") for task, value in sample.labels.items()),
        ("transcript", " ".join(sample.words) or "none"),
        *((f"from: {key}", plain(str(value), 120)) for key, value in _provenance(about).items()),
    ]
    print_rows(rows, stream)
    cells: list[tuple[str, ...]] = []
    for name, spec in found.manifest.features.items():
        array = sample.arrays.get(name)
        if array is None:
            cells.append((name, spec.set, "missing", *6 * ("",)))
        else:
            cells.append((name, spec.set, *_array_cells(array, stream)))
    header = ("modality", "set", "shape", "type", "min", "mean", "max", "first values", "size of each step")
    print_table(header, cells, stream, text=("set", "shape", "type", "first values", "size of each step"))


def _provenance(about: dict[str, Any]) -> dict[str, Any]:
    provenance = about.get("provenance")
    return provenance if isinstance(provenance, dict) else {}


def _array_cells(array: npt.NDArray[Any], stream: TextIO) -> tuple[str, ...]:
    shape = f"[{', '.join(map(str, array.shape))}]"
    first = ", ".join(number(value) for value in array.reshape(-1)[:4].tolist())
    if not array.size:
        return shape, str(array.dtype), "-", "-", "-", "", ""
    values = array.astype(np.float64)
    # Root mean square of a step's features; a token is its id.
    sizes = np.sqrt(np.square(values).mean(axis=1)) if array.ndim == 2 else values
    numbers = (number(float(value)) for value in (values.min(), values.mean(), values.max()))
    return shape, str(array.dtype), *numbers, first, sparkline(sizes, stream)


def sparkline(values: npt.NDArray[np.float64], stream: TextIO) -> str:
    """A curve of at most 48 characters; neighbours are averaged where there are more values. [T], T >= 1."""
    parts = [float(part.mean()) for part in np.array_split(values, min(len(values), _SPARK))]
    levels = _levels(stream)
    low, high = min(parts), max(parts)
    if not (math.isfinite(low) and math.isfinite(high)) or high == low:
        return levels[0] * len(parts)
    return "".join(levels[round((part - low) / (high - low) * (len(levels) - 1))] for part in parts)


def _levels(stream: TextIO) -> str:
    """Characters from low to high that can be written to the stream."""
    try:
        _LEVELS.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return _ASCII_LEVELS
    return _LEVELS


def _part(count: int, whole: int) -> str:
    return f"{count} ({share(count, whole)})"
