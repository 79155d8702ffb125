"""Training step: forward, losses, backward, update; the same on every rank."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ivr_dist.config import Config
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.sample_order import hash64
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.losses.registry import configured_terms
from ivr_dist.losses.step_counts import StepCounts, StepLayout
from ivr_dist.losses.terms import loss_terms, weight_of
from ivr_dist.model.adapters import with_two_steps
from ivr_dist.planning.plan import Plan
from ivr_dist.planning.pool_layout import CorpusLayout
from ivr_dist.runtime import collectives
from ivr_dist.runtime.compilation import NONE, compiled
from ivr_dist.shards.specs import TaskSpec
from ivr_dist.training.loss_spikes import LossSpikeDetector
from ivr_dist.training.lr_schedule import lr_at, svr_weight_at
from ivr_dist.training.svr_probe import SvrProbe


@dataclass(frozen=True)
class StepResult:
    """Result of one step, equal on all ranks except for `forward_s`."""

    loss: float
    """Weighted sum of all terms, over the global batch."""
    terms: Mapping[str, float]
    """Each term over the global batch, unweighted."""
    lr: float
    grad_norm: float
    fault: str = ""
    """Why the weights were not updated; empty if they were."""
    forward_s: float = 0.0
    """Seconds of this rank in forward passes."""
    svr: Mapping[str, float] = field(default_factory=dict)
    """Measurements of the regularizer's gradient; empty on steps that do not measure it."""


class TrainStep:
    """Runs optimizer steps, one global batch each.

    Args:
        config: The run's config.
        plan: Derived numbers: steps, batch sizes, schedule.
        engine: The model under DeepSpeed.
        heads: What the model predicts, by head.
        corpora: The corpora of a pool; empty where there is one corpus.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        engine: Engine,
        heads: Mapping[str, TaskSpec],
        corpora: Sequence[CorpusLayout] = (),
    ) -> None:
        self._config = config
        self._plan = plan
        self._engine = engine
        self._heads = heads
        self._corpora = tuple(corpora)
        self.layout = StepLayout(plan.global_batch, plan.accumulation, plan.group, self._corpora)
        self.extra = configured_terms(config)
        self._is_compiled = config.train.compile != NONE
        self._loss_terms = compiled(loss_terms, config.train.compile)
        self._spikes = LossSpikeDetector(config.train.spike_factor)

    def run(self, step: int, batches: Sequence[Batch], counts: StepCounts) -> StepResult:
        """Run one optimizer step; a collective call.

        A step whose loss or gradient is not finite, or whose loss is a spike, leaves weights and optimizer unchanged.

        Args:
            step: Completed steps before it.
            batches: This rank's micro-batches.
            counts: Counts over the global batch.
        """
        torch.manual_seed(step_seed(self._config.run.seed, step, collectives.rank()))
        weights = self._weights(step, counts)
        every = self._config.log.svr_every
        probe = SvrProbe() if every and (step + 1) % every == 0 else None
        forward_s, shares = 0.0, []
        for micro, host_batch in enumerate(batches):
            started = time.monotonic()
            batch = (with_two_steps(host_batch) if self._is_compiled else host_batch).to(self._engine.device)
            output = self._engine.forward(batch)
            forward_s += time.monotonic() - started
            world, reduce = collectives.world_size(), collectives.all_reduce_sum
            terms = self._loss_terms(output, batch, counts, self.layout, self._config, micro, world, reduce, self.extra)
            shares.append(terms.shares(world))
            total = terms.total(weights, world, self._plan.accumulation)
            last = micro + 1 == len(batches)
            if last:
                totals = collectives.sum_over_ranks(torch.stack(shares).sum(dim=0))
                values = dict(zip(terms.values, totals.tolist(), strict=True))
                counted = {name: value for name, value in values.items() if name not in terms.recorded}
                loss = sum(weight_of(name, weights) * value for name, value in counted.items())
                fault = self._spikes.check(loss)
                if fault and not math.isfinite(loss):
                    fault += _nonfinite_terms(counted)
                if fault:
                    # DeepSpeed discards a step whose gradient is not finite, with all it has accumulated, at every
                    # stage; it has no other way to drop a step. decision 031
                    total = total * math.nan
            if not output.has("branch"):
                probe = None
            if probe is not None:
                probe.before_backward(output, terms.family("svr", weights, world))
            self._engine.backward(total)
            if probe is not None:
                probe.after_backward(output)
            if not last:
                self._engine.finish_micro_step()
        rates = self._rates(step)
        grad_norm = self._engine.step(rates)
        if not fault and not math.isfinite(grad_norm):
            fault = "the gradient is not finite"
        if not fault:
            self._spikes.record(loss)
        return StepResult(
            loss=loss,
            terms=values,
            lr=rates["main"],
            grad_norm=grad_norm,
            fault=fault,
            forward_s=forward_s,
            svr=probe.result() if probe is not None else {},
        )

    def _weights(self, step: int, counts: StepCounts) -> dict[str, float]:
        """Weights of the terms: a task of a pool weighs by the samples that its corpus has in the step."""
        shares = counts.shares.tolist()
        loss, plan = self._config.loss, self._plan
        svr = svr_weight_at(step, plan.total_steps, plan.svr_warmup_steps, plan.svr_decay_steps, loss.svr.weight)
        return {
            **{
                f"task/{label.name}": loss.tasks.get(label.task, 1.0) * self._corpus_factor(label.corpus, shares)
                for label in self.layout.labels(self._heads)
            },
            "consistency": loss.consistency.weight,
            "adversary": loss.adversary.weight,
            "reconstruction": loss.reconstruction.weight,
            "svr": svr,
            **{term.name: term.weight for term in self.extra},
        }

    def _corpus_factor(self, number: int, shares: Sequence[float]) -> float:
        return shares[number] * self._corpora[number].loss_weight if self._corpora else 1.0

    def _rates(self, step: int) -> dict[str, float]:
        """Learning rates of a step, by the names of `param_groups.rate_of`."""
        train, plan = self._config.train, self._plan
        return {
            name: lr_at(step, plan.total_steps, plan.warmup_steps, peak, train.schedule, train.min_lr_ratio)
            for name, peak in (("main", train.lr), ("text", train.text_lr), ("muon", train.muon_lr))
        }


def _nonfinite_terms(values: Mapping[str, float]) -> str:
    """Which terms of a loss that is not finite are to blame, to be appended to a sentence."""
    shown = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    return f": {', '.join(shown)}" if shown else ""


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the dropout seed of one step on one rank, so that resuming reproduces the run (decision 007)."""
    return int(hash64(seed, step, rank)[0]) & 0x7FFF_FFFF_FFFF_FFFF
