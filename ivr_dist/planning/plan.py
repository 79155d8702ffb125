"""The plan of a run on a number of workers: batch split, gradient accumulation, steps, DeepSpeed's config.

The user sets the global batch (decision 034). It is split into micro-steps of whole groups (`loss.consistency.group`),
and each micro-step into ranges of slots by rank. Only this split depends on the number of workers, not the mathematics.
Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ivr_dist.config import Config, extensions
from ivr_dist.config.corpora import SplitKey, has_split, trained
from ivr_dist.config.lanes import default_delay, default_lanes
from ivr_dist.errors import ConfigError, DataError, raise_together
from ivr_dist.planning.deepspeed_config import deepspeed_config
from ivr_dist.planning.model_inputs import ModelInputs
from ivr_dist.planning.pool_plan import PoolPlan, is_mixed, make_pool_plan
from ivr_dist.shards.manifest import Manifest
from ivr_dist.units import as_written, format_bytes, format_count, parse_interval

_MOST_CORPORA = 8
"""Corpora whose shares the plan lists in one row; `ivr-dist plan` has a table of all."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run at one world size."""

    samples: int
    """Samples of the training split."""
    world: int
    """Workers."""
    global_batch: int
    """Slots of one optimizer step over all workers."""
    group: int
    """Consecutive slots whose batch statistics are taken together."""
    accumulation: int
    """Micro-steps of one optimizer step; each holds whole groups."""
    micro_batch: int
    """Most slots that a rank holds in one micro-step; ranks differ by at most one."""
    lanes: int
    """Lanes of the data order."""
    delay: int
    """How far the shuffle may move a sample within its lane, in samples."""
    steps_per_epoch: int
    """Optimizer steps of one pass over the training split; the last one may have empty slots."""
    total_steps: int
    """Optimizer steps of the whole run."""
    eval_every: int
    """Steps between evaluations of the validation split."""
    checkpoint_every: int
    """Steps between checkpoints."""
    keep_every: int | None
    """Checkpoints at multiples of it are never deleted; None: all may be deleted."""
    warmup_steps: int
    """Steps over which the learning rate rises."""
    svr_warmup_steps: int
    """Steps over which the weight of the sequential variation regularizer rises."""
    svr_decay_steps: int
    """Last steps, over which it falls to 0."""
    deepspeed: dict[str, Any]
    """DeepSpeed's config."""
    pool: PoolPlan | None = None
    """The mix of several corpora; None where there is one, whose epoch is a pass."""


def plan_run(
    config: Config, manifests: Mapping[str, Manifest], world: int, excluded: Mapping[str, str] | None = None
) -> Plan:
    """Plan a run on the corpora of a config; see `make_plan`.

    Args:
        config: The run's config.
        manifests: Manifests of its splits, by the text of their `SplitKey`.
        world: Number of workers.
        excluded: By split: digest of the samples that are left out.
    """
    keys = {name: str(SplitKey(name, "train")) for name in trained(config)}
    trains = {name: manifests[key] for name, key in keys.items()}
    if not is_mixed(config):
        (train,) = trains.values()
        return make_plan(config, train.samples, world, train.total_bytes)
    digests = {name: (excluded or {}).get(key, "") for name, key in keys.items()}
    pool = make_pool_plan(config, trains, digests)
    return make_plan(config, pool.slots, world, pool=pool)


def make_plan(config: Config, samples: int, world: int, split_bytes: int = 0, pool: PoolPlan | None = None) -> Plan:
    """Plan a run, without starting anything.

    Args:
        config: A config that passed `validation.check`.
        samples: Samples of the training split.
        world: Number of workers, at least 1; a run without workers (`run.num_workers` 0) counts as 1.
        split_bytes: Size of the training split; the shuffle depends on it where `data.shuffle_delay` is unset.
        pool: The mix of several corpora; `samples` are then the slots of an epoch.

    Raises:
        DataError: The training split is empty.
        ConfigError: The split is smaller than the global batch, no accumulation is within `train.max_micro_batch`, or
            the raw `deepspeed` block contradicts the plan; names all faults.
    """
    train = config.train
    if world < 1:
        raise ConfigError(f"{world} workers cannot train", where="run.num_workers", remedy="use 1 or more")
    faults: list[ConfigError] = []
    accumulation, deepspeed = 1, {}
    try:
        _check_samples(config, samples)
    except ConfigError as error:
        faults.append(error)
    try:
        accumulation = _accumulation(config, world)
        micro_batch = _micro_batch(train.global_batch, accumulation, world)
        deepspeed = deepspeed_config(config, world=world, micro_batch=micro_batch, accumulation=accumulation)
    except ConfigError as error:
        faults.append(error)
    raise_together(faults)
    # Lanes are equal to within one sample and G / lanes is whole, so the longest lane's
    # ceil(ceil(N / lanes) / (G / lanes)) steps are ceil(N / G) for any lanes: EpochOrder.steps in data.sample_order.
    steps_per_epoch = math.ceil(samples / train.global_batch)
    total = total_steps(config, samples)
    if pool is None:
        lanes, delay = data_order(config, samples, split_bytes)
    else:
        lanes, delay = sum(corpus.lanes for corpus in pool.corpora), max(corpus.delay for corpus in pool.corpora)
    keep_every = config.checkpoint.keep_every
    return Plan(
        samples=samples,
        world=world,
        global_batch=train.global_batch,
        group=config.group,
        accumulation=accumulation,
        micro_batch=micro_batch,
        lanes=lanes,
        delay=delay,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        eval_every=parse_interval(train.eval_every).steps(steps_per_epoch),
        checkpoint_every=parse_interval(config.checkpoint.every).steps(steps_per_epoch),
        keep_every=parse_interval(keep_every).steps(steps_per_epoch) if keep_every else None,
        warmup_steps=math.ceil(as_written(train.warmup) * total),
        svr_warmup_steps=math.ceil(as_written(config.loss.svr.warmup) * total),
        svr_decay_steps=math.floor(as_written(config.loss.svr.decay) * total),
        deepspeed=deepspeed,
        pool=pool,
    )


