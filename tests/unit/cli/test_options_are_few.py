"""Command-line options are frozen: settings of a run belong into the config; a new option is listed here."""

from __future__ import annotations

import typer

from ivr_dist.cli.main import app

COMMON = {"--help", "--debug"}
OPTIONS = {
    "": "--log-level --log-json --version",
    "train": "--num-workers --dry-run --seeds --leave-one-out --resume --json",
    "plan": "--world-sizes --json",
    "submit": "--address --no-wait",
    "config": "--search --schema --effective --yaml --markdown",
}


def options_of(command: object) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")}  # type: ignore[attr-defined]


def test_commands_that_take_a_config_have_no_new_options() -> None:
    group = typer.main.get_command(app)
    commands = {"": group, **group.commands}  # type: ignore[attr-defined]
    for name, listed in OPTIONS.items():
        assert options_of(commands[name]) - COMMON == set(listed.split()), (
            f"{name or 'ivr-dist'}: a setting of a run is a key of the config, not an option"
        )


def test_every_command_has_debug() -> None:
    group = typer.main.get_command(app)
    assert [name for name, command in group.commands.items() if "--debug" not in options_of(command)] == []  # type: ignore[attr-defined]
