"""The command `config`: what the keys of a config are, and what a config sets them to."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ivr_dist.cli.options import Debug, Section, print_json
from ivr_dist.display.plain_output import say, say_lines
from ivr_dist.errors import UserError

SECTION = Section("Configuration")

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY", help="Keys or sections to explain; with --effective, overrides as KEY=VALUE."),
]


@SECTION.command(
    "ivr-dist config train.lr",
    "ivr-dist config loss",
    "ivr-dist config --search clipping",
    "ivr-dist config --schema > schema.json",
    "ivr-dist config --effective configs/quickstart.yaml train.lr=3e-4",
    "ivr-dist config --yaml > all.yaml",
)
def config(
    names: Names = None,
    search: Annotated[
        str | None, typer.Option(metavar="WORDS", help="List the keys that these words occur in.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema, for editors.")] = False,
    effective: Annotated[
        str | None, typer.Option(metavar="CONFIG", help="Print every value of a config file, and where it came from.")
    ] = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print a config of all defaults, with comments.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/config.md.")] = False,
    debug: Debug = False,
) -> int:
    """List and explain the config keys.

    Without arguments, lists all keys with their defaults. Reads nothing but the config file that is given.
    """
    forms = {
        "--search": search is not None,
        "--schema": schema,
        "--effective": effective is not None,
        "--yaml": as_yaml,
        "--markdown": markdown,
    }
    chosen = [option for option, given in forms.items() if given]
    if len(chosen) > 1 or (chosen and names and effective is None):
        both = " and ".join(chosen if len(chosen) > 1 else [chosen[0], f"KEY {(names or [''])[0]}"])
        raise UserError(f"{both} cannot be given together", remedy="give one of them")
    if effective is not None:
        from ivr_dist.config.effective import effective_yaml
        from ivr_dist.config.loading import load

        _print(effective_yaml(load(effective, names or ())))
    elif schema:
        from ivr_dist.config.json_schema import json_schema

        print_json(json_schema())
    elif as_yaml:
        from ivr_dist.config import Config
        from ivr_dist.config.yaml_writer import to_yaml

        _print(to_yaml(Config()))
    elif markdown:
        from ivr_dist.config import reference
        from ivr_dist.planning.run_identity import effects

        _print(reference.markdown(effects()))
    elif search is not None:
        _show_matches(search)
    else:
        _explain(names or [])
    return 0


def _print(text: str) -> None:
    say_lines(text.rstrip("\n"), sys.stdout)


def _show_matches(word: str) -> None:
    from ivr_dist.config.reference import search_keys

    lines = search_keys(word) if word.strip() else []
    if not lines:
        raise UserError(f"no key has to do with {word or repr(word)}", remedy="list all with `ivr-dist config`")
    for line in lines:
        say(line)


def _explain(names: list[str]) -> None:
    from ivr_dist.config import reference

    if not names:
        for line in reference.list_keys():
            say(line)
        return
    from ivr_dist.planning.run_identity import effects

    # All are looked up before the first is printed.
    for number, lines in enumerate([reference.explain(name, effects()) for name in names]):
        for line in [*([""] if number else []), *lines]:
            say(line)
