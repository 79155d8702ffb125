"""What one worker runs: from a config and a place in a process group to a trained, evaluated run."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ivr_dist import attempts, collectives, device, evaluate, resume, storage
from ivr_dist.callbacks import AuditLedger, Callback, Curves, History, Progress
from ivr_dist.checkpoint import store, weights
from ivr_dist.checkpoint.saver import Saver
from ivr_dist.config import Config, DataConfig
from ivr_dist.config_file import from_dict, to_dict
from ivr_dist.console import Console
from ivr_dist.data.collate import BatchSpec
from ivr_dist.data.fetch import open_fetcher
from ivr_dist.data.loader import Loader
from ivr_dist.data.manifest import Manifest
from ivr_dist.data.reader import ShardReader
from ivr_dist.data.streamed import StreamReader
from ivr_dist.engine import Engine
from ivr_dist.errors import IvrError, UserError
from ivr_dist.ledger import AUDIT, HISTORY, LedgerWriter
from ivr_dist.loop import Ending, Split, Trainer
from ivr_dist.model import ModelSpec, build_model
from ivr_dist.plan import Plan, make_plan
from ivr_dist.pretrained import TextEncoder
from ivr_dist.sinks import TensorBoard
from ivr_dist.units import parse_bytes

# How long a worker that has reported a fatal error waits for the driver to end the run before Ray is told.
_FATAL_GRACE_S = 30.0


def ray_entry(payload: dict[str, Any]) -> None:
    """The function Ray Train runs in each worker.

    An explained error goes to the driver, which ends the run: it would be the same on every retry. Any other error is
    Ray's to see, so that it restarts the group.
    """
    import ray.train

    from ivr_dist.channel import ChannelConsole

    console = ChannelConsole(payload["channel"])
    try:
        train(
            from_dict(payload["config"]), console, ray.train.get_context().get_local_rank(), payload["attempts_before"]
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
    with tempfile.TemporaryDirectory(prefix="ivr-group-") as scratch:
        torch.distributed.init_process_group(
            device.backend(), init_method=f"file://{scratch}/store", rank=0, world_size=1
        )
        try:
            train(config, console, 0, len(attempts.read_attempts(storage.absolute(config.run.dir))))
        finally:
            torch.distributed.destroy_process_group()


def train(config: Config, console: Console, local_rank: int, attempts_before: int) -> None:
    """Run one attempt to its end; every rank of an existing process group calls it.

    Args:
        config: The run's config.
        console: Where rank 0 tells what happens.
        local_rank: This worker's number on its node.
        attempts_before: Attempts of the run when its driver started: a later one is a retry, which continues whatever
            `run.resume` says.

    Raises:
        IvrError: The run cannot go on.
    """
    device.tune_memory()
    device.deterministic()
    world = collectives.world_size()
    run_url = storage.absolute(config.run.dir)
    manifests = {name: Manifest.load(url) for name, url in _split_urls(config).items()}
    plan = make_plan(config, manifests["train"].samples, world, manifests["train"].total_bytes)

    def note(said: str) -> None:
        console.emit({"kind": "note", "text": said})

    text = TextEncoder(config.model.text.pretrained) if config.model.text.pretrained else None
    spec = BatchSpec.from_manifest(
        manifests["train"],
        config.data.modalities,
        config.data.standardize,
        common_length=config.model.preset == "release",
        text=text,
        note=note,
    )

    torch.manual_seed(config.run.seed)
    engine = Engine(
        build_model(config.model, ModelSpec(spec.modalities, spec.tasks, text), config.loss.adversary.reverse),
        plan.deepspeed,
        weight_decay=config.train.weight_decay,
        device=device.training_device(local_rank),
        backend=config.train.compile,
    )
    state = weights.describe_model(config, spec) | {"world": world, "stage": engine.stage}
    source = collectives.on_rank_zero(lambda: resume.find(config, run_url, state, attempts_before))
    files = weights.text_files(text) if collectives.rank() == 0 else {}
    with _splits(config, plan, manifests, spec, note) as splits:
        counters, cursor = resume.restore(splits["train"].loader.start, engine, source)
        attempt = _start_attempt(config, run_url, source.parent, counters.step, plan, engine)
        spans = attempts.lineage(collectives.on_rank_zero(lambda: attempts.read_attempts(run_url)))
        trainer = Trainer(
            config=config,
            plan=plan,
            engine=engine,
            loader=splits["train"].loader,
            valid=splits.get("valid"),
            saver=Saver(run_url, attempt.number, spans, config.checkpoint.keep_last, engine, files),
            state=state,
            counters=counters,
            cursor=cursor,
            saved=source.own,
            callbacks=_callbacks(config, plan, run_url, attempt.number, counters.step, console, splits["train"].loader),
            console=console,
        )
        _announce(console, attempt, plan, engine, source.notes)
        ending = trainer.run()
        if ending != "stopped":
            _conclude(config, run_url, trainer, splits, attempt.number, ending)


def _split_urls(config: Config) -> dict[str, str]:
    urls = {"train": config.data.train, "valid": config.data.valid, "test": config.data.test}
    return {name: url for name, url in urls.items() if url}


def _start_attempt(
    config: Config, run_url: str, parent: int | None, step: int, plan: Plan, engine: Engine
) -> attempts.Attempt:
    """Take an attempt number, and make sure that every worker sees the same storage."""
    workers = collectives.gather(f"{os.uname().nodename}:{os.getpid()}")

    def allocate() -> attempts.Attempt:
        storage.write_json(storage.join(run_url, "run.json"), {"config": to_dict(config)})
        # A run that trains again has no result until it ends.
        storage.delete_tree(storage.join(run_url, "result.json"))
        return attempts.allocate(
            run_url,
            parent=parent,
            step=step,
            stage=engine.stage,
            steps_per_epoch=plan.steps_per_epoch,
            workers=workers,
        )

    attempt = collectives.on_rank_zero(allocate)
    error = None
    if not attempts.exists(run_url, attempt.number):
        error = UserError(
            f"worker {collectives.rank()} on {os.uname().nodename} does not see the run directory of worker 0",
            where=run_url,
            remedy="set run.dir to a URL or a directory that all nodes share",
        )
    collectives.raise_together(error)
    return attempt


@contextmanager
def _splits(
    config: Config, plan: Plan, manifests: dict[str, Manifest], spec: BatchSpec, note: Callable[[str], None]
) -> Iterator[dict[str, Split]]:
    """A loader for each split, closed at the end."""
    data = config.data
    with ExitStack() as stack:
        splits = {}
        for name, url in _split_urls(config).items():
            reader = _open_reader(data, url, manifests[name], note)
            loader = Loader(
                reader,
                spec,
                global_batch=plan.global_batch,
                accumulation=plan.accumulation,
                lanes=plan.lanes,
                delay=plan.delay,
                seed=config.run.seed,
                rank=collectives.rank(),
                world=plan.world,
                prefetch=data.prefetch,
                by_length=data.by_length,
                skip=data.on_error == "skip",
                pin=device.available(),
            )
            splits[name] = Split(name, manifests[name], stack.enter_context(loader))
        yield splits


def _open_reader(data: DataConfig, url: str, manifest: Manifest, note: Callable[[str], None]) -> ShardReader:
    cache_bytes, fetcher = parse_bytes(data.cache_bytes), open_fetcher(data, note)
    if data.reader == "ranges":
        return ShardReader(url, manifest, cache_bytes, fetcher)
    note("data.reader=webdataset: shards are read whole by each worker, without checksums and without reading ahead")
    return StreamReader(url, manifest, cache_bytes, fetcher, data.pipe)


def _callbacks(
    config: Config, plan: Plan, run_url: str, attempt: int, step: int, console: Console, loader: Loader
) -> list[Callback]:
    rank = collectives.rank()
    callbacks: list[Callback] = []
    if config.run.audit:
        callbacks.append(AuditLedger(LedgerWriter(run_url, AUDIT, attempt, rank)))
    if rank == 0:
        callbacks.append(History(LedgerWriter(run_url, HISTORY, attempt, rank)))
        callbacks.append(Progress(console, total_steps=plan.total_steps, period_s=config.log.console_s))
        callbacks.append(Curves(TensorBoard(run_url, step + 1), config.log.every, loader.meters))
    return callbacks


def _announce(console: Console, attempt: attempts.Attempt, plan: Plan, engine: Engine, notes: Sequence[str]) -> None:
    if collectives.rank() != 0:
        return
    for note in notes:
        console.emit({"kind": "note", "text": note})
    console.emit(
        {
            "kind": "start",
            "attempt": attempt.number,
            "step": attempt.step,
            "total_steps": plan.total_steps,
            "world": attempt.world,
            "stage": attempt.stage,
            "parameters": engine.num_parameters(),
        }
    )


def _conclude(
    config: Config, run_url: str, trainer: Trainer, splits: dict[str, Split], attempt: int, ending: Ending
) -> None:
    """Score the selected checkpoint on validation and, once, on test; write the run's result."""
    best = trainer.counters.best_checkpoint if config.train.select == "best" else None
    # Forking from an older checkpoint can leave a best one behind that retention has deleted since.
    if best is None or best not in map(str, store.names(run_url)):
        best = trainer.saved
    assert best is not None
    url = storage.join(run_url, "checkpoints", best)
    model = weights.load_model(url).to(trainer.engine.device).eval()
    metrics = {}
    for split in (splits[name] for name in ("valid", "test") if name in splits):
        predictions = evaluate.predict(
            model, split.loader.eval_batches(), split.manifest.samples, trainer.engine.device
        )
        metrics[split.name] = evaluate.score(predictions, split.manifest.corpus, split.manifest.tasks)
    if collectives.rank() == 0:
        result = {
            "run": run_url,
            "status": ending,
            "checkpoint": url,
            "steps": trainer.counters.step,
            "total_steps": trainer.plan.total_steps,
            "attempts": attempt,
            "metrics": metrics,
        }
        storage.write_json(storage.join(run_url, "result.json"), result)
