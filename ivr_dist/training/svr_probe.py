"""Gradient probe of SVR: the norm of its gradient at the codes, and its cosine to the task's gradient.

Gradients are computed with respect to the codes, never the parameters, so this works at every ZeRO stage (method 3b.6).
The fusion reads the codes through identity branches, whose gradient is that of the task alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ivr_dist.model.spec import IVROutput
from ivr_dist.runtime.collectives import sum_over_ranks, world_size


class SvrProbe:
    """Measures one optimizer step, over all its micro-steps and ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        """By modality: squared norms of SVR's and the task's gradient, their inner product; on the codes' device."""
        self._svr_grads: dict[str, tuple[Tensor | None, ...]] = {}

    def before_backward(self, output: IVROutput, svr_loss: Tensor) -> None:
        """Compute SVR's gradient with respect to the codes, and retain the gradients of the branches."""
        for branch in output.branch.values():
            for code in branch:
                code.retain_grad()
        codes = [code for name in output.branch for code in (output.shared[name], output.private[name])]
        grads: tuple[Tensor | None, ...] = (None,) * len(codes)
        if svr_loss.requires_grad:
            grads = torch.autograd.grad(svr_loss, codes, retain_graph=True, allow_unused=True)
        self._svr_grads = {name: grads[2 * number : 2 * number + 2] for number, name in enumerate(output.branch)}

    def after_backward(self, output: IVROutput) -> None:
        """Read the task's gradient off the branches.

        The loss was multiplied by the world size before backward, and so was this gradient; SVR's was not.
        """
        for name, branch in output.branch.items():
            for svr, code in zip(self._svr_grads[name], branch, strict=True):
                products = _products(svr, None if code.grad is None else code.grad / world_size(), code.device)
                self._sums[name] = self._sums[name] + products if name in self._sums else products

    def result(self) -> dict[str, float]:
        """`svr_grad_norm`, `task_grad_norm` and `cosine` over all codes, and by modality as `MODALITY/cosine` ...

        A cosine is 0 where either gradient vanishes. A collective call.
        """
        # One copy to the host per step, since each copy synchronizes with the GPU.
        totals = sum_over_ranks(torch.stack(list(self._sums.values())).cpu())
        measurements = _measurements(totals.sum(dim=0))
        for name, sums in zip(self._sums, totals, strict=True):
            measurements |= {f"{name}/{what}": value for what, value in _measurements(sums).items()}
        return measurements


def _products(svr: Tensor | None, task: Tensor | None, device: torch.device) -> Tensor:
    """[3] float64 on `device`: squared norms of two gradients there and their inner product; an absent one is 0."""
    absent = torch.zeros((), dtype=torch.float64, device=device)
    a = None if svr is None else svr.flatten().double()
    b = None if task is None else task.flatten().double()
    return torch.stack(
        [
            absent if a is None else a @ a,
            absent if b is None else b @ b,
            absent if a is None or b is None else a @ b,
        ]
    )


def _measurements(sums: Tensor) -> dict[str, float]:
    svr, task, product = sums.tolist()
    norms = math.sqrt(svr) * math.sqrt(task)
    return {
        "svr_grad_norm": math.sqrt(svr),
        "task_grad_norm": math.sqrt(task),
        "cosine": product / norms if norms > 0 else 0.0,
    }
