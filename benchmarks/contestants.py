"""What `step.py` lets race: training steps of the presets, and of the released method written the plain way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from plain import WIDTHS, PlainRelease
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.data.batches.batch import Batch, in_blocks, modality_batch
from ivr_dist.engine.param_groups import parameter_groups
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import loss_terms
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.runtime import compilation
from ivr_dist.shards.specs import TaskSpec
from ivr_dist.training.svr_probe import SvrProbe

TASK = "sentiment"
PARTS = ("forward", "losses", "backward", "update")


MODES = ("whole", "task", "probed")
"""A training step; one with the task's loss alone; one that measures SVR's gradient too."""


class Contestant(ABC):
    """A model that can take training steps.

    Args:
        model: The model.
        optimizer: Updates it.
        dtype: Type of the forward pass.
        clock: Tells the time in seconds.
    """

    modes: tuple[str, ...] = MODES

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, dtype: torch.dtype, clock: Callable[[], float]
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.dtype = dtype
        self.clock = clock

    @abstractmethod
    def loss(self, mode: str) -> tuple[float, Tensor]:
        """The time when the forward pass was done, and the loss."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss."""
        loss.backward()

    @abstractmethod
    def forward(self) -> None:
        """The model's forward pass alone, not compiled."""

    def step(self, mode: str) -> dict[str, float]:
        """One step; the seconds of its parts."""
        started = self.clock()
        with self.autocast():
            forward, loss = self.loss(mode)
        losses = self.clock()
        self.backward(loss)
        backward = self.clock()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        ends = (forward, losses, backward, self.clock())
        return dict(zip(PARTS, [b - a for a, b in zip((started, *ends), ends, strict=False)], strict=True))

    def autocast(self) -> AbstractContextManager[Any]:
        """What the forward pass runs in."""
        return torch.autocast("cpu", self.dtype) if self.dtype != torch.float32 else nullcontext()

    def flops(self) -> float:
        """Floating-point operations of the matrix products of one step: those of the forward pass three times."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.forward()
        return 3.0 * counter.get_total_flops()


class Plain(Contestant):
    """The yardstick."""

    modes = ("whole",)

    def __init__(self, batch: Batch, dtype: torch.dtype, clock: Callable[[], float], *, backend: str) -> None:
        model = PlainRelease()
        super().__init__(model, torch.optim.AdamW(model.parameters(), lr=1e-5), dtype, clock)
        self.features = {name: part.features for name, part in batch.modalities.items()}
        self.labels = batch.labels[TASK]
        self.run = compilation.compiled(model, backend)

    def forward(self) -> None:
        """One pass, losses included."""
        self.model(self.features, self.labels)

    def loss(self, mode: str) -> tuple[float, Tensor]:
        """All terms as released; there is no telling forward from losses here."""
        terms = self.run(self.features, self.labels)
        forward = self.clock()
        total = sum(({"adversary": 0.4}.get(name, 1.0) * value for name, value in terms.items()), torch.zeros(()))
        return forward, total


class Ours(Contestant):
    """A preset of `ivr_dist`, without DeepSpeed.

    Args:
        preset: `ivr` or `release`, at its own sizes and dropout.
        batch: What every step trains on.
        dtype: Type of the forward pass.
        clock: Tells the time in seconds.
        backend: Compiles model and losses, or `none`.
    """

    def __init__(
        self, preset: str, batch: Batch, dtype: torch.dtype, clock: Callable[[], float], *, backend: str
    ) -> None:
        self.config = settings(preset, len(batch))
        spec = ModelSpec(
            features={name: ("features", width) for name, width in WIDTHS.items()},
            tasks={TASK: TaskSpec(type="regression", low=-3.0, high=3.0)},
        )
        model = build_model(self.config.model, spec, self.config.loss)
        groups = parameter_groups(model, self.config.train.weight_decay)
        super().__init__(model, torch.optim.AdamW(groups, lr=1e-5, fused=True), dtype, clock)
        self.batch = batch
        self.layout = StepLayout(len(batch), 1, self.config.loss.consistency.group)
        counted = local_counts([batch], self.layout, MODALITIES, [TASK])
        self.counts = StepCounts.from_vector(counted, self.layout, MODALITIES, [TASK])
        loss = self.config.loss
        names = ("consistency", "adversary", "reconstruction", "svr")
        self.weights = {"task": 1.0, **{name: getattr(loss, name).weight for name in names}}
        self.run = compilation.compiled(model, backend)
        self.terms = compilation.compiled(loss_terms, backend)
        self._probe: tuple[SvrProbe, IVROutput] | None = None

    def forward(self) -> None:
        """One pass."""
        self.model(self.batch)

    def loss(self, mode: str) -> tuple[float, Tensor]:
        """Forward, then the terms."""
        output = self.run(self.batch)
        forward = self.clock()
        if mode == "task":
            return forward, (output.predictions[TASK].float() - self.batch.labels[TASK]).square().mean()
        terms = self.terms(output, self.batch, self.counts, self.layout, self.config, 0, 1, lambda x: x)
        if mode == "probed":
            self._probe = SvrProbe(), output
            self._probe[0].before_backward(output, terms.family("svr", self.weights, 1))
        return forward, terms.total(self.weights, 1, 1)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, and what the probe makes of those of the codes."""
        loss.backward()
        if self._probe is not None:
            self._probe[0].after_backward(self._probe[1])
            self._probe[0].result()
            self._probe = None


def settings(preset: str, batch: int) -> Config:
    """A preset at its own sizes and dropout."""
    group = max(size for size in range(1, min(batch, 64) + 1) if batch % size == 0)
    return load_config(
        None,
        [
            f"model.preset={preset}",
            "data.train=unused",
            "train.select=last",
            f"train.global_batch={batch}",
            f"loss.consistency.group={group}",
        ],
    )


def make_batch(lengths: Tensor) -> Batch:
    """Random features; every modality as long as `lengths` [B] says, padded to the longest."""
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    size = len(lengths)
    return Batch(
        keys=tuple(map(str, range(size))),
        slots=torch.arange(size),
        modalities=in_blocks({m: modality_batch(torch.randn(*mask.shape, width), mask) for m, width in WIDTHS.items()}),
        labels={TASK: torch.randn(size)},
        label_mask={TASK: torch.ones(size, dtype=torch.bool)},
    )


def made(name: str, lengths: Tensor, dtype: torch.dtype, clock: Callable[[], float], *, backend: str) -> Contestant:
    """A contestant by name; `lengths` [B] are the steps of its samples."""
    torch.manual_seed(0)
    if name in ("corpus", "pool"):
        from pool_contestants import Pooled

        return Pooled(name, lengths, dtype, clock, backend=backend)
    # The release counts padding as steps.
    batch = make_batch(lengths.max().expand_as(lengths) if name == "release" else lengths)
    if name == "plain":
        return Plain(batch, dtype, clock, backend=backend)
    return Ours(name, batch, dtype, clock, backend=backend)
