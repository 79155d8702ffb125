"""The training loop. Independent of Ray and ZeRO, so it runs unchanged in a unit test and in a worker.

One step:

1. Fetch this rank's micro-batches.
2. Agree with all ranks, in one all-reduce, on the counts of the global batch and on stopping, saving and failures.
3. Run the micro-steps and update the weights (`train_step`).
4. Report to the callbacks; evaluate and save a checkpoint when due.

Every decision that ends or branches the loop is computed from values that are equal on all ranks, so no rank waits in a
collective that another rank never enters (a deadlock).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

import torch

from ivr_dist.checkpoint.state import CheckpointState, Progress
from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey, split_urls
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.pool_cursor import PoolCursor
from ivr_dist.data.run_order import Cursor
from ivr_dist.data.step_batches import StepBatches
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.errors import CheckpointError, CorruptDataError, DivergedError, IvrError, SupersededError
from ivr_dist.evaluation.evaluate import Metrics
from ivr_dist.evaluation.registry import configured_metrics, lower_is_better
from ivr_dist.losses.step_counts import StepCounts, local_counts
from ivr_dist.planning.plan import Plan
from ivr_dist.planning.pool_layout import PoolLayout
from ivr_dist.run.events import Console, Note
from ivr_dist.run.goodput import Stopwatch
from ivr_dist.runtime import collectives
from ivr_dist.runtime.garbage_collection import collected_by_step
from ivr_dist.training.callbacks.base import Callback, StepReport
from ivr_dist.training.checkpointer import Checkpointer
from ivr_dist.training.early_stopping import EarlyStopping, monitored_metric
from ivr_dist.training.rank_agreement import Decision, RankAgreement
from ivr_dist.training.sample_keys import sample_key, trained_keys
from ivr_dist.training.scoring import score_splits
from ivr_dist.training.splits import RunSplits
from ivr_dist.training.train_step import StepResult, TrainStep
from ivr_dist.training.watchdog import Watchdog

Ending = Literal["finished", "early", "asked", "stop file", "rollback"]
"""finished: the planned end; early: early stopping; asked: a signal requested a stop; stop file: the user created it;
rollback: a step failed, and the next attempt continues from an older checkpoint."""


@dataclass(frozen=True)
class TrainerServices:
    """The parts around the training loop of one attempt."""

    control: RankAgreement
    watchdog: Watchdog
    stopwatch: Stopwatch
    saver: Checkpointer
    callbacks: Sequence[Callback]
    console: Console
    """Receives notes; `control` also reads the user's stop request from it."""


