"""Commands about the code that the authors of the method released: import-release, parity."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ivr_dist.cli.options import EXIT_FAILED, AsJson, Debug, Section, print_json
from ivr_dist.display.plain_output import say

SECTION = Section("Released code")


@SECTION.command("ivr-dist import-release release.std --out checkpoints/release", name="import-release")
def import_release(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A state dict that the released code wrote.")],
    out: Annotated[str, typer.Option(metavar="URL", help="Folder or URL of the new checkpoint.")],
    shards: Annotated[
        str | None, typer.Option(metavar="URL", help="Packed split that the model is for; default: the task of MOSI.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Convert weights of the released code to a checkpoint.

    `ivr-dist evaluate` scores it on shards whose text features come from its language model.
    """
    from dataclasses import asdict

    from ivr_dist.display.tables import print_rows
    from ivr_dist.parity.import_weights import import_release as convert

    imported = convert(file, out, shards)
    print_rows(imported.rows(), sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json(asdict(imported))
    return 0


@SECTION.command("ivr-dist parity golden.npz")
def parity(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="An .npz file that the released code wrote; see docs/method.md.")
    ],
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Compare preset release with the released code.

    Prints the relative errors of predictions, codes, losses and gradients; the exit code is 1 if one is above 1e-5.
    """
    from ivr_dist.display.tables import print_table
    from ivr_dist.parity.golden import TOLERANCE
    from ivr_dist.parity.golden import parity as compare

    report = compare(file)
    stream = sys.stderr if as_json else sys.stdout
    print_table(("quantity", "relative error", ""), report.rows(), stream)
    say(f"{', '.join(f'{name} {size}' for name, size in report.sizes.items())}", stream)
    worst, bound = report.worst(), f"{TOLERANCE:g}"
    verdict = f"all errors are within {bound}" if report.ok else f"NOT all errors are within {bound}"
    say(f"{verdict}; the largest is {worst.error:.2e}, of {worst.name}", stream)
    if not report.ok:
        import torch

        exact = compare(file, torch.float64).worst()
        say(f"in float64 the largest error is {exact.error:.2e}, of {exact.name}; see docs/method.md", stream)
    if as_json:
        print_json(report.to_json())
    return 0 if report.ok else EXIT_FAILED
