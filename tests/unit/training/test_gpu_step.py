"""GPU transfers and synchronizations of a training step, observed on a fake device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict
from ivr_dist.data.batches.batch import Batch
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.losses.step_counts import StepLayout
from ivr_dist.losses.terms import loss_terms
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.planning.plan import make_plan
from ivr_dist.training.svr_probe import SvrProbe
from ivr_dist.training.train_step import StepResult, TrainStep
from tests.batches import DIMS, TASKS, WEIGHTS, batch_of, count, mixed_samples, no_reduce
from tests.fake_gpu import FAKE, FakeGpu, fake_gpu

# Operations that PyTorch refuses on CUDA in its deterministic mode, by the documentation of
# `torch.use_deterministic_algorithms` and what calls `alertNotDeterministic`.
REFUSED = {
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "_ctc_loss_backward",
    "_embedding_bag_backward",
    "_embedding_bag_dense_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "bincount",
    "cumsum",
    "cumsum_",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "histc",
    "index_reduce",
    "index_reduce_",
    "kthvalue",
    "max_unpool2d",
    "max_unpool3d",
    "median",
    "nanmedian",
    "nll_loss2d_backward",
    "nll_loss2d_forward",
    "put",
    "put_",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "reflection_pad3d_backward",
    "scatter_reduce",
    "scatter_reduce_",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "private codes": {"svr": {"codes": ["private"]}},
    "shared codes": {"svr": {"codes": ["shared"]}},
    "text alone": {"svr": {"modalities": ["text"]}},
    "no svr": {"loss": {"svr": {"weight": 0.0}}},
    "divergence": {"svr": {"kind": "js"}},
    "squares": {"svr": {"kind": "l2"}, "loss": {"regression": "mse"}},
    "dropouts": {"model": {"input_dropout": 0.1, "feature_dropout": 0.1, "modality_dropout": 0.1}},
    "recurrent, none, two layers": {
        "model": {"audio": {"kind": "gru"}, "vision": {"kind": "none"}, "text": {"layers": 2}}
    },
    "gate none, first step": {"model": {"fusion": {"gate": "none", "pooling": "first", "content": "both"}}},
    "gate hard, max": {"model": {"fusion": {"gate": "hard", "pooling": "max", "content": "shared"}}},
    "straight through, attention": {"model": {"fusion": {"gate": "straight_through", "pooling": "attention"}}},
    "pooled, both reversed": {"loss": {"reconstruction": {"per": "pooled"}, "adversary": {"reverse": "both"}}},
    "audio and vision": {"data": {"modalities": ["audio", "vision"]}},
    "text, and nothing else": {"data": {"modalities": ["text"]}},
    "release": {"model": {"preset": "release"}},
}


LAYOUT = StepLayout(12, 2, 6)


def config_of(settings: Mapping[str, Any]) -> Config:
    """A step of 12 samples in two micro-steps, with the probe."""
    base: dict[str, Any] = {
        "data": {"train": "unused"},
        "train": {"global_batch": 12, "accumulation": 2, "select": "last"},
        "loss": {"consistency": {"group": 6}},
        "model": {"hidden": 8},
        "log": {"svr_every": 1},
    }
    for section, values in settings.items():
        base[section] = {**base.get(section, {}), **values}
    return from_dict(base)


class FakeEngine:
    """A model without DeepSpeed, on a device without values."""

    device = FAKE

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def forward(self, batch: Batch) -> IVROutput:
        output: IVROutput = self.model(batch)
        return output

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def finish_micro_step(self) -> None:
        pass

    def step(self, rates: Mapping[str, float]) -> float:
        return 1.0


def batches_of(config: Config) -> list[Batch]:
    """Two micro-batches on the host."""
    samples, common = mixed_samples(12), 6 if config.model.preset == "release" else None
    return [
        batch_of(samples[rows], range(12)[rows], modalities=config.data.modalities, common=common)
        for rows in (slice(6), slice(6, 12))
    ]


def model_of(config: Config) -> nn.Module:
    with torch.device(FAKE):
        spec = ModelSpec({name: ("features", DIMS[name]) for name in config.data.modalities}, TASKS)
        return build_model(config.model, spec, config.loss).train()


def one_step(config: Config) -> tuple[FakeGpu, StepResult]:
    batches = batches_of(config)
    engine = cast(Engine, FakeEngine(model_of(config)))
    train_step = TrainStep(config, make_plan(config, 12, 1), engine, TASKS)
    with fake_gpu() as gpu:
        result = train_step.run(0, batches, count(batches, LAYOUT))
    return gpu, result


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_mixes_no_devices_and_is_deterministic(name: str) -> None:
    gpu, result = one_step(config_of(SETTINGS[name]))
    assert {"svr_grad_norm", "task_grad_norm", "cosine"} <= result.svr.keys()
    assert len(gpu.operations) > 40, "the recorder saw the step"
    assert gpu.operations & REFUSED == set()


@pytest.mark.parametrize("name", ["defaults", "private codes", "text alone", "release"])
def test_the_probe_waits_for_the_gpu_once_a_step(name: str) -> None:
    config = config_of(SETTINGS[name])
    batches, probe, model, waits = batches_of(config), SvrProbe(), model_of(config), 0
    with fake_gpu() as gpu:
        for micro, batch in enumerate(batches):
            moved = batch.to(FAKE)
            output = model(moved)
            terms = loss_terms(output, moved, count(batches, LAYOUT), LAYOUT, config, micro, 1, no_reduce)
            total = terms.total(WEIGHTS, 1, 2)
            waits -= gpu.waits
            probe.before_backward(output, terms.family("svr", WEIGHTS, 1))
            total.backward()
            probe.after_backward(output)
            waits += gpu.waits
        assert waits == 0
        waits -= gpu.waits
        probe.result()
        assert waits + gpu.waits == 1


def test_the_recorder_refuses_what_a_gpu_would() -> None:
    there, here = torch.ones(3, device=FAKE), torch.ones(3)
    with fake_gpu() as gpu:
        for mixed in (
            lambda: there + here,
            lambda: torch.stack([there.sum(), here.sum()]),
            lambda: there.index_select(0, torch.tensor([1])),
        ):
            with pytest.raises(RuntimeError, match="on the same device"):
                mixed()
        assert (there + here.sum()).device == FAKE, "a scalar of the host may take part"
        there.cumsum(0)
        assert there.cpu().tolist() == [1.0, 1.0, 1.0]
        assert float(there.sum()) == 1.0
    assert gpu.waits == 2
    assert "cumsum" in gpu.operations & REFUSED
