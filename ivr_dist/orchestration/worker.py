"""One worker: trains attempt after attempt until the run has ended, under Ray Train or in this process alone."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ivr_dist import storage
from ivr_dist.common import dotted_path
from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict
from ivr_dist.errors import IvrError, UserError
from ivr_dist.run import attempts
from ivr_dist.run.events import Console, Phase, RunEnded
from ivr_dist.runtime import collectives, device, log_level, threads
from ivr_dist.training.attempt import AttemptRun, SkippedSteps
from ivr_dist.training.rank_agreement import ClusterEvents
from ivr_dist.training.trainer import Ending

# How long a worker that has reported a fatal error waits for the driver to end the run before it raises to Ray.
_FATAL_GRACE_S = 30.0


def ray_entry(payload: dict[str, Any]) -> None:
    """Entry point of a Ray Train worker.

    An `IvrError` that a retry would repeat goes to the driver, which ends the run. Any other error is raised to Ray
    Train, which restarts the worker group.
    """
    import ray.train

    from ivr_dist.orchestration.channel import ChannelConsole
    from ivr_dist.orchestration.preemption import RayCluster

    log_level.log_to_stderr()
    # Workers never call `ray.train.report`: checkpoints are the run's own. decision 001
    console = ChannelConsole(payload["channel"])
    # Modules that the config names are imported from where the command was given, as the command imported them.
    dotted_path.add_folder(payload["code_folder"])
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
    """Train in this process alone, without Ray; may be called any number of times in one process.

    Threads, random state and determinism of PyTorch are as before afterwards: the caller may be a notebook.

    Raises:
        UserError: This process has a default process group of its own, or another thread trains in it.
        IvrError: The run cannot go on.
    """
    with _only_one_at_a_time():
        _run_in_process(config, console)


_in_process = threading.Lock()


@contextmanager
def _only_one_at_a_time() -> Iterator[None]:
    """Refuse a second run: PyTorch has one default process group in a process."""
    if not _in_process.acquire(blocking=False):
        raise UserError(
            "another thread of this process is training a run",
            where="run.num_workers=0",
            remedy="wait until it has ended, or train on workers (run.num_workers=1)",
        )
    try:
        yield
    finally:
        _in_process.release()


def _run_in_process(config: Config, console: Console) -> None:
    if collectives.is_distributed():
        raise UserError(
            "this process has a torch.distributed process group already, and training in it needs its own",
            where="run.num_workers=0",
            remedy="call torch.distributed.destroy_process_group() first, or train on workers (run.num_workers=1)",
        )
    with (
        _library_settings_kept(),
        tempfile.TemporaryDirectory(prefix="ivr-group-") as scratch,
        collectives.group(f"{scratch}/store", 0, 1, config.run.hang_after_s),
    ):
        if not device.available():
            choice = threads.choose(config.run.threads)
            torch.set_num_threads(choice.threads)
            console.emit(Phase(f"computing with {choice.threads} thread(s): {choice.why}"))
        train(config, console, 0, len(attempts.read_attempts(storage.absolute(config.run.dir))))


@contextmanager
def _library_settings_kept() -> Iterator[None]:
    """Restore the settings of PyTorch that training changes for the whole process; keep DeepSpeed from printing."""
    count, random_state = torch.get_num_threads(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    # DeepSpeed's logger writes to stdout by its own handler.
    deepspeed_logger = logging.getLogger("DeepSpeed")
    level = deepspeed_logger.level
    deepspeed_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        deepspeed_logger.setLevel(level)
        torch.set_num_threads(count)
        torch.set_rng_state(random_state)
        # Only where it changed: on a CPU the call would import PyTorch's compiler.
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            torch.use_deterministic_algorithms(deterministic)


def train(
    config: Config,
    console: Console,
    local_rank: int,
    attempts_before: int,
    *,
    cluster_events: ClusterEvents | None = None,
    started: float | None = None,
) -> Ending:
    """Train a run to its end from its newest checkpoint; every rank of an existing process group calls it.

    Args:
        config: The run's config.
        console: Receives events; most come from rank 0.
        local_rank: Rank of this worker on its node.
        attempts_before: Attempts of the run when its driver was started. A later one is a retry, which continues
            regardless of `run.resume`.
        cluster_events: Preemption notices and free capacity; None: the cluster does not change.
        started: Unix time when the driver was started, from which the time of its first attempt counts; None: now.

    Returns:
        How training ended.

    Raises:
        IvrError: The run cannot continue.
    """
    device.tune_memory()
    device.deterministic()
    began = time.time()
    # The time before the workers started counts towards the driver's first attempt only.
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
            if collectives.rank() == 0:
                console.emit(RunEnded(ending))
            return ending
        skipped, began = attempt.skipped_steps, time.time()
