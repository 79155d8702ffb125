"""Progress bars on stderr for long commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ivr_dist.sanitize import plain


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show one progress bar per part of the work on stderr; if it is not a terminal, only the final state.

    Yields:
        A function to call with the name of the part, the units done and the total.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def report(part: str, done: int, total: int) -> None:
        # Started late: even an empty bar leaves a line, and a mistake of the user is reported in one line only.
        progress.start()
        if part not in tasks:
            tasks[part] = progress.add_task(plain(part), total=total)
        progress.update(tasks[part], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            progress.stop()
