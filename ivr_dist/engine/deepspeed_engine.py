"""DeepSpeed engine: forward, backward, update and checkpoint access, uniform over all ZeRO stages.

The training loop relies on equal behavior of all four stages: the same gradients from the same scaled loss, the
gradient norm of every step, no silently skipped step, and full weights on demand.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ivr_dist.checkpoint.fragments import Fragment, saved_buffers
from ivr_dist.checkpoint.tensors import CheckpointTensors
from ivr_dist.engine import zero_layout
from ivr_dist.engine.param_groups import parameter_groups, rate_of
from ivr_dist.runtime import collectives, compilation
from ivr_dist.runtime import device as device_module


class Engine:
    """A model under DeepSpeed.

    Args:
        model: The unpartitioned model, the same weights on every rank.
        deepspeed_config: DeepSpeed's own config, as `plan` derived it.
        weight_decay: AdamW's decay of the matrices.
        device: This worker's device.
        backend: Backend of `torch.compile`, for training steps only; `none`: not compiled.

    The process group must exist already.
    """

    def __init__(
        self,
        model: nn.Module,
        deepspeed_config: dict[str, Any],
        *,
        weight_decay: float,
        device: torch.device,
        backend: str = compilation.NONE,
    ) -> None:
        # DeepSpeed insists on a launcher's variable; Ray sets it, a plain process group does not.
        os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        # DeepSpeed calls collectives by names that torch 2.13 deprecates, once each for every step.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        with _quiet(), compilation.without_importing_compiler(backend):
            device_module.configure_process()
            import deepspeed

            deepspeed.init_distributed(dist_backend=device_module.backend(), verbose=False)
            groups = parameter_groups(model, weight_decay)
            self._engine, _, _, _ = deepspeed.initialize(
                model=model.to(device), model_parameters=groups, config=deepspeed_config
            )
            compilation.spare_steps(self._engine.basic_optimizer, backend)
            if backend != compilation.NONE:
                compilation.prepare(backend)
                self._engine.compile(backend=backend)
        self._backend = backend
        self.device = device
        self.stage = int(self._engine.zero_optimization_stage())

    def forward(self, batch: Any) -> Any:
        """Run the model on one micro-batch; every rank must call it equally often."""
        return self._engine(batch)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro-step's loss, scaled as method 3b requires (DeepSpeed averages)."""
        self._engine.backward(loss)

    def finish_micro_step(self) -> None:
        """Close a micro-step that is not the last one of its step."""
        self._engine.step()

    def step(self, rates: Mapping[str, float]) -> float:
        """Close the last micro-step: clip, and update the weights.

        Args:
            rates: Learning rates: `main`, `text` of a pretrained encoder, `muon` of what Muon updates.

        Returns:
            The norm of all gradients before clipping; not finite if the step was discarded: weights and optimizer are
            unchanged then, and the gradients are dropped.
        """
        norm = self._stage0_norm() if self.stage == 0 else math.nan
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rates[rate_of(group)]
        with _without_update(self._engine.optimizer) if self.stage == 0 and not math.isfinite(norm) else nullcontext():
            self._engine.step()
        if self.stage == 0:
            return norm
        # ZeRO checks for values that are not finite before any update; stage 3 then still has the previous norm.
        if self._engine.optimizer.overflow:
            return math.inf
        reported = self._engine.get_global_grad_norm()
        return math.nan if reported is None else float(reported)

    def _stage0_norm(self) -> float:
        # Stage 0 in float32 computes no norm. Gradients are already averaged over the ranks here.
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in grads])))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Enter evaluation mode: no dropout, no graph, not compiled; training mode is restored afterwards."""
        self._engine.eval()
        # Compiling takes longer than a pass over a validation split saves.
        try:
            with torch.no_grad(), compilation.uncompiled(self._backend):
                yield
        finally:
            self._engine.train()

    def train(self) -> None:
        """Enter training mode."""
        self._engine.train()

    def num_parameters(self) -> int:
        """Count the trainable parameters of the whole model, over all ranks' partitions."""
        return sum(int(getattr(p, "ds_numel", p.numel())) for p in self._engine.module.parameters() if p.requires_grad)

    def shapes(self) -> dict[str, list[int]]:
        """Return the full shape of every parameter and saved buffer, also of partitioned ones."""
        module = self._engine.module
        parameters = {name: list(getattr(p, "ds_shape", p.shape)) for name, p in module.named_parameters()}
        return parameters | {name: list(buffer.shape) for name, buffer in saved_buffers(module).items()}

    def fragments(self) -> list[Fragment]:
        """Return this rank's share of weights and optimizer state, as views of live memory."""
        return zero_layout.owned(self._engine, collectives.rank(), collectives.world_size())

    def restore(self, source: CheckpointTensors) -> None:
        """Restore the optimizer state from a checkpoint written at any stage by any number of workers.

        The model must have the checkpoint's weights before the engine is built.

        Raises:
            CheckpointError: The checkpoint lacks elements that this rank needs.
        """
        for piece in zero_layout.state_slices(self._engine, source.states):
            piece.target.copy_(source.read(piece.parameter, piece.state, piece.offset, piece.target.numel()))
        zero_layout.put_scalars(self._engine, source.scalars)


@contextmanager
def _without_update(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let DeepSpeed close a step without an update: stage 0 does not check gradients for infinities."""
    optimizer.zero_grad(set_to_none=False)
    update = optimizer.step
    optimizer.step = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        optimizer.step = update  # type: ignore[method-assign]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep DeepSpeed's start-up messages off the console; its errors stay."""
    logger = logging.getLogger("DeepSpeed")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
