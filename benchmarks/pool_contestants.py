"""What `pool_step.py` lets race: the same samples as one corpus, and as a pool of other feature sets and heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from contestants import Contestant, settings
from plain import WIDTHS
from torch import Tensor

from ivr_dist.data.batches.batch import Batch, ModalityBatch, SetSteps, in_blocks, modality_batch
from ivr_dist.engine.param_groups import parameter_groups
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import loss_terms
from ivr_dist.model.adapters import with_two_steps
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.planning.pool_layout import CorpusLayout, PoolLayout
from ivr_dist.runtime import compilation
from ivr_dist.shards.specs import TaskSpec

SETS = {"text": 6, "audio": 5, "vision": 5}
"""Feature sets of the pool by modality; each as wide as the modality in one corpus."""
CORPORA = 8
"""Corpora of the pool; each has a head."""
POOLS = {"corpus": 1, "pool": CORPORA}
"""Contestants, and their corpora."""

_TASK = TaskSpec(type="regression", low=-1.0, high=1.0)


class Pooled(Contestant):
    """Preset `ivr`: counts, forward pass, losses by corpus, backward pass and update.

    Args:
        name: `corpus` or `pool`.
        lengths: [B] steps of each sample in each modality.
        dtype: Type of the forward pass.
        clock: Tells the time in seconds.
        backend: Compiles model and losses, or `none`.
    """

    modes = ("whole",)

    def __init__(
        self, name: str, lengths: Tensor, dtype: torch.dtype, clock: Callable[[], float], *, backend: str
    ) -> None:
        self.config = settings("ivr", len(lengths))
        pool = pool_of(POOLS[name])
        self.heads = list(pool.heads)
        model = build_model(self.config.model, ModelSpec.of(pool), self.config.loss)
        groups = parameter_groups(model, self.config.train.weight_decay)
        super().__init__(model, torch.optim.AdamW(groups, lr=1e-5, fused=True), dtype, clock)
        self.batch = batch_of(pool, lengths)
        if backend != compilation.NONE:
            self.batch = with_two_steps(self.batch)
        group = self.config.loss.consistency.group
        self.layout = StepLayout(len(lengths), 1, group, pool.corpora if pool.is_pool else ())
        loss = self.config.loss
        terms = ("consistency", "adversary", "reconstruction", "svr")
        self.weights = {"task": 1.0, **{term: getattr(loss, term).weight for term in terms}}
        self.run = compilation.compiled(model, backend)
        self.terms = compilation.compiled(loss_terms, backend)

    def forward(self) -> None:
        """One pass."""
        self.model(self.batch)

    def loss(self, mode: str) -> tuple[float, Tensor]:
        """Counts and forward, then the terms."""
        names = list(self.batch.modalities)
        counted = local_counts([self.batch], self.layout, names, self.heads)
        counts = StepCounts.from_vector(counted, self.layout, names, self.heads)
        output = self.run(self.batch)
        forward = self.clock()
        terms = self.terms(output, self.batch, counts, self.layout, self.config, 0, 1, lambda x: x)
        return forward, terms.total(self.weights, 1, 1)


def pool_of(corpora: int) -> PoolLayout:
    """A pool of so many corpora, with a task of its own each; one has one feature set a modality."""
    sets = {m: {f"{m}{n}": ("features", WIDTHS[m]) for n in range(SETS[m] if corpora > 1 else 1)} for m in WIDTHS}
    members = tuple(
        CorpusLayout(
            name=f"corpus{number}",
            sets={m: f"{m}{number % len(own)}" for m, own in sets.items()},
            tasks={f"task{number}": _TASK},
            heads={f"task{number}": f"task{number}"},
        )
        for number in range(corpora)
    )
    heads = {f"task{number}": _TASK for number in range(corpora)}
    return PoolLayout(corpora=members, sets=sets, heads=heads, is_pool=corpora > 1)


def batch_of(pool: PoolLayout, lengths: Tensor) -> Batch:
    """Random samples of all corpora in turn."""
    size = len(lengths)
    corpus = torch.arange(size) % len(pool.corpora)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    parts = {m: modality_batch(torch.randn(*mask.shape, WIDTHS[m]), mask) for m in pool.sets}
    if pool.is_pool:
        parts = {
            m: _by_set(part, [c.sets[m] for c in pool.corpora], list(pool.sets[m]), corpus) for m, part in parts.items()
        }
    return Batch(
        keys=tuple(map(str, range(size))),
        slots=torch.arange(size),
        modalities=in_blocks(parts),
        labels={head: torch.rand(size) for head in pool.heads},
        label_mask={head: corpus == number for number, head in enumerate(pool.heads)},
        corpus=corpus if pool.is_pool else torch.zeros(0, dtype=torch.long),
    )


def _by_set(part: ModalityBatch, set_of: list[str], names: list[str], corpus: Tensor) -> ModalityBatch:
    """Divide a padded modality by feature set, as a batch of a pool is collated."""
    steps = part.features.flatten(0, 1).index_select(0, part.flat)
    number = torch.tensor([names.index(own) for own in set_of])[corpus].index_select(0, part.sample)
    gathered = torch.argsort(number, stable=True)
    counts = torch.bincount(number, minlength=len(names)).tolist()
    sets = {name: SetSteps(own.clone()) for name, own in zip(names, steps[gathered].split(counts), strict=True)}
    empty = part.features.new_zeros(*part.mask.shape, 0)
    return replace(part, features=empty, sets=sets, order=torch.argsort(gathered))
