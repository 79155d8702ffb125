"""Commands about runs: status, stop, audit, reshape, doctor."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ivr_dist.cli.options import EXIT_FAILED, AsJson, Checkpoint, Debug, Run, Section, print_json
from ivr_dist.display.plain_output import say

SECTION = Section("Runs")


@SECTION.command("ivr-dist status runs/quickstart", "ivr-dist status s3://bucket/runs/1 --json")
def status(run: Run, as_json: AsJson = False, debug: Debug = False) -> int:
    """Show what a run is doing, or how it ended.

    Reads the run's storage only: progress, throughput, attempts, last heartbeat, newest complete checkpoint, goodput.
    """
    from ivr_dist import storage
    from ivr_dist.display.tables import print_metrics, print_rows
    from ivr_dist.inspection.status import status as read_status

    run_status = read_status(storage.absolute(run))
    if as_json:
        print_json(run_status.to_json())
        return 0
    print_rows(run_status.rows(), sys.stdout)
    if run_status.metrics:
        print_metrics(run_status.metrics, sys.stdout)
    return 0


@SECTION.command("ivr-dist stop s3://bucket/runs/1")
def stop(run: Run, debug: Debug = False) -> int:
    """End a run after a checkpoint.

    Works from any machine that can write to the run's storage. The same training command continues the run.
    """
    from ivr_dist import storage
    from ivr_dist.inspection.status import no_run
    from ivr_dist.run.attempts import read_attempts
    from ivr_dist.run.lease import holder
    from ivr_dist.run.paths import RunPaths

    url = storage.absolute(run)
    # A driver holds the lease before the first worker records an attempt.
    if holder(url) is None:
        if not read_attempts(url):
            raise no_run(url)
        say(f"nothing to stop: no command is training {storage.display(url)}")
        return 0
    storage.write_text(RunPaths(url).stop_file, "stop after a checkpoint\n")
    say(f"requested a stop of {storage.display(url)}; watch it with: ivr-dist status {storage.display(run)}")
    return 0


@SECTION.command("ivr-dist audit runs/quickstart")
def audit(run: Run, as_json: AsJson = False, debug: Debug = False) -> int:
    """Prove that every sample counted exactly once.

    Compares the ledger of all attempts with the order of the data. The exit code is 1 if a sample is missing or
    counted twice, or if a line of the ledger is lost, repeated or forged.
    """
    from ivr_dist import storage
    from ivr_dist.display.tables import print_table
    from ivr_dist.inspection.audit import audit as audit_run

    report = audit_run(storage.absolute(run))
    if as_json:
        print_json(report.to_json())
    else:
        print_table(report.header, report.rows(), sys.stdout)
        for problem in report.problems:
            say(problem)
        say(report.summary)
    return 0 if report.ok else EXIT_FAILED


@SECTION.command("ivr-dist reshape runs/quickstart/checkpoints/step-00000176.a01 --out s3://bucket/start --parts 8")
def reshape(
    checkpoint: Checkpoint,
    out: Annotated[str, typer.Option(metavar="URL", help="Folder or URL of the new checkpoint.")],
    parts: Annotated[int, typer.Option(metavar="N", min=1, help="Number of parts of the new checkpoint.")] = 1,
    debug: Debug = False,
) -> int:
    """Rewrite a checkpoint with another number of parts.

    Resuming does not need this: any number of workers at any ZeRO stage resumes from any checkpoint.
    """
    from ivr_dist import storage
    from ivr_dist.checkpoint.reshape import reshape as rewrite

    source, target = storage.absolute(checkpoint), storage.absolute(out)
    rewrite(source, target, parts)
    say(f"wrote {storage.display(target)} in {parts} part(s)")
    return 0


@SECTION.command("ivr-dist doctor", "RAY_ADDRESS=head:6379 ivr-dist doctor s3://bucket/runs")
def doctor(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="Storage to test: where runs will be written.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Check that this environment can train.

    Tests this machine, the given storage, and the cluster at RAY_ADDRESS if it is set. The exit code is 1 if something
    does not work.
    """
    from dataclasses import asdict

    from ivr_dist.display.tables import print_rows
    from ivr_dist.orchestration.doctor import examine

    findings = examine(url)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        texts = [f"{one.found}; {one.remedy}" if one.remedy else one.found for one in findings]
        print_rows(
            [(f"{one.verdict:4} {one.what}", text) for one, text in zip(findings, texts, strict=True)], sys.stdout
        )
    return EXIT_FAILED if any(finding.verdict == "BAD" for finding in findings) else 0
