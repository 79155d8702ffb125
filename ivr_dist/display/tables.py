"""Tables that commands print."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from ivr_dist.run.paths import RunPaths
from ivr_dist.sanitize import plain, writable
from ivr_dist.storage import short_display

_MAX_WIDTH = 100_000
"""Width of a table in characters: larger than any."""


def print_rows(rows: Iterable[tuple[str, str]], stream: TextIO) -> None:
    """Print two columns, labels and values. Values are not wrapped, so that a command in them can be copied."""
    cells = [(_cell(label, stream), _cell(value, stream)) for label, value in rows]
    width = max((cell_len(label) for label, _ in cells), default=0)
    for label, value in cells:
        print(f"{label}{' ' * (width - cell_len(label))}  {value}", file=stream)


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], stream: TextIO, text: Collection[str] = ()
) -> None:
    """Print a table. The first column and those named in `text` are aligned left, the others (numbers) right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(_cell(name, stream), justify="right" if number and name not in text else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(cell, stream) for cell in row))
    # As wide as its content: a terminal wraps a long row, but an ellipsis would hide a part of it.
    # Markup is off: cells may contain text of the data.
    Console(file=stream, highlight=False, markup=False, emoji=False, width=_MAX_WIDTH).print(table, crop=False)


def print_metrics(metrics: Mapping[str, Mapping[str, float | None]], stream: TextIO) -> None:
    """Print metrics: one row per metric, one column per split."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [(name, *(_number(values.get(name)) for values in metrics.values())) for name in names]
    print_table(("metric", *metrics), rows, stream)


def print_result(result: dict[str, Any], stream: TextIO) -> None:
    """Print the result of a finished run, and the commands to continue with."""
    if result["metrics"]:
        print_metrics(result["metrics"], stream)
    ended = " (early stopping)" if result["status"] == "early" else ""
    run, checkpoint = short_display(result["run"]), short_display(result["checkpoint"])
    rows = [
        ("steps", f"{result['steps']}{ended}"),
        *([("modalities", ", ".join(result["modalities"]))] if result.get("modalities") else []),
        *left_out_rows(result.get("excluded", {})),
        ("attempts", str(result["attempts"])),
        ("checkpoint", checkpoint),
        ("curves", f"{_command('tensorboard')} --logdir {shlex.quote(RunPaths(run).tensorboard)}"),
        ("audit", f"{_command('ivr-dist')} audit {shlex.quote(run)}"),
    ]
    if "test" in result["metrics"]:
        rows.append(("evaluate", f"{_command('ivr-dist')} evaluate {shlex.quote(checkpoint)}"))
    print_rows(rows, stream)


def left_out_rows(excluded: Mapping[str, int]) -> list[tuple[str, str]]:
    """Make the row that counts the samples that a run leaves out, by split; none where there are none."""
    counts = ", ".join(f"{count:,} samples of {split}" for split, count in excluded.items())
    return [("left out", counts)] if counts else []


def _command(name: str) -> str:
    """Return the command of a program of this environment, with its path if it is not the one on PATH."""
    own = os.path.join(os.path.dirname(sys.executable), name)
    return name if shutil.which(name) == own or not os.path.exists(own) else short_display(own)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _cell(text: str, stream: TextIO) -> str:
    return writable(plain(text), stream)
