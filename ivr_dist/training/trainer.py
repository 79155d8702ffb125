"""The training loop, narrated. It knows no Ray and no ZeRO: it runs in a test and in a Ray worker alike.

One step: fetch this rank's micro-batches, agree with all ranks on what the global batch holds and on what happens next,
run the micro-steps, update. Then: report, evaluate, save. Every decision that ends or branches the loop is computed
from values that are equal on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NoReturn

import torch

from ivr_dist.checkpoint.state import CheckpointState, Progress
from ivr_dist.config import Config
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.loader import Loader, StepBatches
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.errors import CheckpointError, CorruptDataError, DivergedError, IvrError, SupersededError
from ivr_dist.evaluation import evaluate, metrics
from ivr_dist.losses.step_counts import StepCounts, local_counts
from ivr_dist.planning.plan import Plan
from ivr_dist.run.events import Console, Note
from ivr_dist.run.goodput import Stopwatch
from ivr_dist.runtime import collectives
from ivr_dist.runtime.garbage_collection import collected_by_step
from ivr_dist.shards.manifest import Manifest
from ivr_dist.training.callbacks.base import Callback, StepReport
from ivr_dist.training.checkpointer import Checkpointer
from ivr_dist.training.rank_agreement import Decision, RankAgreement
from ivr_dist.training.train_step import StepResult, TrainStep
from ivr_dist.training.watchdog import Watchdog

Ending = Literal["finished", "early", "asked", "stop file", "rollback"]
"""finished: the planned end; early: patience; asked: a signal; the last two end the attempt, not what was trained."""


@dataclass(frozen=True)
class Split:
    """A split that is scored while training."""

    name: str
    manifest: Manifest
    loader: Loader


@dataclass(frozen=True)
class TrainerServices:
    """What stands beside one attempt's training."""

    control: RankAgreement
    watchdog: Watchdog
    stopwatch: Stopwatch
    saver: Checkpointer
    callbacks: Sequence[Callback]
    console: Console
    """For notes; also asked, through `control`, whether the user wants to stop."""


