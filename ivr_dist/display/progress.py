"""Progress bars of long commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ivr_dist.sanitize import plain


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """One bar a part of the work, on stderr; nothing but the final state where that is not a terminal.

    Yields:
        A function to call with the part's name, its units done and its units in all.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def report(part: str, done: int, total: int) -> None:
        # Not before there is work: even an empty bar leaves a line, and a user's mistake is reported in one.
        progress.start()
        if part not in tasks:
            tasks[part] = progress.add_task(plain(part), total=total)
        progress.update(tasks[part], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            progress.stop()
