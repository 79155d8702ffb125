"""The mix of a pool as a table: by corpus its share, passes, lanes and heads; and what is worth a warning."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey, entries
from ivr_dist.planning.mixing_tree import MixingTree
from ivr_dist.planning.plan import Plan
from ivr_dist.planning.pool_layout import PoolLayout
from ivr_dist.planning.pool_plan import Phase
from ivr_dist.units import format_bytes

_RARE_STEPS = 100
"""Steps in which a corpus should be seen at least once: the moments of AdamW for its input layers decay in between."""
_FEWEST_IN_CELL = 8
"""Samples of a corpus in a group of slots, below which the moments of its codes are mostly noise."""


@dataclass(frozen=True)
class CorpusReading:
    """Reading of one corpus over the steps of a read forecast, by all workers together."""

    step_bytes: int
    """Average bytes of its samples of a step."""
    padding: float | None
    """Share of padding in the time steps that its samples take up in micro-batches, each of which is padded to its
    longest sample of any corpus; None where the lengths are not in the indexes."""


@dataclass(frozen=True)
class CorpusRow:
    """One trained corpus of a plan, in its first phase."""

    corpus: str
    samples: int
    left_out: int
    """Those of them that the run leaves out: their slots stay empty."""
    share: float
    """Part of the slots."""
    step: tuple[int, int]
    """Least and most uses in a step."""
    epoch: int
    """Uses in an epoch."""
    passes_epoch: float
    passes_all: float
    """Passes over all epochs of the run, over all phases."""
    max_passes: float | None
    lanes: int
    first_step: int
    """The step of its first use, 1 for the first."""
    padding: float | None
    """See `CorpusReading`, as the next one; None where there is no forecast."""
    step_bytes: int | None
    heads: tuple[str, ...]

    header = (
        "corpus",
        "samples",
        "share",
        "a step",
        "an epoch",
        "passes an epoch / in all",
        "lanes",
        "first use",
        "padding",
        "bytes a step",
        "heads",
    )
    """Column names of `cells`."""

    def cells(self) -> tuple[str, ...]:
        """Return the cells of its row."""
        low, high = self.step
        limit = f" (max {self.max_passes:g})" if self.max_passes is not None else ""
        return (
            self.corpus,
            f"{self.samples:,}" + (f" ({self.left_out:,} left out)" if self.left_out else ""),
            f"{self.share:.1%}",
            f"{low}" if low == high else f"{low}-{high}",
            f"{self.epoch:,}",
            f"{self.passes_epoch:.3g} / {self.passes_all:.3g}{limit}",
            f"{self.lanes}",
            f"step {self.first_step}",
            "-" if self.padding is None else f"{self.padding:.1%}",
            "-" if self.step_bytes is None else format_bytes(self.step_bytes),
            ", ".join(self.heads),
        )

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return asdict(self)


def corpus_rows(
    config: Config,
    plan: Plan,
    layout: PoolLayout,
    readings: Mapping[str, CorpusReading] | None = None,
    excluded: Mapping[str, int] | None = None,
) -> list[CorpusRow]:
    """Describe each trained corpus of a plan; none where there is no pool.

    Args:
        config: The run's config.
        plan: Its plan.
        layout: Its corpora and heads.
        readings: By corpus: the forecast of its reading, where there is one.
        excluded: By split: samples that the run leaves out.
    """
    pool = plan.pool
    if pool is None:
        return []
    first, tree = pool.phases[0], MixingTree(pool.phases[0].quotas)
    used = _uses(pool.phases, plan)
    heads = {corpus.name: tuple(dict.fromkeys(corpus.heads.values())) for corpus in layout.corpora}
    rows = []
    for corpus in pool.corpora:
        quota = first.quotas[corpus.name]
        exact = plan.global_batch * quota
        reading = (readings or {}).get(corpus.name)
        rows.append(
            CorpusRow(
                corpus=corpus.name,
                samples=corpus.samples,
                left_out=(excluded or {}).get(str(SplitKey(corpus.name, "train")), 0),
                share=quota / first.slots,
                step=(exact // first.slots, -(-exact // first.slots)),
                epoch=quota,
                passes_epoch=quota / corpus.samples,
                passes_all=used[corpus.name] / corpus.samples,
                max_passes=entries(config)[corpus.name].max_passes,
                lanes=corpus.lanes,
                first_step=1 + _first_slot(tree, corpus.name) // plan.global_batch,
                padding=reading.padding if reading else None,
                step_bytes=reading.step_bytes if reading else None,
                heads=heads.get(corpus.name, ()),
            )
        )
    return rows


def _uses(phases: Sequence[Phase], plan: Plan) -> dict[str, float]:
    """Uses of each corpus in the whole run, to within a step."""
    ends = [*(phase.first_step for phase in phases[1:]), plan.total_steps]
    used: dict[str, float] = {}
    for phase, end in zip(phases, ends, strict=True):
        epochs = max(0, min(end, plan.total_steps) - phase.first_step) / phase.steps_per_epoch(plan.global_batch)
        for name, quota in phase.quotas.items():
            used[name] = used.get(name, 0.0) + epochs * quota
    return used


def _first_slot(tree: MixingTree, name: str) -> int:
    """Return the first slot of an epoch that belongs to a corpus."""
    low, high = 0, tree.total
    while low < high:
        middle = (low + high) // 2
        if tree.counts(middle + 1)[name]:
            high = middle
        else:
            low = middle + 1
    return low


def held_out_notes(layout: PoolLayout, splits: Collection[str]) -> list[str]:
    """Sentences about the corpora that are scored only.

    Args:
        layout: The corpora and heads.
        splits: The splits of the run, as texts of their `SplitKey`.
    """
    notes = []
    for corpus in layout.corpora:
        if corpus.held_out:
            own = [split for split in ("valid", "test") if str(SplitKey(corpus.name, split)) in splits]
            heads = ", ".join(f"{task} by head {head}" for task, head in corpus.heads.items())
            notes.append(f"{corpus.name} is held out, its {' and '.join(own)} scored: {heads}")
    return notes


def pool_notes(config: Config, plan: Plan) -> list[str]:
    """Sentences about a mix that may not be what was meant."""
    notes: list[str] = []
    if plan.pool is None:
        return notes
    phase = plan.pool.phases[0]
    for name, quota in phase.quotas.items():
        if plan.global_batch * quota * _RARE_STEPS < phase.slots:
            steps = phase.slots // max(plan.global_batch * quota, 1)
            notes.append(f"{name} has one sample in {steps:,} steps: raise its share, or lower data.mix.alpha")
        elif config.loss.consistency.weight and plan.group * quota < _FEWEST_IN_CELL * phase.slots:
            count = plan.group * quota / phase.slots
            notes.append(
                f"{name} has {count:.1f} samples in a group of {plan.group} slots: the consistency of its codes is "
                "mostly noise; raise train.global_batch or its share"
            )
    micro = plan.global_batch // plan.accumulation
    if config.loss.consistency.group is None and micro // plan.world > config.train.max_micro_batch:
        notes.append("groups of the whole batch do not fit into one micro-step; set loss.consistency.group")
    return notes
