"""What the commands have in common: options, and how examples are laid out."""

from __future__ import annotations

from typing import Annotated

import typer

EXIT_FAILED = 1

AsJson = Annotated[bool, typer.Option("--json", help="End stdout with one JSON object; all else goes to stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the workers' logs.")]


def examples(*lines: str) -> str:
    """The end of a command's help."""
    # \b keeps the lines of a paragraph apart.
    return "\n".join(("\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)))
