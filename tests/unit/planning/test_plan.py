"""Plans over many layouts, and the DeepSpeed config derived from them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ivr_dist.config import (
    CheckpointConfig,
    Config,
    ConsistencyConfig,
    DataConfig,
    LossConfig,
    SvrWeightConfig,
    TrainConfig,
    ZeroConfig,
)
from ivr_dist.data.sample_order import EpochOrder, micro_slots, rank_slots
from ivr_dist.errors import ConfigError, DataError
from ivr_dist.planning.plan import Plan, checkpoint_bytes, describe, make_plan, model_state_bytes


def config(
    *, group: int = 64, lanes: int | None = None, stage: Any = 1, deepspeed: dict[str, Any] | None = None, **train: Any
) -> Config:
    return Config(
        data=DataConfig(train="data/train", lanes=lanes),
        loss=LossConfig(consistency=ConsistencyConfig(group=group)),
        train=TrainConfig(**train),
        zero=ZeroConfig(stage=stage),
        deepspeed=deepspeed or {},
    )


def test_defaults_on_two_workers() -> None:
    plan = make_plan(config(epochs=2.5, warmup=0.1), samples=1050, world=2)
    assert replace(plan, deepspeed={}) == Plan(
        samples=1050,
        world=2,
        global_batch=64,
        group=64,
        accumulation=1,
        micro_batch=32,
        lanes=64,
        delay=1000,
        steps_per_epoch=17,
        total_steps=43,
        eval_every=17,
        checkpoint_every=17,
        keep_every=None,
        warmup_steps=5,
        svr_warmup_steps=0,
        svr_decay_steps=0,
        deepspeed={},
    )


@given(
    groups=st.integers(1, 12),
    group=st.integers(1, 16),
    world=st.integers(1, 20),
    max_micro_batch=st.integers(1, 64),
    samples=st.integers(1, 3000),
)
def test_split_covers_every_slot_with_whole_groups(
    groups: int, group: int, world: int, max_micro_batch: int, samples: int
) -> None:
    batch = groups * group
    assume(samples >= batch)
    wanted = config(group=group, global_batch=batch, max_micro_batch=max_micro_batch)
    fitting = [a for a in range(1, groups + 1) if groups % a == 0 and math.ceil(batch // a / world) <= max_micro_batch]
    if not fitting:
        with pytest.raises(ConfigError, match=r"train\.max_micro_batch"):
            make_plan(wanted, samples, world)
        return
    plan = make_plan(wanted, samples, world)
    assert plan.accumulation == fitting[0]
    parts = [
        [rank_slots(micro_slots(batch, plan.accumulation, micro), rank, world) for rank in range(world)]
        for micro in range(plan.accumulation)
    ]
    assert [slot for micro in parts for part in micro for slot in part] == list(range(batch))
    assert max(len(part) for micro in parts for part in micro) == plan.micro_batch
    assert all(micro[0].start % group == 0 for micro in parts)


@given(
    shards=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    lanes=st.integers(1, 12),
    per_lane=st.integers(1, 6),
    delay=st.integers(0, 20),
)
def test_steps_of_an_epoch_are_those_of_the_order(shards: list[int], lanes: int, per_lane: int, delay: int) -> None:
    batch = lanes * per_lane
    assume(sum(shards) >= batch)
    plan = make_plan(config(group=batch, global_batch=batch, lanes=lanes), sum(shards), world=1)
    assert plan.lanes == lanes
    order = EpochOrder(np.array(shards), "id", seed=0, epoch=0, lanes=lanes, global_batch=batch, delay=delay)
    assert plan.steps_per_epoch == order.steps


def test_the_steps_do_not_depend_on_the_world_size() -> None:
    plans = [make_plan(config(group=8), 1000, world) for world in (1, 2, 3, 7, 64, 100)]
    assert {(p.total_steps, p.steps_per_epoch, p.warmup_steps, p.lanes) for p in plans} == {(160, 16, 8, 64)}
    assert [p.micro_batch for p in plans] == [64, 32, 22, 10, 1, 1]


def test_max_steps_overrides_epochs_and_shares_follow() -> None:
    wanted = replace(
        config(max_steps=1000, epochs=3.0, warmup=0.07, eval_every="0.5epochs"),
        checkpoint=CheckpointConfig(every="30steps"),
    )
    wanted = replace(wanted, loss=replace(wanted.loss, svr=SvrWeightConfig(warmup=0.25, decay=0.1)))
    plan = make_plan(wanted, samples=6400, world=1)
    assert (plan.warmup_steps, plan.svr_warmup_steps, plan.svr_decay_steps) == (70, 250, 100)
    assert plan.total_steps == 1000
    assert (plan.eval_every, plan.checkpoint_every) == (50, 30)


def test_fractions_of_epochs_are_decimal() -> None:
    # 1.1 * 10 is 11.000000000000002 in floating point.
    assert make_plan(config(epochs=1.1), samples=640, world=1).total_steps == 11


def test_explicit_accumulation() -> None:
    plan = make_plan(config(group=16, accumulation=4), samples=64, world=3)
    assert (plan.accumulation, plan.micro_batch) == (4, 6)
    with pytest.raises(ConfigError, match=r"accumulation = 1 need 64 .* at least 64, use at least 4 workers"):
        make_plan(config(group=16, accumulation=1, max_micro_batch=16), samples=64, world=1)


@pytest.mark.parametrize(
    ("samples", "world", "kind", "text"),
    [
        (0, 1, DataError, "no samples"),
        (63, 1, ConfigError, "train.global_batch = 64 is larger than the training split's 63 samples"),
        (64, 0, ConfigError, "0 workers"),
    ],
)
def test_impossible_runs_are_refused(samples: int, world: int, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make_plan(config(), samples, world)


def test_a_corpus_of_one_batch_is_enough() -> None:
    assert make_plan(config(), samples=64, world=1).steps_per_epoch == 1


def test_deepspeed_config_by_stage_and_type() -> None:
    found = make_plan(config(stage=0, lr=3e-4, grad_clip=0.0), 64, 2).deepspeed
    assert found["train_micro_batch_size_per_gpu"] == 32
    assert found["gradient_accumulation_steps"] == 1
    # Absent means 1.0 to DeepSpeed, so 0 must be said.
    assert found["gradient_clipping"] == 0.0
    assert found["zero_optimization"] == {"stage": 0}
    assert found["optimizer"]["params"]["lr"] == 3e-4
    assert found["optimizer"]["params"]["torch_adam"] is True
    assert "torch_autocast" not in found
    found = make_plan(config(stage=3, dtype="bfloat16"), 64, 2).deepspeed
    assert found["zero_optimization"]["stage"] == 3
    assert found["torch_autocast"]["enabled"] is True
    assert found["torch_autocast"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_deepspeed_accepts_its_config(stage: int, dtype: str) -> None:
    runtime = pytest.importorskip("deepspeed.runtime.config")
    parsed = runtime.DeepSpeedConfig(make_plan(config(stage=stage, dtype=dtype), 64, 1).deepspeed)
    assert parsed.zero_optimization_stage == stage
    assert parsed.train_batch_size == 64
    assert parsed.gradient_clipping == 1.0
    assert parsed.torch_autocast_enabled == (dtype == "bfloat16")
    assert not parsed.bfloat16_config.enabled
    assert parsed.optimizer_name == "adamw"


def test_raw_block_is_merged_deeply_and_last() -> None:
    raw = {
        "zero_optimization": {"reduce_bucket_size": 1000, "offload_optimizer": {"device": "cpu"}},
        "optimizer": {"params": {"torch_adam": False}},
        "wall_clock_breakdown": True,
        "comms_logger": {"enabled": True},
    }
    wanted = config(stage=2, deepspeed=raw)
    found = make_plan(wanted, 64, 1).deepspeed
    assert found["zero_optimization"]["stage"] == 2
    assert found["zero_optimization"]["reduce_bucket_size"] == 1000
    assert found["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert found["optimizer"]["params"]["torch_adam"] is False
    assert found["optimizer"]["params"]["lr"] == 1e-3
    assert found["wall_clock_breakdown"] is True
    assert found["comms_logger"] == {"enabled": True}
    assert wanted.deepspeed == raw


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"train_batch_size": 128}, "train.global_batch"),
        ({"train_micro_batch_size_per_gpu": "auto"}, "train.max_micro_batch"),
        ({"gradient_accumulation_steps": 2}, "train.accumulation"),
        ({"gradient_clipping": 0.5}, "train.grad_clip"),
        ({"zero_optimization": {"stage": 2}}, "zero.stage"),
        ({"bf16": {"enabled": True}}, "train.dtype"),
        ({"fp16": {"enabled": True}}, "train.dtype"),
        ({"torch_autocast": {"enabled": True}}, "train.dtype"),
        ({"optimizer": {"params": {"lr": 0.1}}}, "train.lr"),
        ({"optimizer": {"params": {"betas": [0.8, 0.9]}}}, "train.betas"),
        ({"optimizer": {"params": {"weight_decay": 0.5}}}, "train.weight_decay"),
        ({"optimizer": {"type": "Lamb"}}, "cannot be changed"),
        ({"scheduler": {"type": "WarmupLR"}}, "train.schedule"),
        ({"gradient_allreduce_op": "sum"}, "cannot be changed"),
        ({"elasticity": {"enabled": True}}, "train.global_batch"),
        ({"zero_optimization": True}, "is not a mapping"),
        ({"bf16": True}, "is not a mapping"),
        ({"optimizer": "AdamW"}, "is not a mapping"),
    ],
)
def test_raw_block_may_not_contradict_the_plan(raw: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=r"deepspeed\.") as error:
        make_plan(config(deepspeed=raw), 64, 1)
    assert key in str(error.value)


def test_raw_block_may_repeat_the_plan() -> None:
    raw = {
        "train_batch_size": 64,
        "zero_optimization": {"stage": 1},
        "fp16": {"enabled": False},
        "gradient_clipping": 1,
    }
    found = make_plan(config(deepspeed=raw), 64, 2).deepspeed
    assert found["train_batch_size"] == 64


def test_model_states_by_stage() -> None:
    assert [model_state_bytes(1000, stage, world=4) for stage in range(4)] == [16_000, 11_000, 8_000, 5_000]
    assert checkpoint_bytes(1000) == 12_000


def test_description_names_the_split_and_the_memory() -> None:
    wanted = config(group=16, max_micro_batch=6)
    rows = dict(describe(make_plan(wanted, 1050, 3), wanted, parameters=1_000_000))
    assert rows["global batch"] == "64 = 4 micro-step(s) x 16 slots"
    assert rows["samples a worker and micro-step"] == "5 to 6"
    assert rows["model states a worker, ZeRO 1"] == "12.0 MB (this run)"
    assert rows["checkpoint size"] == "12.0 MB"
    assert not any("model states" in label for label, _ in describe(make_plan(wanted, 1050, 3), wanted, None))
