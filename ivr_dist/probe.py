"""The regularizer made visible: how strongly SVR pulls on the codes, and whether with the task or against it.

Gradients are taken with respect to the codes, never the parameters, so this works at every ZeRO stage (method 3b.6).
The fusion reads the codes through identity branches: the gradient that arrives there is the task's alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ivr_dist.collectives import sum_over_ranks, world_size
from ivr_dist.model import IVROutput


class SvrProbe:
    """Measures one optimizer step, over all its micro-steps and ranks."""

    def __init__(self) -> None:
        self._svr_square = 0.0
        self._task_square = 0.0
        self._product = 0.0
        self._svr_grads: list[Tensor | None] = []

    def before_backward(self, output: IVROutput, svr_loss: Tensor) -> None:
        """Take SVR's gradient with respect to the codes, and ask the branches to keep theirs."""
        for branch in _branches(output):
            branch.retain_grad()
        codes = _codes(output)
        if svr_loss.requires_grad:
            self._svr_grads = list(torch.autograd.grad(svr_loss, codes, retain_graph=True, allow_unused=True))
        else:
            self._svr_grads = [None] * len(codes)

    def after_backward(self, output: IVROutput) -> None:
        """Read the task's gradient off the branches.

        The loss was multiplied by the world size before backward, and so was this gradient; SVR's was taken without.
        """
        for svr, branch in zip(self._svr_grads, _branches(output), strict=True):
            task = None if branch.grad is None else branch.grad.double() / world_size()
            if svr is not None:
                self._svr_square += float(svr.double().square().sum())
            if task is not None:
                self._task_square += float(task.square().sum())
            if svr is not None and task is not None:
                self._product += float((svr.double() * task).sum())

    def result(self) -> dict[str, float]:
        """`svr_grad_norm`, `task_grad_norm`, `cosine` (0 when either gradient vanishes); a collective call."""
        sums = torch.tensor([self._svr_square, self._task_square, self._product], dtype=torch.float64)
        svr, task, product = sum_over_ranks(sums).tolist()
        norms = math.sqrt(svr) * math.sqrt(task)
        return {
            "svr_grad_norm": math.sqrt(svr),
            "task_grad_norm": math.sqrt(task),
            "cosine": product / norms if norms > 0 else 0.0,
        }


def _codes(output: IVROutput) -> list[Tensor]:
    return [code for name in output.branch for code in (output.shared[name], output.private[name])]


def _branches(output: IVROutput) -> list[Tensor]:
    return [branch for name in output.branch for branch in output.branch[name]]
