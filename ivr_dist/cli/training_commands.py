"""Commands that train and score: train, plan, evaluate, submit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ivr_dist.cli.options import (
    AsJson,
    CheckpointOrRun,
    ConfigFile,
    Debug,
    NumWorkers,
    Overrides,
    Section,
    TrustCode,
)
from ivr_dist.errors import UserError

SECTION = Section("Training")


@SECTION.command(
    "ivr-dist train configs/quickstart.yaml",
    "ivr-dist train configs/quickstart.yaml run.dir=runs/wide model.hidden=256 --num-workers 4",
    "ivr-dist train configs/mosi_words.yaml --seeds 0,1,2",
)
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    num_workers: NumWorkers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan and exit.")] = False,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Train once per seed, as in 0,1,2, below run.dir; then print mean and deviation."
        ),
    ] = "",
    leave_one_out: Annotated[
        bool,
        typer.Option(
            "--leave-one-out", help="Train a pool once without each corpus, and score that one by the others."
        ),
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|never|PATH",
            help="Continue from the newest complete checkpoint (auto), from none (never), or from this one.",
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Train and evaluate a model, or continue a run.

    Workers run on the Ray cluster at RAY_ADDRESS, or on this machine. Ctrl-C and SIGTERM end the run after a
    checkpoint; the same command continues it.
    """
    from ivr_dist.cli import training_output
    from ivr_dist.cli.plan_output import print_plans
    from ivr_dist.config.loading import load
    from ivr_dist.orchestration.preflight import further_faults

    settings = _all_overrides(overrides, num_workers, resume)
    loaded = load(config, settings, further_faults)
    if dry_run:
        return print_plans(loaded, loaded.config.run.world_sizes, as_json)
    if seeds and leave_one_out:
        raise UserError(
            "--seeds and --leave-one-out are two studies", remedy="give one of them, run.seed for the other"
        )
    if seeds:
        return training_output.train_seeds(config, settings, seeds, loaded, as_json=as_json, debug=debug)
    if leave_one_out:
        return training_output.train_without_each(config, settings, loaded, as_json=as_json, debug=debug)
    return training_output.train(loaded, as_json=as_json, debug=debug)


@SECTION.command("ivr-dist plan configs/quickstart.yaml --world-sizes 1,2,8,64")
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    world_sizes: Annotated[str, typer.Option(metavar="LIST", help="Numbers of workers to compare, as in 1,2,8.")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Show batches, memory and reads of a run per worker.

    Checks the config and the manifests of its data, and starts nothing.
    """
    from ivr_dist.cli.plan_output import print_plans
    from ivr_dist.config.loading import load
    from ivr_dist.orchestration.preflight import further_faults

    loaded = load(config, overrides or (), further_faults)
    worlds = _parse_worlds(world_sizes) if world_sizes else loaded.config.run.world_sizes
    return print_plans(loaded, worlds, as_json)


@SECTION.command(
    "ivr-dist evaluate runs/quickstart",
    "ivr-dist evaluate CHECKPOINT --shards s3://bucket/sims/test --json",
)
def evaluate(
    checkpoint: CheckpointOrRun,
    shards: Annotated[
        str | None, typer.Option(metavar="URL", help="Packed split to score; default: a split of the run.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="train|valid|test", help="Which split of the run to score.")] = "test",
    corpus: Annotated[
        str, typer.Option(metavar="NAME", help="Corpus of a pooled model; default: all, or the one that fits.")
    ] = "",
    head: Annotated[
        str, typer.Option(metavar="NAME", help="Head that scores a corpus that the model has not seen.")
    ] = "",
    statistics: Annotated[
        str, typer.Option(metavar="URL", help="Its training split, whose statistics standardize its features.")
    ] = "",
    num_workers: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Number of processes of this machine; default: 1.")
    ] = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Score a checkpoint on a split.

    Every sample counts exactly once, for any number of workers. Of a run it is the checkpoint that its result names,
    the best one by validation if there is validation; without a result, the newest.
    """
    from ivr_dist.cli import training_output

    return training_output.evaluate(
        checkpoint,
        shards,
        split,
        num_workers,
        as_json=as_json,
        trust_code=trust_code,
        corpus=corpus,
        head=head,
        statistics=statistics,
    )


@SECTION.command("ivr-dist submit configs/quickstart.yaml --address http://head:8265 run.dir=s3://bucket/runs/1")
def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's Jobs API.")
    ] = "http://127.0.0.1:8265",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the job is accepted.")] = False,
    debug: Debug = False,
) -> int:
    """Train as a job on a Ray cluster.

    Prints the job's output and returns its exit code; Ctrl-C stops the job.
    """
    from ivr_dist.orchestration.submit import submit as submit_job

    return submit_job(config, overrides or (), address=address, wait=not no_wait)


def _all_overrides(overrides: Sequence[str] | None, num_workers: int | None, resume: str | None) -> list[str]:
    from ivr_dist.config.loading import override

    workers = [] if num_workers is None else [f"run.num_workers={num_workers}"]
    return [*(overrides or ()), *workers, *([] if resume is None else [override("run.resume", resume)])]


def _parse_worlds(text: str) -> list[int]:
    try:
        worlds = [int(part) for part in text.split(",")]
    except ValueError:
        worlds = [0]
    if min(worlds) < 1:
        raise UserError(f"--world-sizes {text} is not a list of numbers of workers", remedy="write it as in 1,2,8")
    return worlds
