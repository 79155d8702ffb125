"""The Ray process: the child process of a driver that connects to Ray, runs Ray Train and relays the workers' events.

`supervisor` starts it and receives messages from it through a pipe: ("event", event); ("connected", None) once there is
a cluster; ("workers", None) once Ray Train runs; and last one of ("done", None), ("unstarted", error) without a
cluster, ("failed", error) for an error that a retry would repeat, and ("lost", what) when a part of Ray has died.
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
from ivr_dist.orchestration.ray_cluster import (
    cluster_kind,
    connected,
    dead_service,
    wait_for_resources,
    worker_resources,
)
from ivr_dist.orchestration.supervisor import MARK, Job, kill_marked, no_cluster
from ivr_dist.run.events import Event, Phase, from_json
from ivr_dist.run.paths import RunPaths
from ivr_dist.runtime import collectives, device
from ivr_dist.runtime.environment import RECORDER

_POLL_S = 0.25
_PULL_TIMEOUT_S = 5.0
_SILENCE_S = 30.0
"""Seconds without an event, before training begins, after which the user is told what the run waits for."""

_TRAIN_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    **RECORDER,
}

# After a failure the elastic policy may request workers on nodes that are gone; a short timeout makes it request fewer.
_ELASTIC_SETTINGS = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}
_MAX_START_FAILURES = 10
"""Consecutive failures to start the worker group for lack of resources, after 60 s each if its size is fixed."""


def main(descriptor: int) -> None:
    """Run the process: receive the job from the pipe with this file descriptor, train, report the outcome, exit."""
    # Only the driver handles signals. A blocked signal stays blocked in child processes: a scheduler that sends SIGTERM
    # to all processes of a job would otherwise end Ray before the workers have written a checkpoint.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    connection: Connection[Any, Any] = Connection(descriptor)
    job: Job = connection.recv()
    driver = _DriverPipe(connection, job.scratch)
    config = from_dict(job.config)
    try:
        with _cluster(job, config, driver):
            driver.send(*_train_to_outcome(job, config, driver))
    except IvrError as error:
        driver.send("unstarted", error)
    except Exception as error:
        traceback.print_exc()
        driver.send("unstarted", no_cluster(job.address, describe(error)))
    finally:
        # Ray's threads and exit handlers have nothing to save.
        os._exit(0)


class _DriverPipe:
    """This process's end of the pipe to the driver; ends the process and its cluster when the driver has died.

    Args:
        connection: The pipe.
        folder: Folder of a local cluster, which is removed then; empty for a named cluster.
    """

    def __init__(self, connection: Connection[Any, Any], folder: str) -> None:
        self._connection = connection
        self._folder = folder
        self._lock = threading.Lock()
        self.stop = threading.Event()
        threading.Thread(target=self._listen, name="ivr-driver-pipe", daemon=True).start()

    def send(self, kind: str, value: Any) -> None:
        """Send one message to the driver."""
        with self._lock:
            self._connection.send((kind, value))

    def report(self, text: str) -> None:
        """Send one line for the user."""
        self.send("event", Phase(text))

    def _listen(self) -> None:
        try:
            while True:
                self._connection.recv()
                self.stop.set()
        except (EOFError, OSError):
            # The driver was killed: nothing of its cluster must stay behind.
            kill_marked(os.environ[MARK])
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(1)


def _describe_loss(error: BaseException) -> str:
    """Describe for the user which part of Ray has died, as far as that is known."""
    from ray.exceptions import ActorDiedError, RayError

    if service := dead_service():
        return f"the Ray cluster on this machine was lost: its {service} has ended"
    if isinstance(error, ActorDiedError):
        return "an actor of the run has died: Ray Train's controller or the event channel"
    if isinstance(error, RayError):
        return f"Ray failed: {describe(error)}"
    return f"the Ray process failed: {describe(error)}"


@contextmanager
def _cluster(job: Job, config: Config, driver: _DriverPipe) -> Iterator[None]:
    """Connect to the cluster that the job names, or start a local one."""
    settings = _TRAIN_SETTINGS if isinstance(config.run.num_workers, int) else _TRAIN_SETTINGS | _ELASTIC_SETTINGS
    os.environ.update({name: os.environ.get(name, value) for name, value in settings.items()})
    driver.report(
        f"connecting to the Ray cluster at {job.address}" if job.address else "starting a Ray cluster on this machine"
    )
    with connected(config.run.most_workers, job.debug, folder=job.scratch, head_timeout_s=job.head_timeout_s):
        driver.send("connected", None)
        yield


def _train_to_outcome(job: Job, config: Config, driver: _DriverPipe) -> tuple[str, Any]:
    """Train, and return the last message for the driver."""
    try:
        _train(job, config, driver)
    except IvrError as error:
        return "failed", error
    except Exception as error:
        traceback.print_exc()
        return "lost", _describe_loss(error)
    return "done", None


def _train(job: Job, config: Config, driver: _DriverPipe) -> None:
    """Run Ray Train on a thread, and relay the workers' events until training has ended.

    Raises:
        IvrError: An error that a retry would repeat.
        Exception: A part of Ray has died.
    """
    import ray

    from ivr_dist.orchestration import channel

    kind = cluster_kind()
    wait_s = config.run.wait_s if job.address else 0.0
    if not wait_for_resources(config.run.fewest_workers, kind, wait_s, driver.report, driver.stop.is_set):
        return
    driver.send("workers", None)
    driver.report(f"starting workers, one {kind} each")
    handle = channel.create()
    fit = _Fit()
    thread = threading.Thread(target=_run_fit, args=(job, config, handle, kind, fit), name="ivr-fit", daemon=True)
    thread.start()
    startup = _StartupReporter(driver.report, kind, config.run.fewest_workers)
    fatal: IvrError | None = None
    running = True
    while running and fatal is None:
        time.sleep(_POLL_S)
        running = thread.is_alive()
        if service := dead_service():
            raise ConnectionError(service)
        try:
            messages, fatal = ray.get(handle.pull.remote(driver.stop.is_set()), timeout=_PULL_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            continue
        events = [from_json(message) for message in messages]
        for event in events:
            driver.send("event", event)
        startup.update(events)
    if fatal is not None:
        raise fatal
    if fit.error is not None:
        raise _classify(fit.error)


class _StartupReporter:
    """Reports what the run waits for while workers start without sending events."""

    def __init__(self, report: Callable[[str], None], kind: str, fewest: int) -> None:
        self._report, self._kind, self._fewest = report, kind, fewest
        self._training = False
        self._last = time.monotonic()

    def update(self, events: Sequence[Event]) -> None:
        """Take the events of one poll; report if there have been none for long."""
        for event in events:
            self._training = not isinstance(event, Phase)
        if events or self._training:
            self._last = time.monotonic()
        elif time.monotonic() - self._last > _SILENCE_S:
            import ray

            have = ray.cluster_resources().get(self._kind, 0)  # type: ignore[no-untyped-call]
            if have < self._fewest:
                self._report(f"waiting for {self._fewest} {self._kind}s for the workers; the cluster has {have:.0f}")
            else:
                self._report(
                    "the workers are still starting: each imports PyTorch and DeepSpeed, and reads the data's index"
                )
            self._last = time.monotonic()


class _Fit:
    """The result of `_run_fit`."""

    error: BaseException | None = None


def _run_fit(job: Job, config: Config, handle: Any, kind: str, fit: _Fit) -> None:
    """Run Ray Train to its end; on its own thread, beside the exchange with the driver."""
    try:
        # The V2 classes from their own modules: what ray.train exports depends on the environment.
        from ray.train.torch import TorchConfig
        from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.v2.torch.torch_trainer import TorchTrainer

        from ivr_dist.orchestration.preemption import FailureReporter, NodeListRefresh, start_coordinator
        from ivr_dist.orchestration.worker import ray_entry

        start_coordinator()
        run, workers = config.run, config.run.num_workers
        remaining = run.max_failures if run.max_failures < 0 else run.max_failures - job.failures
        TorchTrainer(
            ray_entry,
            train_loop_config={
                "config": dict(job.config),
                "channel": handle,
                "attempts_before": job.attempts_before,
                "most_workers": run.most_workers,
                "use_gpu": kind == "GPU",
                "started": job.started,
                "code_folder": os.getcwd(),
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
                failure_config=FailureConfig(max_failures=remaining, controller_failure_limit=_MAX_START_FAILURES),
                logging_config=LoggingConfig(log_level="INFO" if job.debug else "ERROR"),
                callbacks=[
                    FailureReporter(handle, run.max_failures, job.failures),
                    *([] if isinstance(workers, int) else [NodeListRefresh()]),
                ],
            ),
        ).fit()
    except BaseException as error:  # the main thread raises it
        fit.error = error


def _classify(error: BaseException) -> BaseException:
    """Convert the error that ended Ray Train to one for the user; return it unchanged if a part of Ray has died."""
    from ray.exceptions import RayError

    if isinstance(error, RayError) or dead_service():
        return error
    cause = root_cause(error)
    if isinstance(cause, IvrError):
        return cause
    more = remedy_for(cause)
    return WorkerError(
        f"the workers failed too often: {describe(cause)}",
        remedy=f"{more + '; ' if more else ''}the same command continues from the last checkpoint; --debug shows the "
        "workers' logs",
    )
