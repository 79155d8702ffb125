"""The gradient probe of SVR against gradients computed one by one."""

from __future__ import annotations

import math

import pytest
import torch

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config
from ivr_dist.losses.step_counts import StepLayout
from ivr_dist.losses.terms import LossTerms, loss_terms
from ivr_dist.model.spec import IVROutput
from ivr_dist.training.svr_probe import SvrProbe
from tests.batches import WEIGHTS, batch_of, count, make_model, mixed_samples, no_reduce


def forward(micro: int) -> tuple[IVROutput, LossTerms]:
    """Two micro-steps of 6 samples make the global batch of 12."""
    samples, layout = mixed_samples(12), StepLayout(12, 2, 6)
    parts = [batch_of(samples[:6], range(6)), batch_of(samples[6:], range(6, 12))]
    output: IVROutput = make_model()(parts[micro])
    counts = count(parts, layout)
    return output, loss_terms(output, parts[micro], counts, layout, Config(), micro, 1, no_reduce)


def expected() -> dict[str, list[torch.Tensor]]:
    """By modality: squared norms and inner product, from autograd on SVR alone and on the task alone."""
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in MODALITIES}
    for micro in (0, 1):
        output, terms = forward(micro)
        for name in MODALITIES:
            codes = [output.shared[name], output.private[name]]
            svr = torch.autograd.grad(terms.family("svr", WEIGHTS, 1), codes, retain_graph=True)
            task = torch.autograd.grad(terms.family("task", WEIGHTS, 1), codes, retain_graph=True)
            a, b = (torch.cat([part.flatten() for part in grads]).double() for grads in (svr, task))
            sums[name] += torch.stack([a @ a, b @ b, a @ b])
    return {name: list(found) for name, found in sums.items()}


def measured() -> dict[str, float]:
    probe = SvrProbe()
    for micro in (0, 1):
        output, terms = forward(micro)
        probe.before_backward(output, terms.family("svr", WEIGHTS, 1))
        # One rank; DeepSpeed divides by the two micro-steps.
        (terms.total(WEIGHTS, 1, 2) / 2).backward()
        probe.after_backward(output)
    return probe.result()


def test_norms_and_cosine_of_each_modality_and_of_all() -> None:
    found, sums = measured(), expected()
    svr, task, product = (sum(float(part[k]) for part in sums.values()) for k in range(3))
    assert found["svr_grad_norm"] == pytest.approx(math.sqrt(svr), rel=1e-5)
    assert found["task_grad_norm"] == pytest.approx(math.sqrt(task), rel=1e-5)
    assert found["cosine"] == pytest.approx(product / math.sqrt(svr * task), rel=1e-4)
    for name, (a, b, ab) in sums.items():
        assert found[f"{name}/svr_grad_norm"] == pytest.approx(math.sqrt(a), rel=1e-5)
        assert found[f"{name}/task_grad_norm"] == pytest.approx(math.sqrt(b), rel=1e-5)
        assert found[f"{name}/cosine"] == pytest.approx(float(ab) / math.sqrt(a * b), rel=1e-4)


def test_a_regularizer_without_gradient_has_norm_and_cosine_0() -> None:
    probe = SvrProbe()
    output, terms = forward(0)
    probe.before_backward(output, terms.family("svr", WEIGHTS, 1).detach())
    terms.total(WEIGHTS, 1, 1).backward()
    probe.after_backward(output)
    found = probe.result()
    assert (found["svr_grad_norm"], found["cosine"]) == (0.0, 0.0)
    assert found["task_grad_norm"] > 0
