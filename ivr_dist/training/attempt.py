"""One attempt on one rank: builds the model from the config, trains, checkpoints and evaluates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ivr_dist import storage
from ivr_dist.checkpoint import weights
from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey, split_urls
from ivr_dist.data.build_order import build_order
from ivr_dist.data.exclusions import save_excluded
from ivr_dist.data.left_out import find_left_out
from ivr_dist.data.loader import Loader
from ivr_dist.data.pool_cursor import PoolCursor
from ivr_dist.data.pooled_loader import PooledLoader
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.errors import IvrError, UserError
from ivr_dist.inspection.existing_run import check_length, read_record, record
from ivr_dist.model.build import build_model, recompute_layers
from ivr_dist.model.text.text_encoder import TextEncoder, WordTokenizer
from ivr_dist.planning.label_check import label_notes
from ivr_dist.planning.plan import Plan, plan_run
from ivr_dist.planning.pool_layout import WORDS
from ivr_dist.planning.pool_table import pool_notes
from ivr_dist.planning.run_identity import Change, Experiment, ids
from ivr_dist.run import attempts
from ivr_dist.run.events import AttemptStarted, Console, Note, Phase, TimeSpent
from ivr_dist.run.goodput import Stopwatch
from ivr_dist.run.ledger import LedgerWriter
from ivr_dist.run.paths import AUDIT, HISTORY, RunPaths
from ivr_dist.runtime import collectives, device
from ivr_dist.shards.manifest import Manifest
from ivr_dist.training import resume
from ivr_dist.training.callbacks.base import Callback, RunInfo
from ivr_dist.training.callbacks.event_files import TensorBoard
from ivr_dist.training.callbacks.ledgers import AuditLedger, History
from ivr_dist.training.callbacks.progress import ProgressLine
from ivr_dist.training.callbacks.registry import configured_callbacks
from ivr_dist.training.callbacks.run_monitor import RunMonitor
from ivr_dist.training.callbacks.tensorboard import TensorBoardCurves
from ivr_dist.training.checkpointer import Checkpointer
from ivr_dist.training.final_evaluation import write_result
from ivr_dist.training.freezing import freeze
from ivr_dist.training.init_from import InitialWeights, kept_statistics
from ivr_dist.training.rank_agreement import ClusterEvents, RankAgreement
from ivr_dist.training.run_spec import run_spec
from ivr_dist.training.splits import open_splits
from ivr_dist.training.text_state_cache import Observer, cached_states
from ivr_dist.training.trainer import Ending, Trainer, TrainerServices
from ivr_dist.training.watchdog import Watchdog

_HANG_FACTOR = 20.0


@dataclass(frozen=True)
class SkippedSteps:
    """Steps that the next attempt skips, because the last of them failed."""

    before: int
    """Largest step of a checkpoint to continue from."""
    step: int
    """The last one."""
    faults: int
    """Failed steps of the run so far."""


class AttemptRun:
    """One attempt on one rank; read `run` from top to bottom.

    Args:
        config: The run's config.
        console: Receives events of rank 0, and notes of every rank.
        local_rank: This worker's number on its node.
        cluster_events: Preemption notices and free capacity of the cluster; None for none.
    """

    def __init__(self, config: Config, console: Console, local_rank: int, cluster_events: ClusterEvents | None) -> None:
        self.config = config
        self.console = console
        self.local_rank = local_rank
        self.cluster_events = cluster_events
        self.run_url = storage.absolute(config.run.dir)
        self.rank, self.world = collectives.rank(), collectives.world_size()
        self.manifests = {name: Manifest.load(url) for name, url in split_urls(config).items()}
        # One rank reads lists and hashes for all.
        self.left_out = collectives.on_rank_zero(lambda: find_left_out(config, self.manifests, check=False))
        self.plan = plan_run(config, self.manifests, self.world, self.left_out.digests)
        source = config.model.text.pretrained
        self.text = TextEncoder(source, context=config.data.context) if source else None
        self.layout, self.spec = run_spec(config, self.manifests, self.text, self.note)
        self.statistics = ""
        """Which statistics standardize the inputs of a run with `train.init_from`, in words."""
        self.init_record: dict[str, Any] = {}
        """What was taken from its checkpoint, for the record of the run."""
        self.skipped_steps: SkippedSteps | None = None
        """After `run` returned `rollback`: the steps that the next attempt must skip."""

    def note(self, text: str) -> None:
        """Emit one line for the user."""
        self.console.emit(Note(text))

    def run(self, attempts_before: int, began: float, skipped_steps: SkippedSteps | None = None) -> Ending:
        """Run the attempt, from choosing a checkpoint to the final scores; a collective call.

        Args:
            attempts_before: Attempts of the run when its driver started: a later one is a retry, which continues
                regardless of `run.resume`.
            began: Unix time from which the attempt's time counts.
            skipped_steps: Steps to skip.

        Raises:
            IvrError: The run cannot continue.
        """
        # Started this early because a worker can hang while it reads a checkpoint, or waits for one that does.
        watchdog = Watchdog(
            self.run_url,
            f"worker-{self.rank:05d}-pid-{os.getpid()}",
            least_s=self.config.run.hang_after_s,
            factor=_HANG_FACTOR,
            notify=self.note,
        )
        try:
            return self._run(attempts_before, Stopwatch(began), watchdog, skipped_steps)
        finally:
            watchdog.close()

    def _run(
        self, attempts_before: int, stopwatch: Stopwatch, watchdog: Watchdog, skipped_steps: SkippedSteps | None
    ) -> Ending:
        config, plan = self.config, self.plan
        here = Experiment(config, ids(self.manifests))
        state = self._state(here.manifests)
        before = None if skipped_steps is None else skipped_steps.before
        source = resume.find(config, self.run_url, state, attempts_before, before)
        changed = resume.changes(source, here, self.manifests)
        if source.state is None:
            self._say("starting a new run" if config.train.init_from else "starting from scratch")
        else:
            self._say(f"continuing from {source.own or source.url}")
            self._say(f"changed        {', '.join(map(str, changed))}" if changed else "nothing changed")
            for sentence in weights.changed_classes(source.state, state):
                self._say(sentence)
        watchdog.restart()
        initial = self._initial_weights(source)
        state = self._state(here.manifests)
        engine = self._engine(source, initial, watchdog)
        watchdog.restart()
        numbers = {corpus.name: number for number, corpus in enumerate(self.layout.corpora)}
        order = build_order(
            config, plan, self.manifests, numbers, self.left_out.digests, self._first_uses(source, initial)
        )
        progress, order, cursor = resume.position(order, source, config.data.mix.changes == "allow")
        with open_splits(config, plan, self.manifests, self.spec, order, self.note, self.left_out.splits) as splits:
            loader = splits.train
            if skipped_steps is not None:
                progress = replace(progress, faults=skipped_steps.faults)
            check_length(progress.step, plan.total_steps, self.run_url)
            attempt = _start_attempt(self.run_url, self._record(), source.parent, progress.step, plan, engine, changed)
            if self.rank == 0:
                save_excluded(self.run_url, self.manifests, self.left_out.splits)
            with self._services(attempt, stopwatch, watchdog, engine, loader, source) as (services, end):
                trainer = Trainer(
                    config, plan, engine, splits, self.layout, state, progress, cursor, source.own, services
                )
                self._announce(attempt, engine, source.notes)
                if skipped_steps is not None:
                    self._skip_steps(skipped_steps, trainer)
                ending = trainer.run()
                if ending in ("finished", "early"):
                    write_result(config, self.run_url, trainer, splits, self.layout, attempt.number, ending)
                    stopwatch.lap("evaluation")
                end(ending)
        if ending == "rollback":
            reached = trainer.progress
            self.skipped_steps = SkippedSteps(reached.step - config.train.rollback_steps, reached.step, reached.faults)
        return ending

    def _state(self, manifests: Mapping[str, str]) -> CheckpointState:
        """The state common to all checkpoints of the attempt."""
        config, layout = self.config, self.layout
        return weights.initial_state(
            config,
            self.spec,
            sets={} if layout.is_pool else layout.corpora[0].sets,
            manifests=manifests,
            world=self.world,
            stage=config.zero.stage,
        )

    def _initial_weights(self, source: resume.Resume) -> InitialWeights | None:
        """Open the checkpoint of `train.init_from`, and scale inputs as it was trained; later, as the run began."""
        path, keeps = self.config.train.init_from, self.config.train.init_statistics == "kept"
        if not path:
            return None
        if source.state is not None:
            if keeps:
                self.spec, _ = kept_statistics(self.spec, self.layout, source.state)
            return None
        initial = collectives.run_on_all_ranks(lambda: InitialWeights.open(path))
        self.statistics = "the data's own"
        if keeps:
            self.spec, self.statistics = kept_statistics(self.spec, self.layout, initial.state)
        return initial

    def _first_uses(self, source: resume.Resume, initial: InitialWeights | None) -> dict[str, int]:
        """Uses of an earlier run by corpus, whose passes this one goes on with."""
        cursor = None if source.state is None else source.state.cursor
        if isinstance(cursor, PoolCursor):
            return {name: identity.first_use for name, identity in cursor.corpora.items()}
        if initial is None or not self.config.data.mix.uses_from:
            return {}
        first_uses = initial.first_uses(self.layout, ids(self.manifests))
        # The audit needs them before there is a checkpoint, whose cursor has them.
        self.init_record["uses"] = first_uses
        return first_uses

    def _record(self) -> dict[str, Any]:
        """Return the content of `run.json`, with where the weights come from."""
        content = record(self.config, self.manifests)
        if self.config.train.init_from:
            before = collectives.on_rank_zero(lambda: read_record(self.run_url).get("init"))
            content["init"] = self.init_record or before or {}
        return content

    def _engine(self, source: resume.Resume, initial: InitialWeights | None, watchdog: Watchdog) -> Engine:
        """Build the model under DeepSpeed, with a checkpoint's weights or initialized from the seed."""
        config = self.config
        torch.manual_seed(config.run.seed)
        model = build_model(config.model, weights.model_spec(self.spec, self.text), config.loss)
        if config.train.recompute:
            recompute_layers(model)
        if source.url:
            collectives.run_on_all_ranks(lambda: weights.load_weights(model, source.url, verified=True))
        elif initial is not None:
            new_heads = config.train.new_heads
            transfer = collectives.run_on_all_ranks(lambda: initial.load(model, self.layout, new_heads=new_heads))
            self.init_record = initial.record(transfer, self.statistics)
            self._say(transfer.describe(storage.short_display(initial.url)))
            self._say(f"input scaling: {self.statistics}")
        frozen = freeze(model, config.train.freeze)
        if frozen:
            self._say(f"frozen: {frozen:,} parameters below {', '.join(config.train.freeze)}")
        if config.model.text.cache_states:
            self._cache_text_states(model, watchdog)
        engine = Engine(
            model,
            self.plan.deepspeed,
            weight_decay=config.train.weight_decay,
            device=device.training_device(self.local_rank),
            backend=config.train.compile,
        )
        collectives.run_on_all_ranks(lambda: resume.restore_optimizer(engine, source))
        return engine

    def _cache_text_states(self, model: nn.Module, watchdog: Watchdog) -> None:
        """Let batches hold the states of texts after the encoder's frozen layers, whose weights are loaded."""
        tokenizer = self.spec.tokenizer
        if not isinstance(tokenizer, WordTokenizer):
            return
        states = cached_states(
            model,
            tokenizer,
            self.config,
            {name: manifest for name, manifest in self.manifests.items() if self._reads_words(name)},
            self.left_out.splits,
            device.training_device(self.local_rank),
            Observer(self._say, watchdog.restart),
        )
        self.spec = replace(self.spec, tokenizer=tokenizer.with_states(states))

    def _reads_words(self, split: str) -> bool:
        """Whether the text encoder reads the transcripts of a split."""
        corpus = SplitKey.parse(split).corpus
        own = next((each for each in self.layout.corpora if each.name == corpus), self.layout.corpora[0])
        return "text" in own.sets and self.layout.sets["text"][own.sets["text"]][0] == WORDS

    @contextmanager
    def _services(
        self,
        attempt: attempts.Attempt,
        stopwatch: Stopwatch,
        watchdog: Watchdog,
        engine: Engine,
        loader: Loader | PooledLoader,
        source: resume.Resume,
    ) -> Iterator[tuple[TrainerServices, Callable[[Ending], None]]]:
        """Open the services around training, and a function that takes the ending; all are closed at the end."""
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
        callbacks: list[Callback] = []
        how: list[Ending] = []
        try:
            self._add_callbacks(callbacks, attempt, loader, monitor)
            yield TrainerServices(control, watchdog, stopwatch, saver, callbacks, self.console), how.append
        finally:
            control.close()
            # Training closes them, if it ever began; closing again does nothing.
            for callback in callbacks:
                with suppress(IvrError):
                    callback.on_close()
            if monitor is not None:
                monitor.close(how[0] if how else "")
                self.console.emit(TimeSpent(monitor.time_spent(), how[0] if how else ""))

    def _add_callbacks(
        self,
        callbacks: list[Callback],
        attempt: attempts.Attempt,
        loader: Loader | PooledLoader,
        monitor: RunMonitor | None,
    ) -> None:
        """Append the callbacks of the package, then those of the config, each started."""
        config, number = self.config, attempt.number
        if config.run.audit:
            callbacks.append(AuditLedger(LedgerWriter(self.run_url, AUDIT, number, self.rank), self.layout.is_pool))
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
        info = RunInfo(self.run_url, number, self.rank, self.world, attempt.step, self.plan.total_steps)
        for callback in configured_callbacks(config):
            callbacks.append(callback)
            callback.on_start(info)

    def _skip_steps(self, skipped_steps: SkippedSteps, trainer: Trainer) -> None:
        self._say(f"skipping steps {trainer.progress.step + 1} to {skipped_steps.step}")
        collectives.run_on_all_ranks(lambda: trainer.skip_to(skipped_steps.step))

    def _say(self, text: str) -> None:
        if self.rank == 0:
            self.console.emit(Phase(text))

    def _announce(self, attempt: attempts.Attempt, engine: Engine, notes: Sequence[str]) -> None:
        if self.rank != 0:
            return
        mix = pool_notes(self.config, self.plan)
        for note in (*notes, *label_notes(self.manifests), *self.left_out.notes, *mix):
            self.note(note)
        self.console.emit(
            AttemptStarted(
                attempt=attempt.number,
                step=attempt.step,
                total_steps=self.plan.total_steps,
                world=attempt.world,
                stage=attempt.stage,
                parameters=engine.num_parameters(),
                origin="the weights of a checkpoint" if self.init_record else "scratch",
            )
        )


def _start_attempt(
    run_url: str,
    run: Mapping[str, Any],
    parent: int | None,
    step: int,
    plan: Plan,
    engine: Engine,
    changed: Sequence[Change],
) -> attempts.Attempt:
    """Allocate an attempt number, and check that every worker sees the same storage."""
    workers = collectives.gather(f"{os.uname().nodename}:{os.getpid()}")

    def allocate() -> attempts.Attempt:
        # A run that trains again has no result until it ends, and a result belongs to the config in run.json.
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
