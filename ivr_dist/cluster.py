"""Ray: find or start a cluster, run the worker group on it, and end everything that was started here."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ivr_dist import device, storage
from ivr_dist.attempts import read_attempts
from ivr_dist.config import Config
from ivr_dist.config_file import to_dict
from ivr_dist.console import Event, LocalConsole
from ivr_dist.environment import storage_variables
from ivr_dist.errors import IvrError, UserError, WorkerError
from ivr_dist.foreign_errors import describe, remedy_for, root_cause

T = TypeVar("T")

_POLL_S = 0.25

# Ray reads these when its processes start. A dead worker or host is noticed in about a second instead of many.
FAST_FAILURE_DETECTION: Mapping[str, str] = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
}
_TRAIN_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}

# After a loss the elastic policy may ask for machines that are gone: it soon finds out, and asks for fewer.
_ELASTIC_SETTINGS = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}
_MOST_STARTS = 10
"""Times in a row that a group may fail to start for want of machines, 60 s each if its size is fixed."""
_SILENCE_S = 30.0


def run_on_ray(config: Config, console: LocalConsole, debug: bool, started: float) -> None:
    """Run the workers to their end, on the cluster that `RAY_ADDRESS` names or on one started here.

    Args:
        config: The run's config.
        console: Prints the workers' events; its `stop` asks them to end after a checkpoint.
        debug: Let Ray print worker logs and failure details.
        started: Unix time when the command was given.

    Raises:
        IvrError: The error that ended the run.
    """
    settings = _TRAIN_SETTINGS if isinstance(config.run.num_workers, int) else _TRAIN_SETTINGS | _ELASTIC_SETTINGS
    os.environ.update({name: os.environ.get(name, value) for name, value in settings.items()})
    address = os.environ.get("RAY_ADDRESS")
    _say(
        console, f"connecting to the Ray cluster at {address}" if address else "starting a Ray cluster on this machine"
    )
    with connected(config.run.most_workers, debug):
        import ray

        from ivr_dist import channel

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        use_gpu = device.cluster_has_gpus(resources)
        kind = "GPU" if use_gpu else "CPU"
        _check_resources(config, resources, kind)
        _say(console, f"starting workers, a {kind} each")
        handle = channel.create()
        outcome = _Outcome()
        thread = threading.Thread(
            target=_fit, args=(config, handle, use_gpu, debug, started, outcome), name="ivr-fit", daemon=True
        )
        thread.start()
        silence = _Silence(console, kind, config.run.fewest_workers)
        while thread.is_alive():
            time.sleep(_POLL_S)
            events, fatal = ray.get(handle.pull.remote(console.stop.is_set()))
            for event in events:
                console.emit(event)
            silence.heard(events)
            if fatal is not None:
                raise fatal
        events, fatal = ray.get(handle.pull.remote(False))
        for event in events:
            console.emit(event)
        if fatal is not None or outcome.error is not None:
            raise fatal or _explain(outcome.error)


def _say(console: LocalConsole, text: str) -> None:
    console.emit({"kind": "phase", "text": text})


class _Silence:
    """Tells the user what is waited for while no worker says anything and none is training."""

    def __init__(self, console: LocalConsole, kind: str, fewest: int) -> None:
        self._console, self._kind, self._fewest = console, kind, fewest
        self._training = False
        self._last = time.monotonic()

    def heard(self, events: Sequence[Event]) -> None:
        """Take note of what came, and speak if nothing did for long."""
        for event in events:
            self._training = event["kind"] != "phase"
        if events or self._training:
            self._last = time.monotonic()
        elif time.monotonic() - self._last > _SILENCE_S:
            import ray

            have = ray.cluster_resources().get(self._kind, 0)  # type: ignore[no-untyped-call]
            enough = have >= self._fewest
            missing = f"{self._fewest} {self._kind}s are needed, the cluster has {have:.0f}"
            _say(self._console, "workers are still starting" if enough else f"waiting for workers: {missing}")
            self._last = time.monotonic()


class _Outcome:
    error: BaseException | None = None


def _fit(config: Config, handle: Any, use_gpu: bool, debug: bool, started: float, outcome: _Outcome) -> None:
    """Run Ray Train; on a thread of its own, because `fit` on the main thread swallows Ctrl-C."""
    try:
        # The V2 classes by their own names: ray.train exports them or V1's, as the environment says.
        from ray.train.torch import TorchConfig
        from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.v2.torch.torch_trainer import TorchTrainer

        from ivr_dist.surroundings import FailureTeller, FreshMachines, start_coordinator
        from ivr_dist.worker import ray_entry

        start_coordinator()
        run, workers = config.run, config.run.num_workers
        TorchTrainer(
            ray_entry,
            train_loop_config={
                "config": to_dict(config),
                "channel": handle,
                "attempts_before": len(read_attempts(storage.absolute(run.dir))),
                "most_workers": run.most_workers,
                "use_gpu": use_gpu,
                "started": started,
            },
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers if isinstance(workers, int) else (run.fewest_workers, run.most_workers),
                use_gpu=use_gpu,
                resources_per_worker=_resources(use_gpu),
                elastic_resize_monitor_interval_s=run.resize_s,
            ),
            run_config=RunConfig(
                name=f"ray-{int(time.time())}",
                storage_path=storage.join(storage.absolute(run.dir), "ray"),
                failure_config=FailureConfig(max_failures=run.max_failures, controller_failure_limit=_MOST_STARTS),
                logging_config=LoggingConfig(log_level="INFO" if debug else "ERROR"),
                callbacks=[
                    FailureTeller(handle, run.max_failures),
                    *([] if isinstance(workers, int) else [FreshMachines()]),
                ],
            ),
        ).fit()
    except BaseException as error:  # the main thread raises it
        outcome.error = error


def on_head(work: Callable[[], T]) -> T:
    """What `work` returns on the head node of the connected cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [
        node["NodeID"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and "node:__internal_head__" in node["Resources"]
    ]
    strategy = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    found: T = ray.get(ray.remote(work).options(num_cpus=0, scheduling_strategy=strategy).remote())
    return found


def _resources(use_gpu: bool) -> dict[str, float]:
    return {"CPU": 1, "GPU": 1} if use_gpu else {"CPU": 1}


def _check_resources(config: Config, resources: dict[str, float], kind: str) -> None:
    have = int(resources.get(kind, 0))
    if have < config.run.fewest_workers:
        raise UserError(
            f"run.num_workers={config.run.fewest_workers} needs as many {kind}s, and the Ray cluster has {have}",
            remedy=f"use --num-workers {have}" if have else f"add nodes with {kind}s to the cluster",
        )


@contextmanager
def connected(workers: int, debug: bool) -> Iterator[None]:
    """Connect to the cluster that `RAY_ADDRESS` names, or to one started here that ends with the context.

    Args:
        workers: How many processors a cluster of our own has at least.
        debug: Let Ray print worker logs.

    Raises:
        UserError: No cluster could be reached or started.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    scratch = ""
    options: dict[str, Any] = {"log_to_driver": debug, "logging_level": "INFO" if debug else "ERROR"}
    if address:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
            options["runtime_env"] = {"env_vars": storage_variables(os.environ)}
    else:
        # A cluster of our own: its sockets in a folder of its own, and a token only this run knows.
        scratch = tempfile.mkdtemp(prefix="ivr-ray-")
        os.environ.update(FAST_FAILURE_DETECTION)
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(16), RAY_USAGE_STATS_ENABLED="0")
        address = "local"
        options.update(
            num_cpus=max(workers, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=100 * 1024**2,
            _temp_dir=scratch,
        )
    import ray

    try:
        ray.init(address=address, **options)
    except Exception as error:  # ray.init raises them bare when a process of the cluster does not come up in time
        shutil.rmtree(scratch, ignore_errors=True)
        raise UserError(
            f"no Ray cluster could be reached or started: {describe(error)}",
            where=f"RAY_ADDRESS={address}",
            remedy="check the address, or unset RAY_ADDRESS to use this machine alone",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _explain(error: BaseException | None) -> IvrError:
    """The cause behind Ray's wrapping, as one line."""
    cause = root_cause(error)
    if isinstance(cause, IvrError):
        return cause
    more = remedy_for(cause)
    return WorkerError(
        f"the workers failed for good: {describe(cause)}",
        remedy=f"{more + '; ' if more else ''}the same command continues from the last checkpoint; --debug shows the "
        "workers' logs",
    )
