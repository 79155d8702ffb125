"""The tables that commands print."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from ivr_dist.run.paths import RunPaths
from ivr_dist.sanitize import plain, writable
from ivr_dist.storage import shown

_WIDEST = 100_000
"""Columns of a table."""


def print_rows(rows: Iterable[tuple[str, str]], stream: TextIO) -> None:
    """Two columns: a label and its value. Values are not wrapped, so that a command can be copied."""
    shown = [(_cell(label, stream), _cell(value, stream)) for label, value in rows]
    width = max((cell_len(label) for label, _ in shown), default=0)
    for label, value in shown:
        print(f"{label}{' ' * (width - cell_len(label))}  {value}", file=stream)


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], stream: TextIO, text: Collection[str] = ()
) -> None:
    """A table whose first column is text, as are those in `text`, and whose other columns are numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(_cell(name, stream), justify="right" if number and name not in text else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(cell, stream) for cell in row))
    # As wide as it needs: a terminal wraps a long row, but an ellipsis would hide what it says.
    # What stands in data is no markup.
    Console(file=stream, highlight=False, markup=False, emoji=False, width=_WIDEST).print(table, crop=False)


def print_metrics(metrics: dict[str, dict[str, float | None]], stream: TextIO) -> None:
    """One row a metric, one column a split."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [(name, *(_number(values.get(name)) for values in metrics.values())) for name in names]
    print_table(("metric", *metrics), rows, stream)


def print_result(result: dict[str, Any], stream: TextIO) -> None:
    """What a finished run achieved, and what can be done with it."""
    if result["metrics"]:
        print_metrics(result["metrics"], stream)
    ended = " (stopped early: patience)" if result["status"] == "early" else ""
    run, checkpoint = shown(result["run"]), shown(result["checkpoint"])
    rows = [
        ("steps", f"{result['steps']}{ended}"),
        *([("modalities", ", ".join(result["modalities"]))] if result.get("modalities") else []),
        ("attempts", str(result["attempts"])),
        ("checkpoint", checkpoint),
        ("watch it", f"{_command('tensorboard')} --logdir {shlex.quote(RunPaths(run).tensorboard)}"),
        ("prove it", f"{_command('ivr-dist')} audit {shlex.quote(run)}"),
    ]
    if "test" in result["metrics"]:
        rows.append(("score it again", f"{_command('ivr-dist')} evaluate {shlex.quote(checkpoint)}"))
    print_rows(rows, stream)


def _command(name: str) -> str:
    """A program of this environment, with its path where the shell would not find it."""
    own = os.path.join(os.path.dirname(sys.executable), name)
    return name if shutil.which(name) == own or not os.path.exists(own) else shown(own)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _cell(text: str, stream: TextIO) -> str:
    return writable(plain(text), stream)
