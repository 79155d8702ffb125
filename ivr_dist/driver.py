"""The driver of a run: checks what can be checked before workers start, starts them, and tells what they do.

Ray Train restarts the worker group after a failure; everything else (which checkpoint counts, what was trained on,
when to stop) is decided in storage and by the workers, so a driver that dies loses nothing either.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, TextIO

from ivr_dist import goodput, metrics, storage
from ivr_dist.config import Config
from ivr_dist.console import LocalConsole
from ivr_dist.data.labelled import check_labels
from ivr_dist.data.manifest import Manifest
from ivr_dist.errors import ConfigError, DataError, IvrError, StorageError, UserError
from ivr_dist.lease import hold
from ivr_dist.ledger import HISTORY, read_counting
from ivr_dist.plan import Plan, describe, make_plan
from ivr_dist.pretrained import TextEncoder, check_source, local_folder
from ivr_dist.report import print_metrics, print_result, print_rows
from ivr_dist.status import status

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def preflight(config: Config, world: int) -> tuple[Plan, dict[str, Manifest]]:
    """Everything that can be wrong without a worker: data sets, their shards, and how they fit the plan.

    Returns:
        The plan at this world size, and the manifests by split.

    Raises:
        UserError: Something cannot work as given.
    """
    manifests = {}
    for split, url in (("train", config.data.train), ("valid", config.data.valid), ("test", config.data.test)):
        if url:
            manifests[split] = Manifest.load(url)
            # What a command gives need not be beside the manifest.
            manifests[split].check_shards(url, tars=not config.data.pipe)
    plan = make_plan(config, manifests["train"].samples, world, manifests["train"].total_bytes)
    for split, manifest in manifests.items():
        differing = [
            m for m in config.data.modalities if manifest.features.get(m) != manifests["train"].features.get(m)
        ]
        if differing or manifest.tasks != manifests["train"].tasks:
            raise DataError(
                f"the {split} split has other {differing[0] + ' features' if differing else 'tasks'} than train",
                where=getattr(config.data, split),
                remedy="pack all splits of a corpus in one run of `ivr-dist pack`",
            )
    check_labels(manifests, config.loss.tasks, selects=config.train.select == "best")
    _check_monitor(config, manifests.get("valid"))
    if config.model.text.pretrained:
        check_source(config.model.text.pretrained)
        for manifest in manifests.values():
            manifest.check_transcripts()
    return plan, manifests


def _check_monitor(config: Config, valid: Manifest | None) -> None:
    if valid is None or not config.train.monitor:
        return
    known = [f"valid/{name}" for name in metrics.names(valid.corpus, valid.tasks)]
    asked = f"valid/{config.train.monitor.removeprefix('valid/')}"
    if asked not in known:
        raise ConfigError(
            f"train.monitor = {config.train.monitor} is not a metric of the validation split",
            where=config.data.valid,
            remedy=f"use one of {', '.join(known)}",
        )


def count_parameters(config: Config, train: Manifest) -> int:
    """Trainable parameters of the model for a training split; no memory is taken for them.

    Raises:
        DataError: The split does not hold what the config asks for.
        ConfigError: The pretrained text encoder cannot be described.
    """
    import torch

    from ivr_dist.data.collate import BatchSpec
    from ivr_dist.model import ModelSpec, build_model

    source = config.model.text.pretrained
    text = TextEncoder(source, weights=False) if source else None
    spec = BatchSpec.from_manifest(train, config.data.modalities, [], text=text)
    with torch.device("meta"):
        model = build_model(config.model, ModelSpec(spec.modalities, spec.tasks, text))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def train(config: Config, *, json_output: bool = False, debug: bool = False) -> int:
    """Train, evaluate, and tell how it went.

    Args:
        config: The run's config.
        json_output: End with one JSON object on stdout; everything else goes to stderr.
        debug: Show tracebacks of workers.

    Returns:
        The exit code: 0 done, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        IvrError: The run failed.
    """
    config = _absolute(config)
    stream = sys.stderr if json_output else sys.stdout
    started = time.time()
    plan, manifests = preflight(config, config.run.world_sizes[-1])
    train_split = manifests["train"]
    for world in config.run.world_sizes[:-1]:
        # With other numbers of workers it must fit as well.
        make_plan(config, train_split.samples, world, train_split.total_bytes)
    run_url = config.run.dir
    _check_run_dir(run_url)
    result = finished_result(run_url, plan.total_steps) if config.run.resume == "auto" else None
    if result is None:
        print_rows(describe(plan, config, None), stream)
        code, console = _execute(config, stream, debug, started)
        print_rows(goodput.rows(console.time_spent), stream)
        if console.how == "stop file":
            print(f"ended by {control_file(run_url)}; the same command continues this run", file=stream)
            if json_output:
                print(json.dumps(_stopped(run_url)))
            return 0
        if code:
            print(f"stopped; the same command continues this run: {config.run.dir}", file=stream)
            return code
        result = finished_result(run_url, plan.total_steps)
        if result is None:
            raise IvrError("the workers ended without a result", where=run_url, remedy="run again with --debug")
    else:
        print(
            f"this run is complete already ({result['steps']} steps); "
            "choose another run.dir, or run.resume=never to train it anew",
            file=stream,
        )
    print_result(result, stream)
    if json_output:
        print(json.dumps({**result, "loss": loss_curve(run_url)}))
    return 0


def _stopped(run_url: str) -> dict[str, Any]:
    """What `train --json` says of a run that its stop file has ended."""
    found = status(run_url)
    return {
        "run": run_url,
        "status": "stopped",
        "checkpoint": found["checkpoint"],
        "steps": found["step"],
        "total_steps": found["total_steps"],
        "attempts": found["attempts"],
        "metrics": {},
        "loss": loss_curve(run_url),
    }


def _check_run_dir(run_url: str) -> None:
    """Find out before the workers start that a run directory cannot be made."""
    try:
        storage.make_dirs(run_url)
    except StorageError as error:
        raise UserError(
            f"run.dir cannot be used: {error.what}", where=storage.display(run_url), remedy="choose another run.dir"
        ) from error


def _absolute(config: Config) -> Config:
    """The config with every place written so that it means the same in a worker's working directory."""

    def place(url: str) -> str:
        return storage.absolute(url) if url else ""

    data, run, text = config.data, config.run, config.model.text
    if folder := local_folder(text.pretrained):
        text = replace(text, pretrained=str(folder.resolve()))
    resume = run.resume if run.resume in ("auto", "never") else place(run.resume)
    return replace(
        config,
        data=replace(data, train=place(data.train), valid=place(data.valid), test=place(data.test)),
        run=replace(run, dir=place(run.dir), resume=resume),
        model=replace(config.model, text=text),
    )


