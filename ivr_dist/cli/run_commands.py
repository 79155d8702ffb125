"""Commands that look at runs and their checkpoints."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from ivr_dist.cli.options import EXIT_FAILED, AsJson, Debug, examples
from ivr_dist.errors import UserError
from ivr_dist.sanitize import say

AUDIT_EXAMPLES = examples("ivr-dist audit runs/quickstart")
STATUS_EXAMPLES = examples("ivr-dist status runs/quickstart", "ivr-dist status s3://bucket/runs/1 --json")
STOP_EXAMPLES = examples("ivr-dist stop s3://bucket/runs/1")
RESHAPE_EXAMPLES = examples(
    "ivr-dist reshape runs/quickstart/checkpoints/step-00000176.a01 --out s3://bucket/start --parts 8"
)
DOCTOR_EXAMPLES = examples("ivr-dist doctor", "RAY_ADDRESS=head:6379 ivr-dist doctor s3://bucket/runs")

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory or URL.")]


def audit(run: Run, as_json: AsJson = False, debug: Debug = False) -> int:
    """Prove that each sample counted exactly once.

    Reads the run's own ledger, over all attempts; the exit code is 1 if a sample is missing or counted twice, or a
    line of the ledger is lost, repeated or forged.
    """
    from ivr_dist import storage
    from ivr_dist.display.tables import print_table
    from ivr_dist.inspection.audit import audit as audit_run

    report = audit_run(storage.absolute(run))
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        print_table(report.header, report.rows(), sys.stdout)
        for problem in report.problems:
            say(problem)
        say(report.summary)
    return 0 if report.ok else EXIT_FAILED


def status(run: Run, as_json: AsJson = False, debug: Debug = False) -> int:
    """Show what a run is doing, or how it ended.

    Reads the run's storage only: step, pace, attempts, last sign of life, newest complete checkpoint, where the time
    went.
    """
    from ivr_dist import storage
    from ivr_dist.display.tables import print_metrics, print_rows
    from ivr_dist.inspection.status import status as look

    found = look(storage.absolute(run))
    if as_json:
        print(json.dumps(found.to_json()))
        return 0
    print_rows(found.rows(), sys.stdout)
    if found.metrics:
        print_metrics(found.metrics, sys.stdout)
    return 0


def stop(run: Run, debug: Debug = False) -> int:
    """End a run after a checkpoint.

    Works from anywhere that reaches the run's storage. The same training command continues it.
    """
    from ivr_dist import storage
    from ivr_dist.run.attempts import read_attempts
    from ivr_dist.run.lease import STOP_FILE, holder

    url = storage.absolute(run)
    # A driver has the run before the first of its workers has begun an attempt.
    if holder(url) is None:
        if not read_attempts(url):
            remedy = "give the run.dir of a run that has started"
            raise UserError("no run here", where=storage.display(url), remedy=remedy)
        say(f"nothing to stop: no command is training {storage.display(url)}")
        return 0
    storage.write_text(storage.join(url, STOP_FILE), "stop after a checkpoint\n")
    say(f"asked {storage.display(url)} to stop; watch it with: ivr-dist status {storage.display(run)}")
    return 0


def reshape(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Path or URL of a checkpoint.")],
    out: Annotated[str, typer.Option(help="Folder or URL of the new one.")],
    parts: Annotated[int, typer.Option(min=1, help="Number of its parts.")] = 1,
    debug: Debug = False,
) -> int:
    """Write a checkpoint in other parts.

    Training needs no such thing: any number of workers at any ZeRO stage continues any checkpoint.
    """
    from ivr_dist import storage
    from ivr_dist.checkpoint.reshape import reshape as rewrite

    source, target = storage.absolute(checkpoint), storage.absolute(out)
    rewrite(source, target, parts)
    say(f"wrote {storage.display(target)} in {parts} part(s)")
    return 0


def doctor(
    url: Annotated[str | None, typer.Argument(metavar="URL", help="Storage to try: where runs will go.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Check that all is fit to train.

    Looks at this machine, at the storage that is named, and at the cluster that RAY_ADDRESS names, if it names one.
    The exit code is 1 if something does not work.
    """
    from dataclasses import asdict

    from ivr_dist.display.tables import print_rows
    from ivr_dist.orchestration.doctor import examine

    findings = examine(url)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        texts = [f"{f.found}; {f.remedy}" if f.remedy else f.found for f in findings]
        print_rows([(f"{f.verdict:4} {f.what}", text) for f, text in zip(findings, texts, strict=True)], sys.stdout)
    return EXIT_FAILED if any(finding.verdict == "BAD" for finding in findings) else 0