class Trainer:
    """One attempt's training.

    Args:
        config: The run's config.
        plan: What it means at this world size.
        engine: The model under DeepSpeed.
        loader: Reads the training split.
        valid: The validation split, if there is one.
        state: What all checkpoints of the attempt have in common.
        counters: Where to start.
        cursor: The next step's place in the data.
        saved: Name of the checkpoint of this run that it starts from.
        helpers: What stands beside.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        engine: Engine,
        loader: Loader,
        valid: Split | None,
        state: CheckpointState,
        counters: Progress,
        cursor: DataCursor,
        saved: str | None,
        services: TrainerServices,
    ) -> None:
        self.config = config
        self.plan = plan
        self.engine = engine
        self.loader = loader
        self.valid = valid
        self.state = state
        self.counters = counters
        self.cursor = cursor
        self.saver = services.saver
        self.callbacks = services.callbacks
        self.console = services.console
        self.control = services.control
        self.watchdog = services.watchdog
        self.stopwatch = services.stopwatch
        self.train_step = TrainStep(config, plan, engine, state.tasks)
        self.monitor = monitored_metric(config, valid.manifest) if valid else ""
        self.metrics: dict[str, evaluate.Metrics] = {}
        self.saved = saved
        """Name of this run's newest checkpoint."""
        self._saved_step = counters.step if saved is not None else -1
        self._failed_saves = 0
        """In a row, as all ranks know them."""
        self._saved_now = self._unsaved_now = False
        """What this rank has to tell the others."""
        self._own_s = 0.0

    def leave_out(self, step: int) -> None:
        """Go on after `step` without having trained the steps before it, for their batches are at fault.

        Args:
            step: The last step left out.

        Raises:
            DataError, CorruptDataError, StorageError: An index of the training split cannot be read.
        """
        while self.counters.step < step:
            number, names = self.counters.step + 1, self.loader.names(self.cursor)
            for callback in self.callbacks:
                callback.on_left_out(number, self.cursor.epoch, names)
            epoch, self.cursor = self.cursor.epoch, self.cursor.advance(self.plan.steps_per_epoch)
            same = self.cursor.epoch == epoch
            self.counters = replace(self.counters, step=number, skipped=self.counters.skipped if same else 0)

    def run(self) -> Ending:
        """Train to the planned end, the end of patience, a stop request, or a fault that asks for an older checkpoint.

        The state after the last step is saved and complete when it returns, but for `rollback`.
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
        """Tell the callbacks. What a checkpoint covers is written: what one of them cannot write now does not count."""
        for callback in self.callbacks:
            try:
                callback.on_close()
            except IvrError as error:
                self.console.emit(Note(f"not all could be recorded: {error}"))

    def _run(self, steps: Iterator[StepBatches], collect: Callable[[int], None]) -> Ending:
        self.engine.train()
        while self.counters.step < self.plan.total_steps:
            if self._patience_exhausted():
                return "early"
            self.stopwatch.lap("starting" if self.stopwatch.fresh else "training")
            fetched = next(steps)
            self.stopwatch.lap("data")
            counts, verdict = self._agree(fetched)
            if verdict.stop:
                return verdict.stop
            self._heed(verdict, fetched)
            result = self._train_step(fetched, counts)
            self._report(fetched, counts, verdict, result)
            if result.fault and self.config.train.on_fault == "rollback":
                return "rollback"

            last = self.counters.step == self.plan.total_steps
            improved = self._evaluate() if last or self.counters.step % self.plan.eval_every == 0 else False
            due = self.counters.step % self.plan.checkpoint_every == 0
            if last or improved or due or verdict.save or self._patience_exhausted():
                self._save()
            self._tell_saved()
            self.watchdog.progress()
            collect(self.counters.step)
        return "finished"

    def _agree(self, fetched: StepBatches) -> tuple[StepCounts, Decision]:
        """One packed all-reduce before the forward passes: what the global batch holds, and what happens next."""
        layout, features, tasks = self.train_step.layout, self.state.features, self.state.tasks
        local = local_counts(fetched.micro_batches, layout, features, tasks)
        self._note_unsaved()
        wishes = self.control.signals(
            saved=self._saved_now,
            unsaved=self._unsaved_now,
            skipped=len(fetched.skipped),
            compute_s=fetched.wait_s + self._own_s,
        )
        self._saved_now = self._unsaved_now = False
        packed = collectives.sum_over_ranks(torch.cat([local, wishes.to(local)]))
        counts = StepCounts.from_vector(packed[: -self.control.size], layout, features, tasks)
        return counts, self.control.decide(packed[-self.control.size :].tolist())

    def _heed(self, verdict: Decision, fetched: StepBatches) -> None:
        """Go on without what failed on some rank, or end the run when it was too much, on all ranks alike."""
        if verdict.skipped:
            self._count_skipped(fetched, verdict.skipped)
        if verdict.saved:
            self._failed_saves = 0
        if verdict.unsaved:
            self.saver.give_up()
            self._failed_saves += 1
            if self._failed_saves > self.config.checkpoint.max_failed:
                raise CheckpointError(
                    f"{self._failed_saves} checkpoints in a row could not be written, up to step {self.counters.step}",
                    where=self.config.run.dir,
                    remedy="mend the storage and start the same command again; the notes above say what failed",
                )

    def _count_skipped(self, fetched: StepBatches, skipped: int) -> None:
        self.counters = replace(self.counters, skipped=self.counters.skipped + skipped)
        # One line for all that one reason takes, which is mostly a segment.
        for why in dict.fromkeys(reason for _, reason in fetched.skipped):
            keys = ", ".join(key for key, reason in fetched.skipped if reason == why)
            self.console.emit(Note(f"step {self.counters.step + 1} goes without {keys}: {why}"))
        most = self.config.data.max_skipped
        if self.counters.skipped <= most:
            return
        lost = [key for found in collectives.gather(fetched.skipped) for key, _ in found]
        raise CorruptDataError(
            f"{self.counters.skipped} samples of epoch {fetched.epoch} could not be read, the last one {lost[-1]}",
            where=self.config.data.train,
            remedy=f"find them with `ivr-dist verify` and pack the split again, or raise data.max_skipped = {most}",
        )

    def _train_step(self, fetched: StepBatches, counts: StepCounts) -> StepResult:
        """The step, and what follows if something is wrong with it."""
        if counts.nonfinite:
            self._refuse_input(fetched.micro_batches)
        result = self.train_step.run(self.counters.step, fetched.micro_batches, counts)
        self._own_s = result.forward_s
        if not result.fault:
            return result
        keys = [key for batch in fetched.micro_batches for key in batch.keys]
        number, train = self.counters.step + 1, self.config.train
        if train.on_fault == "raise":
            shown = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
            raise DivergedError(
                f"step {number} is at fault: {result.fault}",
                where=f"worker {collectives.rank()} had samples {shown}",
                remedy="lower train.lr, look at these samples, or set train.on_fault; earlier checkpoints are sound",
            )
        if self.counters.faults >= train.max_faults:
            raise DivergedError(
                f"step {number} is at fault, after {self.counters.faults} others of this run: {result.fault}",
                where=self.config.data.train,
                remedy=f"lower train.lr, or raise train.max_faults = {train.max_faults}",
            )
        text = f"step {number} is left out: {result.fault}; worker {collectives.rank()} had {', '.join(keys)}"
        self.console.emit(Note(text))
        return result

    def _report(self, fetched: StepBatches, counts: StepCounts, verdict: Decision, result: StepResult) -> None:
        """Count the step, and tell the callbacks."""
        keys = [key for batch in fetched.micro_batches for key in batch.keys]
        samples = 0 if result.fault else round(counts.samples)
        self.counters = replace(
            self.counters,
            step=self.counters.step + 1,
            samples=self.counters.samples + samples,
            faults=self.counters.faults + bool(result.fault),
        )
        self.cursor = fetched.cursor.advance(self.plan.steps_per_epoch)
        self.stopwatch.lap("training")
        report = StepReport(
            step=self.counters.step,
            epoch=fetched.epoch,
            epoch_progress=self.counters.step / self.plan.steps_per_epoch,
            loss=result.loss,
            terms=result.terms,
            lr=result.lr,
            grad_norm=result.grad_norm,
            samples=samples,
            seconds=self.stopwatch.last("data") + self.stopwatch.last("training"),
            wait_s=fetched.wait_s,
            svr=result.svr,
            keys=() if result.fault else keys,
            skipped=[*(key for key, _ in fetched.skipped), *(keys if result.fault else ())],
            skipped_in_epoch=self.counters.skipped,
            fault=result.fault,
            slowest=verdict.slowest(),
        )
        if self.cursor.epoch != fetched.epoch:
            self.counters = replace(self.counters, skipped=0)
        for callback in self.callbacks:
            callback.on_step(report)

    def _refuse_input(self, batches: Sequence[Batch]) -> NoReturn:
        """End the run at features that are not finite, naming the first of them on all ranks alike."""
        found = [name for name in collectives.gather(_nonfinite_input(batches)) if name is not None]
        manifest = self.loader.reader.manifest
        raise CorruptDataError(
            f"{found[0]} holds values that are not finite",
            where=f"corpus {manifest.corpus}, split {manifest.split}, step {self.counters.step + 1}",
            remedy="pack the split with `ivr-dist pack`, which makes them 0 and reports them, or correct the sample",
        )

    def _evaluate(self) -> bool:
        """Score the validation split; True if it is the best so far."""
        if self.valid is None:
            return False
        self.stopwatch.lap("training")
        batches = self.watchdog.watched(self.valid.loader.eval_batches())
        with self.engine.evaluating():
            predictions = evaluate.predict(
                self.engine.forward, batches, self.valid.manifest.samples, self.engine.device
            )
        found = evaluate.score(predictions, self.valid.manifest.corpus, self.valid.manifest.tasks)
        self.metrics[self.valid.name] = found
        value = found[self.monitor]
        improved = value is not None and metrics.better(self.monitor, value, self.counters.best)
        step = self.counters.step
        if improved:
            name = str(self.saver.name(step))
            self.counters = replace(self.counters, best=value, best_checkpoint=name, stale=0)
        else:
            self.counters = replace(self.counters, stale=self.counters.stale + 1)
        for callback in self.callbacks:
            callback.on_evaluation(self.valid.name, step, found, improved)
        self.stopwatch.lap("evaluation")
        return improved

    def _patience_exhausted(self) -> bool:
        patience = self.config.train.patience
        return patience is not None and self.counters.stale >= patience

    def _save(self) -> None:
        """Begin a checkpoint of the state after the last completed step, unless there is one already."""
        step = self.counters.step
        if step == self._saved_step:
            return
        self.stopwatch.lap("training")
        self._note_unsaved()
        durable: list[Callable[[], None]] = []
        for callback in self.callbacks:
            first = callback.on_before_checkpoint()
            if first is not None:
                durable.append(first)
        state = replace(
            self.state,
            step=step,
            cursor=self.cursor,
            progress=self.counters,
            rng={"seed": self.config.run.seed},
            metrics=self.metrics,
            spent=self.stopwatch.seconds(),
        )
        name = self.saver.save(state, self.counters.best_checkpoint, durable)
        self._saved_step, self.saved = step, str(name)
        self.stopwatch.lap("checkpoint")

    def _finish_saving(self) -> None:
        """Wait until the checkpoint under way is complete, on all ranks."""
        self.stopwatch.lap("training")
        self.saver.finish()
        self._tell_saved()
        self.stopwatch.lap("checkpoint")

    def _note_unsaved(self) -> None:
        """Take what went wrong with the checkpoint before on this rank; the others learn of it at the next step."""
        error = self.saver.take_error()
        if isinstance(error, SupersededError):
            raise error
        if error is not None:
            self._unsaved_now = True
            self.console.emit(Note(f"a checkpoint could not be written: {error}"))

    def _tell_saved(self) -> None:
        for saved in self.saver.take_saved():
            self._saved_now = True
            for callback in self.callbacks:
                callback.on_checkpoint(str(saved.name), saved.seconds, saved.stall_s)


def _nonfinite_input(batches: Sequence[Batch]) -> str | None:
    """The first features that are not finite, as `audio of sample ID`."""
    for batch in batches:
        for name, part in batch.modalities.items():
            sound = torch.isfinite(part.features).flatten(1).all(dim=1)
            if not sound.all():
                return f"{name} of sample {batch.keys[int(sound.long().argmin())]}"
    return None


def monitored_metric(config: Config, valid: Manifest) -> str:
    """The validation metric that picks the best checkpoint, without its `valid/`."""
    if config.train.monitor:
        return config.train.monitor.removeprefix("valid/")
    task, spec = next(iter(valid.tasks.items()))
    return f"{metrics.prefix(valid.corpus, task, valid.tasks)}/{'mae' if spec.type == 'regression' else 'accuracy'}"
