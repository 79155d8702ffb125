"""One attempt on one rank: from a config and a place in a process group to a trained, evaluated run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from ivr_dist import storage
from ivr_dist.checkpoint import weights
from ivr_dist.config import Config, DataConfig
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.loader import Loader
from ivr_dist.data.reading.fetcher import open_fetcher
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.reading.stream_reader import StreamReader
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.errors import CheckpointError, UserError
from ivr_dist.evaluation import evaluate
from ivr_dist.inspection.existing_run import check_length, record
from ivr_dist.model.build import build_model, recompute_layers
from ivr_dist.model.spec import ModelSpec
from ivr_dist.model.text_encoder import TextEncoder
from ivr_dist.planning.label_check import label_notes
from ivr_dist.planning.model_inputs import reading
from ivr_dist.planning.plan import Plan, make_plan
from ivr_dist.planning.run_identity import Asked, Change, ids
from ivr_dist.run import attempts
from ivr_dist.run.events import AttemptStarted, Console, Note, Phase, TimeSpent
from ivr_dist.run.goodput import Stopwatch
from ivr_dist.run.ledger import LedgerWriter
from ivr_dist.run.paths import AUDIT, HISTORY, RunPaths
from ivr_dist.runtime import collectives, device
from ivr_dist.shards.manifest import Manifest
from ivr_dist.training import resume
from ivr_dist.training.callbacks.base import Callback
from ivr_dist.training.callbacks.event_files import TensorBoard
from ivr_dist.training.callbacks.ledgers import AuditLedger, History
from ivr_dist.training.callbacks.progress import ProgressLine
from ivr_dist.training.callbacks.run_monitor import RunMonitor
from ivr_dist.training.callbacks.tensorboard import TensorBoardCurves
from ivr_dist.training.checkpointer import Checkpointer
from ivr_dist.training.rank_agreement import ClusterEvents, RankAgreement
from ivr_dist.training.trainer import Ending, Split, Trainer, TrainerServices
from ivr_dist.training.watchdog import Watchdog
from ivr_dist.units import parse_bytes

_HANG_FACTOR = 20.0


@dataclass(frozen=True)
class SkippedSteps:
    """Steps that are not trained because one of them was at fault."""

    before: int
    """The checkpoint gone back to has at most so many steps."""
    step: int
    """The last one."""
    faults: int
    """Faults of the run so far."""


class AttemptRun:
    """What an attempt needs on one rank, and in `run` what it does with it.

    Args:
        config: The run's config.
        console: Where rank 0 tells what happens.
        local_rank: This worker's number on its node.
        cluster_events: What is known of the machines.
    """

    def __init__(self, config: Config, console: Console, local_rank: int, cluster_events: ClusterEvents | None) -> None:
        self.config = config
        self.console = console
        self.local_rank = local_rank
        self.cluster_events = cluster_events
        self.run_url = storage.absolute(config.run.dir)
        self.rank, self.world = collectives.rank(), collectives.world_size()
        self.manifests = {name: Manifest.load(url) for name, url in _split_urls(config).items()}
        train = self.manifests["train"]
        self.plan = make_plan(config, train.samples, self.world, train.total_bytes)
        self.text = TextEncoder(config.model.text.pretrained) if config.model.text.pretrained else None
        self.spec = BatchSpec.from_manifest(
            train,
            config.data.modalities,
            config.data.standardize,
            common_length=config.model.preset == "release",
            text=self.text,
            note=self.note,
        )
        self.left_out: SkippedSteps | None = None
        """After `run` returned `rollback`: what the next attempt must not train again."""

    def note(self, said: str) -> None:
        """One line for the user."""
        self.console.emit(Note(said))

    def run(self, attempts_before: int, began: float, left_out: SkippedSteps | None = None) -> Ending:
        """The attempt, from finding a checkpoint to the scores; a collective call.

        Args:
            attempts_before: Attempts of the run when its driver started: a later one is a retry, which continues
                whatever `run.resume` says.
            began: Unix time from which on the attempt's time counts.
            left_out: Steps to go on after without training them.

        Raises:
            IvrError: The run cannot go on.
        """
        # From here on: a worker can hang while it reads a checkpoint, or waits for one that does.
        watchdog = Watchdog(
            self.run_url,
            f"worker-{self.rank:05d}-pid-{os.getpid()}",
            least_s=self.config.run.hang_after_s,
            factor=_HANG_FACTOR,
            tell=self.note,
        )
        try:
            return self._run(attempts_before, Stopwatch(began), watchdog, left_out)
        finally:
            watchdog.close()

    def _run(
        self, attempts_before: int, stopwatch: Stopwatch, watchdog: Watchdog, left_out: SkippedSteps | None
    ) -> Ending:
        config, plan = self.config, self.plan
        here = Asked(config, ids(self.manifests))
        state = weights.initial_state(
            config, self.spec, manifests=here.manifests, world=self.world, stage=config.zero.stage
        )
        before = None if left_out is None else left_out.before
        source = resume.find(config, self.run_url, state, attempts_before, before)
        changed = resume.changes(source, here, self.manifests["train"])
        if source.state is None:
            self._say("starting from scratch")
        else:
            self._say(f"continuing from {source.own or source.url}")
            self._say(f"changed        {', '.join(map(str, changed))}" if changed else "nothing changed")
        watchdog.moved()
        engine = self._engine(source)
        watchdog.moved()
        with _splits(config, plan, self.manifests, self.spec, self.note) as splits:
            loader = splits["train"].loader
            counters, cursor = resume.position(loader.start, source)
            if left_out is not None:
                counters = replace(counters, faults=left_out.faults)
            check_length(counters.step, plan.total_steps, self.run_url)
            attempt = _start_attempt(
                self.run_url, record(config, self.manifests), source.parent, counters.step, plan, engine, changed
            )
            with self._helpers(attempt, stopwatch, watchdog, engine, loader, source) as (services, end):
                trainer = Trainer(
                    config, plan, engine, loader, splits.get("valid"), state, counters, cursor, source.own, services
                )
                self._announce(attempt, engine, source.notes)
                if left_out is not None:
                    self._leave_out(left_out, trainer)
                ending = trainer.run()
                if ending in ("finished", "early"):
                    _conclude(config, self.run_url, trainer, splits, attempt.number, ending)
                    stopwatch.lap("evaluation")
                end(ending)
        if ending == "rollback":
            reached = trainer.counters
            self.left_out = SkippedSteps(reached.step - config.train.rollback_steps, reached.step, reached.faults)
        return ending

    def _engine(self, source: resume.Resume) -> Engine:
        """The model under DeepSpeed, as the checkpoint has it or as the seed makes it."""
        config = self.config
        torch.manual_seed(config.run.seed)
        spec = ModelSpec(self.spec.modalities, self.spec.tasks, self.text)
        model = build_model(config.model, spec, config.loss)
        if config.train.recompute:
            recompute_layers(model)
        if source.url:
            collectives.run_on_all_ranks(lambda: weights.load_weights(model, source.url, verified=True))
        engine = Engine(
            model,
            self.plan.deepspeed,
            weight_decay=config.train.weight_decay,
            device=device.training_device(self.local_rank),
            backend=config.train.compile,
        )
        collectives.run_on_all_ranks(lambda: resume.restore_optimizer(engine, source))
        return engine

    @contextmanager
    def _helpers(
        self,
        attempt: attempts.Attempt,
        stopwatch: Stopwatch,
        watchdog: Watchdog,
        engine: Engine,
        loader: Loader,
        source: resume.Resume,
    ) -> Iterator[tuple[TrainerServices, Callable[[Ending], None]]]:
        """What stands beside training, and whom to tell how it ended; all of it is closed at the end."""
        config, number = self.config, attempt.number
        spans = attempts.lineage(collectives.on_rank_zero(lambda: attempts.read_attempts(self.run_url)))
        control = RankAgreement(self.run_url, self.rank, self.world, self.console, self.cluster_events)
        saver = Checkpointer(
            self.run_url,
            number,
            spans,
            engine,
            keep_last=config.checkpoint.keep_last,
            keep_every=self.plan.keep_every,
            files=weights.text_files(self.text) if self.rank == 0 else {},
            asynchronous=config.checkpoint.asynchronous,
            token=f"{attempt.started:.6f}",
        )
        monitor = None
        if self.rank == 0:
            monitor = RunMonitor(self.run_url, attempt, spans, stopwatch, self.plan.total_steps, source.state)
        callbacks = self._callbacks(attempt, loader, monitor)
        how: list[Ending] = []
        try:
            yield TrainerServices(control, watchdog, stopwatch, saver, callbacks, self.console), how.append
        finally:
            control.close()
            if monitor is not None:
                monitor.close(how[0] if how else "")
                self.console.emit(TimeSpent(monitor.time_spent(), how[0] if how else ""))

    def _callbacks(self, attempt: attempts.Attempt, loader: Loader, monitor: RunMonitor | None) -> list[Callback]:
        config, number = self.config, attempt.number
        callbacks: list[Callback] = []
        if config.run.audit:
            callbacks.append(AuditLedger(LedgerWriter(self.run_url, AUDIT, number, self.rank)))
        if monitor is not None:
            callbacks.append(History(LedgerWriter(self.run_url, HISTORY, number, self.rank)))
            callbacks.append(
                ProgressLine(self.console, total_steps=self.plan.total_steps, period_s=config.log.console_s)
            )
            board = TensorBoard(self.run_url, attempt.step + 1, self.note)
            if attempt.changed:
                lines = [f"{key}: {there} -> {here}" for key, (there, here) in attempt.changed.items()]
                board.text("changed", "  \n".join(lines), attempt.step)
            callbacks.append(TensorBoardCurves(board, config.log.every, loader.meters, monitor.time_spent))
            callbacks.append(monitor)
        return callbacks

    def _leave_out(self, left_out: SkippedSteps, trainer: Trainer) -> None:
        self._say(f"steps {trainer.counters.step + 1} to {left_out.step} are left out")
        collectives.run_on_all_ranks(lambda: trainer.leave_out(left_out.step))

    def _say(self, said: str) -> None:
        if self.rank == 0:
            self.console.emit(Phase(said))

    def _announce(self, attempt: attempts.Attempt, engine: Engine, notes: Sequence[str]) -> None:
        if self.rank != 0:
            return
        for note in (*notes, *label_notes(self.manifests)):
            self.note(note)
        self.console.emit(
            AttemptStarted(
                attempt=attempt.number,
                step=attempt.step,
                total_steps=self.plan.total_steps,
                world=attempt.world,
                stage=attempt.stage,
                parameters=engine.num_parameters(),
            )
        )


def _split_urls(config: Config) -> dict[str, str]:
    urls = {"train": config.data.train, "valid": config.data.valid, "test": config.data.test}
    return {name: url for name, url in urls.items() if url}


def _start_attempt(
    run_url: str,
    run: Mapping[str, Any],
    parent: int | None,
    step: int,
    plan: Plan,
    engine: Engine,
    changed: Sequence[Change],
) -> attempts.Attempt:
    """Take an attempt number, and make sure that every worker sees the same storage."""
    workers = collectives.gather(f"{os.uname().nodename}:{os.getpid()}")

    def allocate() -> attempts.Attempt:
        # A run that trains again has no result until it ends; and a result is of the config that run.json holds.
        storage.delete_tree(RunPaths(run_url).result)
        storage.write_json(RunPaths(run_url).record, dict(run))
        return attempts.allocate(
            run_url,
            parent=parent,
            step=step,
            stage=engine.stage,
            steps_per_epoch=plan.steps_per_epoch,
            workers=workers,
            changed={change.key: (change.there, change.here) for change in changed},
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


def _conclude(
    config: Config, run_url: str, trainer: Trainer, splits: dict[str, Split], attempt: int, ending: Ending
) -> None:
    """Score the selected checkpoint on validation and, once, on test; write the run's result."""
    url = _selected(config, run_url, trainer)
    trainer.watchdog.moved()
    model = weights.load_model(url, verified=True).to(trainer.engine.device).eval()
    metrics = {}
    for split in (splits[name] for name in ("valid", "test") if name in splits):
        batches = trainer.watchdog.watched(split.loader.eval_batches())
        predictions = evaluate.predict(model, batches, split.manifest.samples, trainer.engine.device)
        metrics[split.name] = evaluate.score(predictions, split.manifest.corpus, split.manifest.tasks)
    if collectives.rank() == 0:
        result = {
            "run": storage.display(run_url),
            "status": ending,
            "checkpoint": storage.display(url),
            "steps": trainer.counters.step,
            "total_steps": trainer.plan.total_steps,
            "attempts": attempt,
            "modalities": list(reading(config, splits["train"].manifest).used),
            "metrics": metrics,
        }
        storage.write_json(RunPaths(run_url).result, result)


def _selected(config: Config, run_url: str, trainer: Trainer) -> str:
    """The checkpoint that is scored: the best one, or the last where that was not asked for, is no more or is damaged.

    A collective call: every rank checks a share of the bytes.
    """
    best = trainer.counters.best_checkpoint if config.train.select == "best" else None
    assert trainer.saved is not None
    last = RunPaths(run_url).checkpoint(trainer.saved)
    if best is not None and best != trainer.saved:
        url = RunPaths(run_url).checkpoint(best)
        damage = resume.damage(url)
        if not damage:
            return url
        # Forking from an older checkpoint can leave a best one behind that retention has deleted since.
        if collectives.on_rank_zero(lambda: storage.holds_files(url)) and collectives.rank() == 0:
            said = f"checkpoint {best}, the best one, is damaged; the last one is scored instead: {damage}"
            trainer.console.emit(Note(said))
    damage = resume.damage(last)
    if damage:
        raise CheckpointError(
            f"the last checkpoint cannot be scored: {damage}",
            where=last,
            remedy="start the same command again: it trains on from the newest sound one",
        )
    return last