def evaluate(
    checkpoint: str,
    *,
    shards: str | None = None,
    split: str = "test",
    num_workers: int | None = None,
    json_output: bool = False,
) -> int:
    """Score a checkpoint and print its metrics.

    Args:
        checkpoint: Its directory or URL.
        shards: The packed split to score; None for the run's own.
        split: Which of the run's own splits.
        num_workers: Processes of this machine that share the work; None for one.
        json_output: Print one JSON object instead of a table.
    """
    from ivr_dist.checkpoint.store import read_state
    from ivr_dist.scoring import score_checkpoint

    url = storage.absolute(checkpoint)
    if shards is None:
        data = read_state(url)["config"]["data"]
        shards = data.get(split, "")
        if not shards:
            raise DataError(
                f"the run had no {split} split", where=url, remedy="give one with --shards, or another --split"
            )
    found = score_checkpoint(url, storage.absolute(shards), num_workers or 1)
    if json_output:
        print(json.dumps({"checkpoint": url, "shards": shards, "metrics": found}))
    else:
        print_metrics({split: found}, sys.stdout)
    return 0


def finished_result(run_url: str, total_steps: int) -> dict[str, Any] | None:
    """The result of a run that was trained to its end: to `total_steps`, or until patience ended."""
    url = storage.join(run_url, "result.json")
    if not storage.exists(url):
        return None
    result: dict[str, Any] = storage.read_json(url)
    return result if result["total_steps"] == total_steps else None


def loss_curve(run_url: str) -> list[tuple[int, float]]:
    """[step, loss] of every step that counts, over all attempts."""
    records = (record for _, _, record in read_counting(run_url, HISTORY))
    return sorted((record["step"], record["loss"]) for record in records if "loss" in record)


def _execute(config: Config, stream: TextIO, debug: bool, started: float) -> tuple[int, LocalConsole]:
    """Run the workers; returns the exit code that a signal asked for, and what was told."""
    console = LocalConsole(stream)
    with hold(config.run.dir, console) as lost, _signals(console.stop) as received:
        # A wish of earlier times; whoever starts the run now wants it to go on.
        storage.delete_tree(control_file(config.run.dir))
        if config.run.most_workers == 0:
            from ivr_dist.worker import run_in_process

            run_in_process(config, console)
        else:
            from ivr_dist.cluster import run_on_ray

            run_on_ray(config, console, debug, started)
    if lost.error is not None:
        raise lost.error
    return received.code, console


def control_file(run_url: str) -> str:
    """The file whose presence ends the run after a checkpoint."""
    return storage.join(run_url, "stop")


class _Received:
    """The exit code that a signal asked for; 0 if none came."""

    code = 0


@contextmanager
def _signals(stop: threading.Event) -> Iterator[_Received]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop, and the second one into an immediate end."""
    received = _Received()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        received.code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED
        print("stopping after a checkpoint; once more to stop at once", file=sys.stderr, flush=True)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