class Trainer:
    """One attempt's training.

    Args:
        config: The run's config.
        plan: Derived numbers: steps, batch sizes, intervals.
        engine: The model under DeepSpeed.
        splits: The open splits.
        layout: The corpora, and what the model reads and predicts.
        state: The parts of the state common to all checkpoints of the attempt.
        progress: Progress at the start.
        cursor: Position of the next step in the data.
        saved: Name of the checkpoint that it continues, if it is of this run.
        services: Checkpointer, watchdog, callbacks and the like.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        engine: Engine,
        splits: RunSplits,
        layout: PoolLayout,
        state: CheckpointState,
        progress: Progress,
        cursor: Cursor,
        saved: str | None,
        services: TrainerServices,
    ) -> None:
        self.config = config
        self.plan = plan
        self.engine = engine
        self.loader: Any = splits.train
        self.layout = layout
        self._valid = splits.of("valid")
        self.state = state
        self.progress = progress
        self.cursor: Any = cursor
        self.saver = services.saver
        self.callbacks = services.callbacks
        self.console = services.console
        self.control = services.control
        self.watchdog = services.watchdog
        self.stopwatch = services.stopwatch
        corpora = layout.corpora if layout.is_pool else ()
        self.train_step = TrainStep(config, plan, engine, state.tasks, corpora)
        monitor = monitored_metric(config, None if layout.is_pool else self._valid[0].manifest) if self._valid else ""
        self.extra_metrics = configured_metrics(config)
        self.early_stopping = EarlyStopping(monitor, config.train.patience, lower_is_better(self.extra_metrics))
        self.metrics: dict[str, Metrics] = {}
        self.saved = saved
        """Name of this run's newest checkpoint."""
        self._saved_step = progress.step if saved is not None else -1
        self._failed_saves = 0
        """Checkpoints in a row that some rank failed to write; equal on all ranks."""
        self._has_saved = self._has_failed_save = False
        """Signals of this rank for the next step."""
        self._forward_s = 0.0

    def skip_to(self, step: int) -> None:
        """Skip all steps up to `step`, because their batches led to a failed step.

        Args:
            step: The last step skipped.

        Raises:
            DataError, CorruptDataError, StorageError: An index of the training split cannot be read.
        """
        while self.progress.step < step:
            number, samples = self.progress.step + 1, self.loader.left_out(self.cursor)
            for callback in self.callbacks:
                callback.on_left_out(number, self.cursor.epoch, [sample_key(sample) for sample in samples])
            epoch, self.cursor = self.cursor.epoch, self.loader.advance(self.cursor)
            same = self.cursor.epoch == epoch
            self.progress = replace(self.progress, step=number, skipped=self.progress.skipped if same else 0)

    def run(self) -> Ending:
        """Train until the planned end, early stopping, a stop request, or a failed step that requires a rollback.

        A checkpoint of the state after the last step is complete when it returns, except after `rollback`.
        """
        steps = self.loader.steps(self.cursor)
        try:
            with collected_by_step() as collect:
                ending = self._run(steps, collect)
            if ending != "rollback":
                self._save()
            self._finish_saving()
            return ending
        finally:
            self._close()

    def _close(self) -> None:
        """Close the callbacks; records up to the newest checkpoint are written already, later steps do not count."""
        for callback in self.callbacks:
            try:
                callback.on_close()
            except IvrError as error:
                self.console.emit(Note(f"some records could not be written: {error}"))

    def _run(self, steps: Iterator[StepBatches], collect: Callable[[int], None]) -> Ending:
        self.engine.train()
        while self.progress.step < self.plan.total_steps:
            if self.early_stopping.is_exhausted(self.progress):
                return "early"
            self.stopwatch.lap("starting" if self.stopwatch.fresh else "training")
            fetched = next(steps)
            self.stopwatch.lap("data")
            counts, decision = self._agree(fetched)
            if decision.stop:
                return decision.stop
            self._act_on(decision, fetched)
            result = self._train_step(fetched, counts)
            self._report(fetched, counts, decision, result)
            if result.fault and self.config.train.on_fault == "rollback":
                return "rollback"

            last = self.progress.step == self.plan.total_steps
            improved = self._evaluate() if last or self.progress.step % self.plan.eval_every == 0 else False
            due = self.progress.step % self.plan.checkpoint_every == 0
            if last or improved or due or decision.save or self.early_stopping.is_exhausted(self.progress):
                self._save()
            self._report_saved()
            self.watchdog.progress()
            collect(self.progress.step)
        return "finished"

    def _agree(self, fetched: StepBatches) -> tuple[StepCounts, Decision]:
        """Sum counts and signals over all ranks in one packed all-reduce before the forward passes."""
        # decision 008
        layout, features, tasks = self.train_step.layout, self.state.features, self.state.tasks
        extra = {term.name: term for term in self.train_step.extra}
        skipped = [self.layout.number(sample.corpus) for sample in fetched.skipped] if layout.corpora else ()
        local = local_counts(fetched.micro_batches, layout, features, tasks, extra, skipped)
        self._take_save_error()
        signals = self.control.signals(
            saved=self._has_saved,
            unsaved=self._has_failed_save,
            skipped=len(fetched.skipped),
            compute_s=fetched.wait_s + self._forward_s,
        )
        self._has_saved = self._has_failed_save = False
        packed = collectives.sum_over_ranks(torch.cat([local, signals.to(local)]))
        counts = StepCounts.from_vector(packed[: -self.control.size], layout, features, tasks, extra)
        return counts, self.control.decide(packed[-self.control.size :].tolist())

    def _act_on(self, decision: Decision, fetched: StepBatches) -> None:
        """Account for failures on any rank, and end the run on all ranks when a limit is exceeded."""
        if decision.skipped:
            self._count_skipped(fetched, decision.skipped)
        if decision.saved:
            self._failed_saves = 0
        if decision.unsaved:
            self.saver.give_up()
            self._failed_saves += 1
            if self._failed_saves > self.config.checkpoint.max_failed:
                raise CheckpointError(
                    f"{self._failed_saves} checkpoints in a row could not be written, up to step {self.progress.step}",
                    where=self.config.run.dir,
                    remedy="fix the storage, then run the same command again; the notes above name the failures",
                )

    def _count_skipped(self, fetched: StepBatches, skipped: int) -> None:
        self.progress = replace(self.progress, skipped=self.progress.skipped + skipped)
        # One line for each reason, which often concerns all samples of a segment.
        for why in dict.fromkeys(sample.reason for sample in fetched.skipped):
            keys = ", ".join(sample.name for sample in fetched.skipped if sample.reason == why)
            self.console.emit(Note(f"step {self.progress.step + 1} skips {keys}: {why}"))
        most = self.config.data.max_skipped
        if self.progress.skipped <= most:
            return
        lost = [sample.name for skipped in collectives.gather(fetched.skipped) for sample in skipped]
        raise CorruptDataError(
            f"{self.progress.skipped} samples of epoch {fetched.epoch} could not be read, the last one {lost[-1]}",
            where=self._data,
            remedy=f"find them with `ivr-dist verify` and pack the split again, or raise data.max_skipped = {most}",
        )

    def _train_step(self, fetched: StepBatches, counts: StepCounts) -> StepResult:
        """Run the step; if it failed, raise or report as `train.on_fault` requires."""
        if counts.nonfinite:
            self._refuse_input(fetched.micro_batches)
        result = self.train_step.run(self.progress.step, fetched.micro_batches, counts)
        self._forward_s = result.forward_s
        if not result.fault:
            return result
        keys = [key for batch in fetched.micro_batches for key in batch.keys]
        number, train = self.progress.step + 1, self.config.train
        if train.on_fault == "raise":
            first_keys = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
            raise DivergedError(
                f"step {number}: {result.fault}",
                where=f"worker {collectives.rank()} had samples {first_keys}",
                remedy="lower train.lr, look at these samples, or set train.on_fault; earlier checkpoints are sound",
            )
        if self.progress.faults >= train.max_faults:
            raise DivergedError(
                f"step {number}: {result.fault}, after {self.progress.faults} failed steps of this run",
                where=self._data,
                remedy=f"lower train.lr, or raise train.max_faults = {train.max_faults}",
            )
        text = f"step {number} is skipped: {result.fault}; worker {collectives.rank()} had {', '.join(keys)}"
        self.console.emit(Note(text))
        return result

    def _report(self, fetched: StepBatches, counts: StepCounts, decision: Decision, result: StepResult) -> None:
        """Count the step and report it to the callbacks."""
        keys = trained_keys(fetched, self.layout)
        samples = 0 if result.fault else round(counts.samples)
        self.progress = replace(
            self.progress,
            step=self.progress.step + 1,
            samples=self.progress.samples + samples,
            faults=self.progress.faults + bool(result.fault),
        )
        self.cursor = fetched.next_cursor
        self.stopwatch.lap("training")
        report = StepReport(
            step=self.progress.step,
            epoch=fetched.epoch,
            epoch_progress=self.progress.step / self.plan.steps_per_epoch,
            loss=result.loss,
            terms=result.terms,
            lr=result.lr,
            grad_norm=result.grad_norm,
            samples=samples,
            seconds=self.stopwatch.last("data") + self.stopwatch.last("training"),
            wait_s=fetched.wait_s,
            svr=result.svr,
            keys=() if result.fault else keys,
            skipped=[*map(sample_key, fetched.skipped), *(keys if result.fault else ())],
            skipped_in_epoch=self.progress.skipped,
            excluded=[*map(sample_key, fetched.excluded)],
            fault=result.fault,
            passes=self._passes(),
            shares=self._by_corpus(counts.shares),
            padding=self._padding(counts),
            unreadable={name: round(count) for name, count in self._by_corpus(counts.skipped).items()},
            slowest=decision.slowest(),
        )
        if self.cursor.epoch != fetched.epoch:
            self.progress = replace(self.progress, skipped=0)
        for callback in self.callbacks:
            callback.on_step(report)

    def _passes(self) -> dict[str, float]:
        """Passes so far over each trained corpus of a pool."""
        if not isinstance(self.cursor, PoolCursor):
            return {}
        return {name: self.cursor.uses[name] / identity.samples for name, identity in self.cursor.corpora.items()}

    def _by_corpus(self, values: torch.Tensor) -> dict[str, float]:
        """Name the values [C] of the trained corpora of a pool."""
        if not self.layout.is_pool:
            return {}
        pairs = zip(self.layout.corpora, values.tolist(), strict=True)
        return {corpus.name: value for corpus, value in pairs if not corpus.held_out}

    def _padding(self, counts: StepCounts) -> dict[str, float]:
        padded, real = self._by_corpus(counts.padded_steps), self._by_corpus(counts.real_steps)
        return {name: 1 - real[name] / steps for name, steps in padded.items() if steps}

    @property
    def _data(self) -> str:
        """The training data, for errors."""
        train = [url for key, url in split_urls(self.config).items() if SplitKey.parse(key).split == "train"]
        return ", ".join(train)

    def _refuse_input(self, batches: Sequence[Batch]) -> NoReturn:
        """Raise the same error on all ranks, naming the first features that are not finite."""
        features, corpus = next(found for found in collectives.gather(_nonfinite_input(batches)) if found is not None)
        raise CorruptDataError(
            f"{features} holds values that are not finite",
            where=f"corpus {self.layout.corpora[corpus].name}, split train, step {self.progress.step + 1}",
            remedy="pack the split with `ivr-dist pack`, which makes them 0 and reports them, or correct the sample",
        )

    def _evaluate(self) -> bool:
        """Score the validation split; return whether it is the best so far."""
        if not self._valid:
            return False
        self.stopwatch.lap("training")
        with self.engine.evaluating():
            scores = score_splits(
                self.engine.forward,
                self._valid,
                self.layout,
                self.extra_metrics,
                self.engine.device,
                self.watchdog.watched,
            )
        self.metrics["valid"] = scores
        step = self.progress.step
        value = scores.get(self.early_stopping.monitor)
        self.progress = self.early_stopping.update(self.progress, value, str(self.saver.name(step)))
        improved = self.progress.stale == 0
        for callback in self.callbacks:
            callback.on_evaluation("valid", step, scores, improved)
        self.stopwatch.lap("evaluation")
        return improved

    def _save(self) -> None:
        """Start writing a checkpoint of the state after the last completed step, unless it exists already."""
        step = self.progress.step
        if step == self._saved_step:
            return
        self.stopwatch.lap("training")
        self._take_save_error()
        durable: list[Callable[[], None]] = []
        for callback in self.callbacks:
            first = callback.on_before_checkpoint()
            if first is not None:
                durable.append(first)
        state = replace(
            self.state,
            step=step,
            cursor=self.cursor,
            progress=self.progress,
            rng={"seed": self.config.run.seed},
            metrics=self.metrics,
            spent=self.stopwatch.seconds(),
        )
        name = self.saver.save(state, self.progress.best_checkpoint, durable)
        self._saved_step, self.saved = step, str(name)
        self.stopwatch.lap("checkpoint")

    def _finish_saving(self) -> None:
        """Wait until the checkpoint being written is complete on all ranks."""
        self.stopwatch.lap("training")
        self.saver.finish()
        self._report_saved()
        self.stopwatch.lap("checkpoint")

    def _take_save_error(self) -> None:
        """Take the error of this rank's last checkpoint write; it is signaled to the other ranks at the next step."""
        error = self.saver.take_error()
        if isinstance(error, SupersededError):
            raise error
        if error is not None:
            self._has_failed_save = True
            self.console.emit(Note(f"a checkpoint could not be written: {error}"))

    def _report_saved(self) -> None:
        for saved in self.saver.take_saved():
            self._has_saved = True
            for callback in self.callbacks:
                callback.on_checkpoint(str(saved.name), saved.seconds, saved.stall_s)


def _nonfinite_input(batches: Sequence[Batch]) -> tuple[str, int] | None:
    """Return the first features that are not finite, as `audio of sample ID`, and the number of their corpus."""
    for batch in batches:
        for name, part in batch.modalities.items():
            sound = torch.isfinite(part.features).flatten(1).all(dim=1)
            if not sound.all():
                row = int(sound.long().argmin())
                return f"{name} of sample {batch.keys[row]}", int(batch.corpus[row]) if len(batch.corpus) else 0
    return None
