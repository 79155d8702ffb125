"""One session with Ray, in a process of its own: connect, wait for machines, run Ray Train, pass on what workers say.

`supervisor` starts it and hears of it through a pipe: ("event", event), ("connected", None), ("workers", None) once
Ray Train runs, and last one of ("done", None), ("unstarted", error) where there is no cluster, ("failed", error) for
what would be the same again, and ("lost", what) when Ray or a part of it is gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from ivr_dist import storage
from ivr_dist.common.library_errors import describe, remedy_for, root_cause
from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict
from ivr_dist.errors import IvrError, WorkerError
from ivr_dist.orchestration.ray_cluster import cluster_kind, connected, dead_service, wait_for_room, worker_resources
from ivr_dist.orchestration.supervisor import MARK, Job, end_marked, no_cluster
from ivr_dist.run.events import Event, Phase, from_json
from ivr_dist.run.paths import RunPaths
from ivr_dist.runtime import collectives, device
from ivr_dist.runtime.environment import RECORDER

_POLL_S = 0.25
_ANSWER_S = 5.0
_SILENCE_S = 30.0

_TRAIN_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    **RECORDER,
}

# After a loss the elastic policy may ask for machines that are gone: it soon finds out, and asks for fewer.
_ELASTIC_SETTINGS = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}
_MOST_STARTS = 10
"""Times in a row that a group may fail to start for want of machines, 60 s each if its size is fixed."""


def main(descriptor: int) -> None:
    """The process: all that it does, from the pipe that it is given to its end."""
    # The command alone hears signals. A blocked signal stays blocked in the processes that this one starts: a scheduler
    # that sends SIGTERM to all processes of a job would otherwise end Ray before the workers have written a checkpoint.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    connection: Connection[Any, Any] = Connection(descriptor)
    job: Job = connection.recv()
    command = _Command(connection, job.scratch)
    config = from_dict(job.config)
    try:
        with _cluster(job, config, command):
            command.tell(*_ending(job, config, command))
    except IvrError as error:
        command.tell("unstarted", error)
    except Exception as error:
        traceback.print_exc()
        command.tell("unstarted", no_cluster(job.address, describe(error)))
    finally:
        # Ray's own threads and exit handlers have nothing to save.
        os._exit(0)


class _Command:
    """The command, at the other end of the pipe.

    Args:
        connection: The pipe.
        folder: Of a cluster of our own; removed when the command is gone.
    """

    def __init__(self, connection: Connection[Any, Any], folder: str) -> None:
        self._connection = connection
        self._folder = folder
        self._lock = threading.Lock()
        self.stop = threading.Event()
        threading.Thread(target=self._listen, name="ivr-command", daemon=True).start()

    def tell(self, kind: str, value: Any) -> None:
        """Say one thing to the command."""
        with self._lock:
            self._connection.send((kind, value))

    def say(self, text: str) -> None:
        """One line for the user."""
        self.tell("event", Phase(text))

    def _listen(self) -> None:
        try:
            while True:
                self._connection.recv()
                self.stop.set()
        except (EOFError, OSError):
            # The command was killed: nothing of it stays behind.
            end_marked(os.environ[MARK])
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(1)


def _lost(error: BaseException) -> str:
    """What was lost, for the user: which part of Ray, as far as that is known."""
    from ray.exceptions import ActorDiedError, RayError

    if service := dead_service():
        return f"the Ray cluster on this machine was lost: its {service} has ended"
    if isinstance(error, ActorDiedError):
        return "an actor that the run needs was lost: Ray Train's controller or the one beside the driver"
    if isinstance(error, RayError):
        return f"Ray failed: {describe(error)}"
    return f"the session with Ray failed: {describe(error)}"


@contextmanager
def _cluster(job: Job, config: Config, command: _Command) -> Iterator[None]:
    """The cluster that the job names, or one of its own."""
    settings = _TRAIN_SETTINGS if isinstance(config.run.num_workers, int) else _TRAIN_SETTINGS | _ELASTIC_SETTINGS
    os.environ.update({name: os.environ.get(name, value) for name, value in settings.items()})
    command.say(
        f"connecting to the Ray cluster at {job.address}" if job.address else "starting a Ray cluster on this machine"
    )
    with connected(config.run.most_workers, job.debug, folder=job.scratch, patience_s=job.patience_s):
        command.tell("connected", None)
        yield


def _ending(job: Job, config: Config, command: _Command) -> tuple[str, Any]:
    """Train, and say how that ended."""
    try:
        _train(job, config, command)
    except IvrError as error:
        return "failed", error
    except Exception as error:
        traceback.print_exc()
        return "lost", _lost(error)
    return "done", None


def _train(job: Job, config: Config, command: _Command) -> None:
    """Start the workers and pass on what they say; returns when training has ended.

    Raises:
        IvrError: It would be the same again.
        Exception: Ray, or a part of it, is gone.
    """
    import ray

    from ivr_dist.orchestration import channel

    kind = cluster_kind()
    wait_s = config.run.wait_s if job.address else 0.0
    if not wait_for_room(config.run.fewest_workers, kind, wait_s, command.say, command.stop.is_set):
        return
    command.tell("workers", None)
    command.say(f"starting workers, a {kind} each")
    handle = channel.create()
    outcome = _Outcome()
    thread = threading.Thread(target=_fit, args=(job, config, handle, kind, outcome), name="ivr-fit", daemon=True)
    thread.start()
    silence = _Silence(command.say, kind, config.run.fewest_workers)
    fatal: IvrError | None = None
    running = True
    while running and fatal is None:
        time.sleep(_POLL_S)
        running = thread.is_alive()
        if service := dead_service():
            raise ConnectionError(service)
        try:
            messages, fatal = ray.get(handle.pull.remote(command.stop.is_set()), timeout=_ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            continue
        events = [from_json(message) for message in messages]
        for event in events:
            command.tell("event", event)
        silence.heard(events)
    if fatal is not None:
        raise fatal
    if outcome.error is not None:
        raise _judged(outcome.error)


class _Silence:
    """Tells the user what is waited for while no worker says anything and none is training."""

    def __init__(self, say: Callable[[str], None], kind: str, fewest: int) -> None:
        self._say, self._kind, self._fewest = say, kind, fewest
        self._training = False
        self._last = time.monotonic()

    def heard(self, events: Sequence[Event]) -> None:
        """Take note of what came, and speak if nothing did for long."""
        for event in events:
            self._training = not isinstance(event, Phase)
        if events or self._training:
            self._last = time.monotonic()
        elif time.monotonic() - self._last > _SILENCE_S:
            import ray

            have = ray.cluster_resources().get(self._kind, 0)  # type: ignore[no-untyped-call]
            if have < self._fewest:
                self._say(f"waiting for workers: {self._fewest} {self._kind}s are needed, the cluster has {have:.0f}")
            else:
                self._say(
                    "the workers are still starting: each imports PyTorch and DeepSpeed, and reads the data's index"
                )
            self._last = time.monotonic()


class _Outcome:
    error: BaseException | None = None


def _fit(job: Job, config: Config, handle: Any, kind: str, outcome: _Outcome) -> None:
    """Run Ray Train; on a thread of its own, beside the exchange with the command."""
    try:
        # The V2 classes by their own names: ray.train exports them or V1's, as the environment says.
        from ray.train.torch import TorchConfig
        from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.v2.torch.torch_trainer import TorchTrainer

        from ivr_dist.orchestration.preemption import FailureReporter, NodeListRefresh, start_coordinator
        from ivr_dist.orchestration.worker import ray_entry

        start_coordinator()
        run, workers = config.run, config.run.num_workers
        left = run.max_failures if run.max_failures < 0 else run.max_failures - job.failures
        TorchTrainer(
            ray_entry,
            train_loop_config={
                "config": dict(job.config),
                "channel": handle,
                "attempts_before": job.attempts_before,
                "most_workers": run.most_workers,
                "use_gpu": kind == "GPU",
                "started": job.started,
            },
            torch_config=TorchConfig(
                backend=device.backend_with(gpus=kind == "GPU"), timeout_s=int(collectives.timeout_s(run.hang_after_s))
            ),
            scaling_config=ScalingConfig(
                num_workers=workers if isinstance(workers, int) else (run.fewest_workers, run.most_workers),
                use_gpu=kind == "GPU",
                resources_per_worker=worker_resources(kind),
                elastic_resize_monitor_interval_s=run.resize_s,
            ),
            run_config=RunConfig(
                name=f"ray-{time.time_ns()}",
                storage_path=RunPaths(storage.absolute(run.dir)).ray,
                failure_config=FailureConfig(max_failures=left, controller_failure_limit=_MOST_STARTS),
                logging_config=LoggingConfig(log_level="INFO" if job.debug else "ERROR"),
                callbacks=[
                    FailureReporter(handle, run.max_failures, job.failures),
                    *([] if isinstance(workers, int) else [NodeListRefresh()]),
                ],
            ),
        ).fit()
    except BaseException as error:  # the main thread raises it
        outcome.error = error


def _judged(error: BaseException) -> BaseException:
    """What ended Ray Train: for good, as one line, or a part of Ray that is gone, as it is."""
    from ray.exceptions import RayError

    if isinstance(error, RayError) or dead_service():
        return error
    cause = root_cause(error)
    if isinstance(cause, IvrError):
        return cause
    more = remedy_for(cause)
    return WorkerError(
        f"the workers failed for good: {describe(cause)}",
        remedy=f"{more + '; ' if more else ''}the same command continues from the last checkpoint; --debug shows the "
        "workers' logs",
    )
