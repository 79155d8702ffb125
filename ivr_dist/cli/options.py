"""Options that several commands share, and the sections of commands in `ivr-dist --help`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from ivr_dist.cli import logging_setup

EXIT_FAILED = 1

_Command = TypeVar("_Command", bound=Callable[..., int])


def _debug(is_set: bool) -> bool:
    if is_set:
        logging_setup.set_level("DEBUG")
    return is_set


AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of stdout; all else goes to stderr.")
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=_debug, help="Show tracebacks and the output of workers; same as --log-level DEBUG."
    ),
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Import classes outside the package that the file names; this runs code.")
]
ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file; configs/ has examples.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Config keys, set over those of the file.")
]
NumWorkers = Annotated[int | None, typer.Option("--num-workers", metavar="N", min=0, help="Same as run.num_workers=N.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace splits that are already packed there.")]
Jobs = Annotated[int | None, typer.Option(metavar="N", min=1, help="Number of processes; default: one per CPU.")]
OnRay = Annotated[bool, typer.Option("--ray", help="Run on the cluster at RAY_ADDRESS instead of local processes.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Directory or URL of a run.")]
Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Directory or URL of a checkpoint.")]
CheckpointOrRun = Annotated[
    str,
    typer.Argument(metavar="CHECKPOINT|RUN", help="Directory or URL of a checkpoint, or of a run: the selected one."),
]


class Section:
    """Commands that are listed under one heading of the help.

    Args:
        heading: The heading, without its colon.
    """

    def __init__(self, heading: str) -> None:
        self.heading = heading
        self.commands = typer.Typer()

    def command(self, *example_lines: str, name: str | None = None) -> Callable[[_Command], _Command]:
        """Register a function as a command.

        Args:
            example_lines: Command lines that its help ends with.
            name: Name of the command; by default that of the function.
        """
        return self.commands.command(name, epilog=examples(*example_lines), rich_help_panel=self.heading)


class SectionedGroup(TyperGroup):
    """The top-level command, whose help lists commands by section."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands into the help."""
        width = max(map(len, self.commands))
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            heading = getattr(command, "rich_help_panel", None)
            summary = command.get_short_help_str(formatter.width - width - 6)
            rows = sections.setdefault(heading if isinstance(heading, str) else "Other commands", [])
            rows.append((name.ljust(width), summary))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


def examples(*lines: str) -> str:
    """Lay out example command lines as the end of a command's help."""
    # \b keeps Click from joining the lines of a paragraph.
    return "\n".join(("\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)))


def print_json(value: Any) -> None:
    """Print a JSON object, as the last line of stdout."""
    print(json.dumps(value))
