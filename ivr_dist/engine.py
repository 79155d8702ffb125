"""DeepSpeed, and nothing but DeepSpeed: the only module that knows ZeRO.

The engine promises the loop that all four stages behave alike: the same gradients from the same scaled loss, the
gradient norm of every step, no silently skipped step, and full weights on demand.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ivr_dist import compiling
from ivr_dist import device as device_module
from ivr_dist.collectives import is_distributed
from ivr_dist.errors import CheckpointError, CheckpointMismatchError
from ivr_dist.optim import parameter_groups

_TAG = "engine"


class Engine:
    """A model under DeepSpeed.

    Args:
        model: The unpartitioned model, the same weights on every rank.
        deepspeed_config: DeepSpeed's own config, as `plan` derived it.
        weight_decay: AdamW's decay of the matrices.
        device: This worker's device.
        backend: Compiles the model (`torch.compile`), for training steps only; `none` leaves it as it is.

    The process group must exist already.
    """

    def __init__(
        self,
        model: nn.Module,
        deepspeed_config: dict[str, Any],
        *,
        weight_decay: float,
        device: torch.device,
        backend: str = compiling.NONE,
    ) -> None:
        device_module.configure_process()
        # DeepSpeed insists on a launcher's variable; Ray sets it, a plain process group does not.
        os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        # DeepSpeed calls collectives by names that torch 2.13 deprecates, once each for every step.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        with _quiet():
            import deepspeed

            deepspeed.init_distributed(dist_backend=device_module.backend(), verbose=False)
            groups = parameter_groups(model, weight_decay)
            # Kept here, because a checkpoint's optimizer state brings the groups' own settings back.
            self._rates = [group["rate"] for group in groups]
            self._engine, _, _, _ = deepspeed.initialize(
                model=model.to(device), model_parameters=groups, config=deepspeed_config
            )
            if backend != compiling.NONE:
                compiling.prepare(backend)
                self._engine.compile(backend=backend)
        self._backend = backend
        self.device = device
        self.stage = int(self._engine.zero_optimization_stage())

    def forward(self, batch: Any) -> Any:
        """Run the model on one micro-batch; every rank must call it equally often."""
        return self._engine(batch)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro-step's loss, scaled as method 3b asks (DeepSpeed averages)."""
        self._engine.backward(loss)

    def finish_micro_step(self) -> None:
        """Close a micro-step that is not the last one of its step."""
        self._engine.step()

    def apply(self, rates: Mapping[str, float]) -> float:
        """Close the last micro-step: clip, and update the weights.

        Args:
            rates: Learning rates by the names of `optim.parameter_groups`: `main`, and `text` of a pretrained encoder.

        Returns:
            The norm of all gradients before clipping; not finite when the step must not count. Stage 0 leaves the
            weights alone then, the other stages may or may not: the caller ends the run.
        """
        norm = self._stage0_norm() if self.stage == 0 else math.nan
        if self.stage == 0 and not math.isfinite(norm):
            return norm
        for group, rate in zip(self._engine.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rates[rate]
        self._engine.step()
        if self.stage == 0:
            return norm
        reported = self._engine.get_global_grad_norm()
        return math.nan if reported is None else float(reported)

    def _stage0_norm(self) -> float:
        # Stage 0 in float32 keeps no norm of its own. Gradients are already averaged over the ranks here.
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in grads])))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Dropout off, no graph, nothing compiled; training mode again afterwards."""
        self._engine.eval()
        # Compiling takes longer than a pass over a validation split saves.
        try:
            with torch.no_grad(), compiling.uncompiled(self._backend):
                yield
        finally:
            self._engine.train()

    def train(self) -> None:
        """Enter training mode."""
        self._engine.train()

    def num_parameters(self) -> int:
        """Trainable parameters of the whole model, whatever part of them this rank holds."""
        return sum(int(getattr(p, "ds_numel", p.numel())) for p in self._engine.module.parameters() if p.requires_grad)

    def full_weights(self) -> dict[str, Tensor]:
        """Every float32 weight and buffer on the host, under the model's own names; a collective call.

        All ranks take part; rank 0 gets the weights, the others an empty dict.
        """
        module = self._engine.module
        keep = not is_distributed() or torch.distributed.get_rank() == 0
        weights: dict[str, Tensor] = {}
        import deepspeed

        for name, parameter in module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                if keep:
                    weights[name] = parameter.detach().float().cpu().clone()
        if keep:
            # Buffers that a module makes anew by itself are no part of its state.
            saved = module.state_dict().keys()
            weights.update({n: buffer.detach().cpu().clone() for n, buffer in module.named_buffers() if n in saved})
        return weights

    def save(self, directory: Path) -> None:
        """Write this rank's part of weights and optimizer state below `directory`; a collective call."""
        (directory / _TAG).mkdir(parents=True, exist_ok=True)
        with _quiet():
            self._engine.save_checkpoint(str(directory), tag=_TAG, save_latest=False)

    def load(self, directory: Path) -> None:
        """Load what `save` wrote at the same stage and world size; `directory` holds the parts of all ranks.

        Raises:
            CheckpointMismatchError: The weights belong to another model.
            CheckpointError: DeepSpeed could not read its files.
        """
        try:
            with _quiet():
                path, _ = self._engine.load_checkpoint(str(directory), tag=_TAG)
        except (RuntimeError, KeyError, AssertionError) as error:
            raise CheckpointMismatchError(
                f"the checkpoint does not fit this model: {str(error).splitlines()[0]}",
                remedy="use the config it was written with, or start a new run with run.resume=never",
            ) from error
        if path is None:
            raise CheckpointError(
                "DeepSpeed found no checkpoint files", where=str(directory), remedy="resume from an earlier checkpoint"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep DeepSpeed's start-up chatter off the console; its errors stay."""
    logger = logging.getLogger("DeepSpeed")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