def total_steps(config: Config, samples: int) -> int:
    """Optimizer steps of a run on a number of training samples."""
    if config.train.max_steps is not None:
        return config.train.max_steps
    # As written: 1.1 epochs of 10 steps are 11 steps; the float 11.000000000000002 would be 12.
    return math.ceil(as_written(config.train.epochs) * math.ceil(samples / config.train.global_batch))


def data_order(config: Config, samples: int, split_bytes: int) -> tuple[int, int]:
    """Lanes and shuffle delay of a training split of a number of samples and bytes: as set, or the defaults."""
    lanes = config.data.lanes or default_lanes(config.train.global_batch)
    delay = config.data.shuffle_delay
    return lanes, default_delay(samples, split_bytes, lanes) if delay is None else delay


def _check_samples(config: Config, samples: int) -> None:
    if samples < 1:
        raise DataError("the training split has no samples", where=config.data.train, remedy="pack it again")
    batch = config.train.global_batch
    if batch > samples:
        raise ConfigError(
            f"train.global_batch = {batch} is larger than the training split's {samples} samples",
            where=config.data.train,
            remedy=f"set train.global_batch to at most {samples}, or train on more data",
        )


def _micro_batch(global_batch: int, accumulation: int, world: int) -> int:
    return math.ceil(global_batch // accumulation / world)


def _accumulation(config: Config, world: int) -> int:
    """Micro-steps of one step: as set, or the fewest within `train.max_micro_batch`."""
    train, group = config.train, config.group
    fixed, batch, most = train.accumulation, train.global_batch, train.max_micro_batch
    groups = batch // group
    divisors = [fixed] if fixed is not None else [count for count in range(1, groups + 1) if groups % count == 0]
    for count in divisors:
        if _micro_batch(batch, count, world) <= most:
            return count
    needed, enough = _micro_batch(batch, divisors[-1], world), math.ceil(batch // divisors[-1] / most)
    if fixed is None:
        finest, smaller = f"micro-steps of one group of {group}", "lower loss.consistency.group"
    else:
        finest, smaller = f"micro-steps by train.accumulation = {fixed}", "leave train.accumulation unset"
    raise ConfigError(
        f"train.max_micro_batch = {most} is too small for {world} workers: {finest} need {needed} samples a worker",
        where="train.max_micro_batch",
        remedy=f"set it to at least {needed}, use at least {enough} workers, or {smaller}",
    )


def model_state_bytes(parameters: int, stage: int, world: int) -> int:
    """Memory of weights, gradients and optimizer state on one worker, without activations and buffers.

    P parameters in float32 take 4 P bytes for the weights, 4 P for the gradients and 8 P for AdamW's moments. ZeRO also
    keeps float32 master weights (4 P), partitioned like the moments, and partitions over R workers (Rajbhandari et al.
    2020):

        stage 0: 16 P                     nothing partitioned, no master copy
        stage 1: 8 P + 12 P / R           moments and masters partitioned
        stage 2: 4 P + 16 P / R           and the gradients
        stage 3: 20 P / R                 and the weights

    `train.dtype: bfloat16` computes the forward pass in bfloat16 from float32 weights, so nothing here changes.

    Args:
        parameters: P.
        stage: ZeRO stage, 0 to 3.
        world: R.
    """
    whole, partitioned = {0: (16, 0), 1: (8, 12), 2: (4, 16), 3: (0, 20)}[stage]
    return whole * parameters + math.ceil(partitioned * parameters / world)


def checkpoint_bytes(parameters: int) -> int:
    """Size of one checkpoint over all workers, at any stage: float32 weights and the two moments of AdamW."""
    return 12 * parameters


def describe(
    plan: Plan, config: Config, parameters: int | None, inputs: ModelInputs | None = None
) -> list[tuple[str, str]]:
    """Describe a plan, as rows of the table that `plan` and `train` print.

    Args:
        plan: The plan.
        config: The config it was derived from.
        parameters: Trainable parameters of the model; None leaves memory and checkpoint size out.
        inputs: The model's inputs; None leaves them out.
    """
    slots = plan.global_batch // plan.accumulation
    fewest = slots // plan.world
    split = f"{fewest}" if fewest == plan.micro_batch else f"{fewest} to {plan.micro_batch}"
    fitted = "" if config.loss.consistency.group is not None else ", as it fits the batch"
    epochs, workers = plan.total_steps / plan.steps_per_epoch, config.run.num_workers
    rows = [
        ("workers", f"{plan.world}" if isinstance(workers, int) else f"{plan.world}, of {workers[0]} to {workers[1]}"),
        ("training samples", f"{plan.samples:,}" if plan.pool is None else _pool_samples(plan.pool)),
        *([] if inputs is None else inputs.rows()),
        ("global batch", f"{plan.global_batch} = {plan.accumulation} micro-step(s) x {slots} slots"),
        ("samples a worker and micro-step", split),
        ("groups of batch statistics", f"{plan.global_batch // plan.group} x {plan.group} slots{fitted}"),
        *([("lanes of the data order", f"{plan.lanes}, shuffle delay {plan.delay}")] if plan.pool is None else []),
        *([] if plan.pool is None else _mix(plan)),
        ("steps", f"{plan.total_steps:,} ({plan.steps_per_epoch:,} an epoch, {epochs:.4g} epochs)"),
        ("learning rate", f"{config.train.lr:g}, {config.train.schedule}, warm-up {plan.warmup_steps} steps"),
        (
            "evaluation",
            f"every {plan.eval_every} steps" if has_split(config, "valid") else "none (no validation split)",
        ),
        ("checkpoint", f"every {plan.checkpoint_every} steps, {config.checkpoint.keep_last} newest and the best kept"),
        ("forward pass", config.train.dtype),
        ("ZeRO stage", f"{config.zero.stage}"),
    ]
    if plan.keep_every:
        rows.append(("checkpoints never deleted", f"every {plan.keep_every} steps"))
    model, text = config.model, config.model.text
    size = f", size {model.size}" if model.preset == "ivr" else ""
    foreign = extensions.model(config)
    rows.append(("model", f"{model.preset}{size}, hidden {model.hidden}" if foreign is None else str(foreign)))
    rows += extensions.rows(config)
    if text.pretrained:
        layers = text.trained_layers
        what = "trained" if layers is None else f"last {layers} layers trained" if layers else "not trained"
        rate = "" if layers == 0 else f", learning rate {config.train.text_lr:g}"
        rows.append(("text encoder", f"{text.pretrained}, {what}{rate}"))
    if parameters is None:
        return rows
    rows.append(("parameters", format_count(parameters).strip()))
    for stage in range(4):
        used = " (this run)" if stage == config.zero.stage else ""
        size = format_bytes(model_state_bytes(parameters, stage, plan.world))
        rows.append((f"model states a worker, ZeRO {stage}", f"{size}{used}"))
    rows.append(("checkpoint size", format_bytes(checkpoint_bytes(parameters))))
    return rows


def _pool_samples(pool: PoolPlan) -> str:
    samples = pool.samples
    return f"{sum(samples.values()):,} of {len(samples)} corpora, {pool.slots:,} used an epoch"


def _mix(plan: Plan) -> list[tuple[str, str]]:
    """Rows with the lanes of a pool, and for each phase the share of each corpus and the passes over it in an epoch."""
    pool = plan.pool
    assert pool is not None
    rows = [
        ("lanes of the data order", f"{plan.lanes} of {len(pool.corpora)} corpora, shuffle delay at most {plan.delay}")
    ]
    for phase in pool.phases:
        quotas = phase.quotas
        parts = [
            f"{corpus.name} {quotas[corpus.name] / phase.slots:.1%} ({quotas[corpus.name] / corpus.samples:.3g})"
            for corpus in pool.corpora[:_MOST_CORPORA]
        ]
        shown = ", ".join(parts) + (", ..." if len(pool.corpora) > _MOST_CORPORA else "")
        began = f"shares from step {phase.first_step + 1:,}" if phase.first_step else "shares (passes an epoch)"
        rows.append((began, shown))
    return rows
