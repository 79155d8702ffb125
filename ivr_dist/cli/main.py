"""Entry point of the command line: parses arguments, calls a command, turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from ivr_dist import __version__
from ivr_dist.cli import (
    config_commands,
    data_commands,
    logging_setup,
    release_commands,
    run_commands,
    training_commands,
)
from ivr_dist.cli.options import EXIT_FAILED, SectionedGroup, examples
from ivr_dist.cli.standard_streams import lasting_streams
from ivr_dist.common.library_errors import describe, explained, named, remedy_for
from ivr_dist.display.plain_output import say_lines
from ivr_dist.errors import IvrError, StorageError, UserError
from ivr_dist.runtime.environment import LOG_LEVEL
from ivr_dist.sanitize import hide_secrets

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 130
_HAVE_EFFECTS = ("train", "card", "pack", "index", "synth", "stop", "reshape", "import-release", "submit")
"""Commands that write to storage or to a cluster: they succeed even if nothing they print can be written."""
_WITH_VALUE = ("--log-level", "--log-json")

app = typer.Typer(
    name="ivr-dist",
    cls=SectionedGroup,
    help="Train multimodal sentiment models (IVR fusion with sequential variation regularization) on a Ray cluster.",
    epilog=examples(
        "ivr-dist synth --out data/quickstart",
        "ivr-dist train configs/quickstart.yaml",
        "ivr-dist train configs/quickstart.yaml train.lr=3e-4 --num-workers 4",
        "ivr-dist plan configs/quickstart.yaml --world-sizes 1,2,8,64",
        "ivr-dist config train.lr",
        "ivr-dist pack corpora/mosi --card mosi_words --out s3://bucket/mosi",
        "ivr-dist verify s3://bucket/mosi --card mosi_words",
        "ivr-dist inspect s3://bucket/mosi --html mosi.html",
        "ivr-dist evaluate runs/quickstart",
        "ivr-dist status runs/quickstart",
        "ivr-dist audit runs/quickstart",
        "ivr-dist --log-json train.jsonl train configs/quickstart.yaml",
        "ivr-dist submit configs/quickstart.yaml --address http://127.0.0.1:8265",
    )
    + "\n\n\b\nExit codes: 0 success, 1 failure, 2 invalid command, config or data, 130 Ctrl-C, 143 SIGTERM.",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for section in (
    training_commands.SECTION,
    config_commands.SECTION,
    data_commands.SECTION,
    run_commands.SECTION,
    release_commands.SECTION,
):
    app.add_typer(section.commands)


def _print_version(is_set: bool) -> None:
    if is_set:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    log_level: Annotated[
        logging_setup.Level | None,
        typer.Option(
            envvar=LOG_LEVEL,
            case_sensitive=False,
            metavar="LEVEL",
            help="Lowest level of log records on stderr: DEBUG, INFO, WARNING (default) or ERROR. Workers have the "
            "same level and log to Ray's files; --debug shows them.",
        ),
    ] = None,
    log_json: Annotated[
        str | None,
        typer.Option(
            envvar=logging_setup.FILE_VARIABLE,
            metavar="FILE",
            help="Append log records from INFO on and the events of a run (progress, checkpoints, evaluations) to this "
            "file, one JSON object per line. The command writes it, on this machine.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if log_json == "":
        raise UserError("--log-json names no file", remedy="give the path of a file, or leave it out")
    logging_setup.configure(log_level, log_json)
    logger.info("ivr-dist %s: %s", __version__, context.invoked_subcommand)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The arguments after the name of the program; `sys.argv[1:]` by default.

    Returns:
        The exit code: 0 success, 1 failure, 2 a mistake of the user, 130 Ctrl-C.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with lasting_streams() as out, logging_setup.handlers():
        code = _run(argv)
        sys.stdout.flush()
        if out is not None and out.error is not None:
            text = f"stdout could not be written: {describe(out.error)}"
            has_effects = _command(argv) in _HAVE_EFFECTS and "--json" not in argv
            return _fail(StorageError(text, remedy=remedy_for(out.error)), code if has_effects else code or EXIT_FAILED)
        return code


def _command(argv: Sequence[str]) -> str:
    """Return the name of the command: the first argument that is neither an option nor the value of one."""
    before = ("", *argv)
    return next(
        (one for last, one in zip(before, argv, strict=False) if not one.startswith("-") and last not in _WITH_VALUE),
        "",
    )


def _run(argv: Sequence[str]) -> int:
    try:
        return int(app(argv, prog_name="ivr-dist", standalone_mode=False) or 0)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else f"ivr-dist {_command(argv)}".rstrip()
        text = error.format_message().replace(": Value error, ", ": ")
        what, _, meant = (part.strip() for part in text.partition("Did you mean"))
        remedy = f"did you mean {meant}" if meant else f"see {command} --help"
        option = getattr(error, "option_name", None)
        if option in _WITH_VALUE and what.startswith("No such option"):
            remedy = f"write it before the command: ivr-dist {option} ...{command.removeprefix('ivr-dist')} ..."
        return _fail(UserError(what.rstrip("."), remedy=remedy), error.exit_code)
    except IvrError as error:
        _print_traceback(argv)
        return _fail(error, error.exit_code)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        _print_traceback(argv)
        explanation = explained(error)
        if explanation is None:
            remedy = "run again with --debug for the traceback"
            explanation = IvrError(f"internal error: {named(error)}", remedy=remedy)
        return _fail(explanation, explanation.exit_code, error)


def _print_traceback(argv: Sequence[str]) -> None:
    if "--debug" in argv:
        say_lines(hide_secrets(traceback.format_exc()).rstrip("\n"), sys.stderr)


def _fail(error: IvrError, code: int, cause: Exception | None = None) -> int:
    say_lines(f"error: {error}", sys.stderr)
    logger.error("%s", error, exc_info=cause, extra=logging_setup.ALREADY_PRINTED)
    return code
