"""What one worker runs: attempt after attempt, until the run has ended."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict
from ivr_dist.errors import IvrError
from ivr_dist.run import attempts
from ivr_dist.run.events import Console, Phase, RunEnded
from ivr_dist.runtime import collectives, device, threads
from ivr_dist.training.attempt import AttemptRun, SkippedSteps
from ivr_dist.training.rank_agreement import ClusterEvents
from ivr_dist.training.trainer import Ending

# How long a worker that has reported a fatal error waits for the driver to end the run before Ray is told.
_FATAL_GRACE_S = 30.0


def ray_entry(payload: dict[str, Any]) -> None:
    """The function Ray Train runs in each worker.

    An explained error goes to the driver, which ends the run: it would be the same on every retry. Any other error is
    Ray's to see, so that it restarts the group.
    """
    import ray.train

    from ivr_dist.orchestration.channel import ChannelConsole
    from ivr_dist.orchestration.preemption import RayCluster

    console = ChannelConsole(payload["channel"])
    try:
        train(
            from_dict(payload["config"]),
            console,
            ray.train.get_context().get_local_rank(),
            payload["attempts_before"],
            cluster_events=RayCluster(payload["most_workers"], payload["use_gpu"]),
            started=payload["started"],
        )
    except IvrError as error:
        if not collectives.is_explained(error):
            raise
        console.fail(error)
        time.sleep(_FATAL_GRACE_S)
        raise
    finally:
        console.close()


def run_in_process(config: Config, console: Console) -> None:
    """Train in this process alone, without Ray."""
    if not device.available():
        chosen = threads.choose(config.run.threads)
        torch.set_num_threads(chosen.threads)
        console.emit(Phase(f"computing with {chosen.threads} thread(s): {chosen.why}"))
    with (
        tempfile.TemporaryDirectory(prefix="ivr-group-") as scratch,
        collectives.group(f"{scratch}/store", 0, 1, config.run.hang_after_s),
    ):
        train(config, console, 0, len(attempts.read_attempts(storage.absolute(config.run.dir))))


def train(
    config: Config,
    console: Console,
    local_rank: int,
    attempts_before: int,
    *,
    cluster_events: ClusterEvents | None = None,
    started: float | None = None,
) -> Ending:
    """Train a run to its end, from wherever it stands; every rank of an existing process group calls it.

    Args:
        config: The run's config.
        console: Where rank 0 tells what happens.
        local_rank: This worker's number on its node.
        attempts_before: Attempts of the run when its driver started: a later one is a retry, which continues whatever
            `run.resume` says.
        cluster_events: What is known of the machines; None: they never change.
        started: Unix time when the driver started, from which the time of its first attempt counts; None for now.

    Returns:
        How it ended.

    Raises:
        IvrError: The run cannot go on.
    """
    device.tune_memory()
    device.deterministic()
    began = time.time()
    # Only the driver's first attempt has waited for the driver.
    if started is not None and len(attempts.read_attempts(storage.absolute(config.run.dir))) <= attempts_before:
        began = started
    skipped: SkippedSteps | None = None
    while True:
        attempt = AttemptRun(config, console, local_rank, cluster_events)
        try:
            ending = attempt.run(attempts_before, began, skipped)
        except RuntimeError as error:
            refusal = device.refusal(error)
            if refusal is None:
                raise
            raise refusal from error
        if ending != "rollback":
            console.emit(RunEnded(ending))
            return ending
        skipped, began = attempt.skipped_steps, time.time()
