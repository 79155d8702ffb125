"""The training loop, narrated. It knows no Ray and no ZeRO: it runs in a test and in a Ray worker alike.

One step: fetch this rank's micro-batches, agree with all ranks on what the global batch holds and whether to stop,
run the micro-steps, check that everything is finite, update. Then: report, evaluate, save. Every decision that ends
or branches the loop is computed from values that are equal on all ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NoReturn

import torch

from ivr_dist import collectives, evaluate, metrics
from ivr_dist.callbacks import Callback, StepReport
from ivr_dist.checkpoint.saver import Saver
from ivr_dist.compiling import compiled
from ivr_dist.config import Config
from ivr_dist.console import Console
from ivr_dist.data.batch import Batch
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.loader import Loader, StepBatches
from ivr_dist.data.manifest import Manifest
from ivr_dist.data.order import hash64
from ivr_dist.engine import Engine
from ivr_dist.errors import CorruptDataError, DivergedError
from ivr_dist.losses import StepCounts, StepLayout, local_counts, loss_terms, weight_of
from ivr_dist.plan import Plan
from ivr_dist.probe import SvrProbe
from ivr_dist.schedule import lr_at, svr_weight_at

Ending = Literal["finished", "early", "stopped"]


@dataclass(frozen=True)
class Counters:
    """How far training is; part of every checkpoint."""

    step: int = 0
    """Completed optimizer steps."""
    samples: int = 0
    """Samples trained on."""
    best: float | None = None
    """Best value of the monitored metric."""
    best_checkpoint: str | None = None
    """Name of the checkpoint that has it."""
    stale: int = 0
    """Evaluations since then."""
    skipped: int = 0
    """Samples of the running epoch that could not be read."""


@dataclass(frozen=True)
class Split:
    """A split that is scored while training."""

    name: str
    manifest: Manifest
    loader: Loader


class Trainer:
    """One attempt's training.

    Args:
        config: The run's config.
        plan: What it means at this world size.
        engine: The model under DeepSpeed.
        loader: Reads the training split.
        valid: The validation split, if there is one.
        saver: Writes checkpoints.
        state: What every checkpoint's `state.json` holds besides cursor, counters and metrics.
        counters: Where to start.
        cursor: The next step's place in the data.
        saved: Name of the checkpoint of this run that it starts from.
        callbacks: What happens beside training.
        console: Tells whether the user wants to stop; asked on rank 0 only.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        engine: Engine,
        loader: Loader,
        valid: Split | None,
        saver: Saver,
        state: dict[str, Any],
        counters: Counters,
        cursor: DataCursor,
        saved: str | None,
        callbacks: Sequence[Callback],
        console: Console,
    ) -> None:
        self.config = config
        self.plan = plan
        self.engine = engine
        self.loader = loader
        self.valid = valid
        self.saver = saver
        self.state = state
        self.counters = counters
        self.cursor = cursor
        self.callbacks = callbacks
        self.console = console
        self.monitor = monitored_metric(config, valid.manifest) if valid else ""
        self.metrics: dict[str, evaluate.Metrics] = {}
        self.saved = saved
        """Name of this run's newest checkpoint."""
        self._saved_step = counters.step if saved is not None or counters.step == 0 else -1
        self._layout = StepLayout(plan.global_batch, plan.accumulation, plan.group)
        self._loss_terms = compiled(loss_terms, config.train.compile)

    def run(self) -> Ending:
        """Train until the planned end, the end of patience, or a stop request; the last step is always saved."""
        steps = self.loader.steps(self.cursor)
        try:
            return self._run(steps)
        finally:
            for callback in self.callbacks:
                callback.on_close()

    def _run(self, steps: Iterator[StepBatches]) -> Ending:
        self.engine.train()
        while self.counters.step < self.plan.total_steps:
            if self._patience_exhausted():
                self._save()
                return "early"
            started = time.monotonic()
            fetched = next(steps)
            counts, stop, skipped = self._agree(fetched)
            if stop:
                self._save()
                return "stopped"
            if skipped:
                self._count_skipped(fetched, skipped)
            report = self._train_step(fetched, counts, started)
            self.cursor = fetched.cursor.advance(self.plan.steps_per_epoch)
            if self.cursor.epoch != fetched.epoch:
                self.counters = replace(self.counters, skipped=0)
            for callback in self.callbacks:
                callback.on_step(report)

            last = self.counters.step == self.plan.total_steps
            improved = self._evaluate() if last or self.counters.step % self.plan.eval_every == 0 else False
            due = self.counters.step % self.plan.checkpoint_every == 0
            if last or improved or due or self._patience_exhausted():
                self._save()
        self._save()
        return "finished"

    def _agree(self, fetched: StepBatches) -> tuple[StepCounts, bool, int]:
        """One packed all-reduce before the forward passes.

        Returns:
            What the global batch holds, whether to stop, and how many samples of it could not be read.
        """
        local = local_counts(fetched.micro_batches, self._layout, self.state["features"], self.state["tasks"])
        stop = collectives.rank() == 0 and self.console.stop_requested()
        extra = local.new_tensor([float(stop), len(fetched.skipped)])
        packed = collectives.sum_over_ranks(torch.cat([local, extra]))
        counts = StepCounts.from_vector(packed[:-2], self._layout, self.state["features"], self.state["tasks"])
        return counts, bool(packed[-2]), round(float(packed[-1]))

    def _count_skipped(self, fetched: StepBatches, skipped: int) -> None:
        """Go on without samples that could not be read, or end the run when there are too many, on all ranks alike."""
        self.counters = replace(self.counters, skipped=self.counters.skipped + skipped)
        # One line for all that one reason takes, which is mostly a segment.
        for why in dict.fromkeys(fetched.skipped.values()):
            keys = ", ".join(key for key, reason in fetched.skipped.items() if reason == why)
            self.console.emit({"kind": "note", "text": f"step {self.counters.step + 1} goes without {keys}: {why}"})
        most = self.config.data.max_skipped
        if self.counters.skipped <= most:
            return
        lost = [key for found in collectives.gather(list(fetched.skipped)) for key in found]
        raise CorruptDataError(
            f"{self.counters.skipped} samples of epoch {fetched.epoch} could not be read, the last one {lost[-1]}",
            where=self.config.data.train,
            remedy=f"find them with `ivr-dist verify` and pack the split again, or raise data.max_skipped = {most}",
        )

    def _train_step(self, fetched: StepBatches, counts: StepCounts, started: float) -> StepReport:
        step = self.counters.step
        keys = [key for batch in fetched.micro_batches for key in batch.keys]
        if counts.nonfinite:
            self._refuse_input(fetched.micro_batches)
        torch.manual_seed(step_seed(self.config.run.seed, step, collectives.rank()))
        weights = self._weights(step)
        every = self.config.log.svr_every
        probe = SvrProbe() if every and (step + 1) % every == 0 else None

        terms = self._forward_backward(fetched.micro_batches, counts, weights, probe)
        loss = sum(weight_of(name, weights) * value for name, value in terms.items())
        self._check_finite(loss, "loss", keys)
        rates = self._rates(step)
        grad_norm = self.engine.apply(rates)
        self._check_finite(grad_norm, "gradient", keys)

        samples = round(counts.samples)
        self.counters = replace(self.counters, step=step + 1, samples=self.counters.samples + samples)
        return StepReport(
            step=step + 1,
            epoch=fetched.epoch,
            epoch_progress=(step + 1) / self.plan.steps_per_epoch,
            loss=loss,
            terms=terms,
            lr=rates["main"],
            grad_norm=grad_norm,
            samples=samples,
            seconds=time.monotonic() - started,
            wait_s=fetched.wait_s,
            svr=probe.result() if probe is not None else {},
            keys=keys,
            skipped=list(fetched.skipped),
            skipped_in_epoch=self.counters.skipped,
        )

    def _forward_backward(
        self, batches: Sequence[Batch], counts: StepCounts, weights: Mapping[str, float], probe: SvrProbe | None
    ) -> dict[str, float]:
        """All micro-steps but the update; returns each term over the global batch."""
        world = collectives.world_size()
        shares = []
        for micro, host_batch in enumerate(batches):
            batch = host_batch.to(self.engine.device)
            output = self.engine.forward(batch)
            terms = self._loss_terms(
                output, batch, counts, self._layout, self.config, micro, world, collectives.all_reduce_sum
            )
            if probe is not None:
                probe.before_backward(output, terms.family("svr", weights, world))
            self.engine.backward(terms.total(weights, world, self.plan.accumulation))
            if probe is not None:
                probe.after_backward(output)
            shares.append(terms.shares(world))
            if micro + 1 < len(batches):
                self.engine.finish_micro_step()
        totals = collectives.sum_over_ranks(torch.stack(shares).sum(dim=0))
        return dict(zip(terms.values, totals.tolist(), strict=True))

    def _weights(self, step: int) -> dict[str, float]:
        loss, plan = self.config.loss, self.plan
        svr = svr_weight_at(step, plan.total_steps, plan.svr_warmup_steps, plan.svr_decay_steps, loss.svr.weight)
        return {
            **{f"task/{task}": loss.tasks.get(task, 1.0) for task in self.state["tasks"]},
            "consistency": loss.consistency.weight,
            "adversary": loss.adversary.weight,
            "reconstruction": loss.reconstruction.weight,
            "svr": svr,
        }

    def _rates(self, step: int) -> dict[str, float]:
        """Learning rates of a step, by the names of `optim.parameter_groups`."""
        train, plan = self.config.train, self.plan
        return {
            name: lr_at(step, plan.total_steps, plan.warmup_steps, peak, train.schedule, train.min_lr_ratio)
            for name, peak in (("main", train.lr), ("text", train.text_lr))
        }

    def _refuse_input(self, batches: Sequence[Batch]) -> NoReturn:
        """End the run at features that are not finite, naming the first of them on all ranks alike."""
        found = [name for name in collectives.gather(_nonfinite_input(batches)) if name is not None]
        manifest = self.loader.reader.manifest
        raise CorruptDataError(
            f"{found[0]} holds values that are not finite",
            where=f"corpus {manifest.corpus}, split {manifest.split}, step {self.counters.step + 1}",
            remedy="pack the split with `ivr-dist pack`, which makes them 0 and reports them, or correct the sample",
        )

    def _check_finite(self, value: float, what: str, keys: Sequence[str]) -> None:
        """End the run, on all ranks alike, rather than train on with numbers that mean nothing."""
        if not math.isfinite(value):
            shown = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
            raise DivergedError(
                f"the {what} of step {self.counters.step + 1} is not finite",
                where=f"worker {collectives.rank()} had samples {shown}",
                remedy="lower train.lr or look at these samples; checkpoints from before are sound",
            )

    def _evaluate(self) -> bool:
        """Score the validation split; True if it is the best so far."""
        if self.valid is None:
            return False
        with self.engine.evaluating():
            predictions = evaluate.predict(
                self.engine.forward, self.valid.loader.eval_batches(), self.valid.manifest.samples, self.engine.device
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
        return improved

    def _patience_exhausted(self) -> bool:
        patience = self.config.train.patience
        return patience is not None and self.counters.stale >= patience

    def _save(self) -> None:
        """Write a checkpoint of the state after the last completed step, unless there is one already."""
        step = self.counters.step
        if step == self._saved_step:
            return
        started = time.monotonic()
        for callback in self.callbacks:
            callback.on_before_checkpoint()
        state = {
            "step": step,
            "cursor": self.cursor.to_json(),
            "counters": asdict(self.counters),
            # Dropout is drawn from a generator seeded by (seed, step, rank): the seed is the whole random state.
            "rng": {"seed": self.config.run.seed},
            "metrics": self.metrics,
            **self.state,
        }
        name = self.saver.save(step, state, self.counters.best_checkpoint)
        self._saved_step, self.saved = step, str(name)
        for callback in self.callbacks:
            callback.on_checkpoint(str(name), time.monotonic() - started)


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


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of one step's dropout on one rank: resuming at any step draws what the uninterrupted run drew."""
    return int(hash64(seed, step, rank)[0]) & 0x7FFF_FFFF_FFFF_FFFF
