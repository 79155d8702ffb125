"""Derives DeepSpeed's config; the raw `deepspeed` keys are merged last and refused where they contradict the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ivr_dist.config import Config
from ivr_dist.errors import ConfigError, raise_together

ADAM_EPSILON = 1e-8

_ABSENT: Any = object()

# Keys that the plan decides, by DeepSpeed's dotted name, with the config key to set instead; empty where the method
# leaves no choice.
_DECIDED = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.max_micro_batch",
    "gradient_accumulation_steps": "train.accumulation",
    "gradient_clipping": "train.grad_clip",
    "zero_optimization.stage": "zero.stage",
    "fp16.enabled": "train.dtype",
    "bf16.enabled": "train.dtype",
    "bfloat16.enabled": "train.dtype",
    "amp.enabled": "train.dtype",
    "torch_autocast.enabled": "train.dtype",
    "torch_autocast.dtype": "train.dtype",
    "torch_autocast.lower_precision_safe_modules": "train.dtype",
    "optimizer.type": "",
    "optimizer.params.lr": "train.lr",
    "optimizer.params.betas": "train.betas",
    "optimizer.params.eps": "",
    "optimizer.params.weight_decay": "train.weight_decay",
    "scheduler": "train.schedule",
    "gradient_allreduce_op": "",
    "managed_gradient_accumulation": "",
    "elasticity.enabled": "train.global_batch",
}

# DeepSpeed's defaults of decided keys that the derived config does not contain.
_IMPLIED = {
    "fp16.enabled": False,
    "bf16.enabled": False,
    "bfloat16.enabled": False,
    "amp.enabled": False,
    "torch_autocast.enabled": False,
    "gradient_allreduce_op": "mean",
    "managed_gradient_accumulation": True,
    "elasticity.enabled": False,
}


def deepspeed_config(config: Config, *, world: int, micro_batch: int, accumulation: int) -> dict[str, Any]:
    """Derive DeepSpeed's config.

    Args:
        config: The run's config.
        world: Number of workers.
        micro_batch: Most slots a rank holds in one micro-step.
        accumulation: Micro-steps of one optimizer step.

    Raises:
        ConfigError: The raw block contradicts the plan; names all contradictions.
    """
    derived = _derived(config, micro_batch, accumulation)
    decided = {**_IMPLIED, "train_batch_size": micro_batch * accumulation * world}
    decided.update({path: _get(derived, path) for path in _DECIDED if _get(derived, path) is not _ABSENT})
    raise_together(list(_contradictions(config.deepspeed, decided)))
    return _merged(derived, config.deepspeed, "deepspeed")


def _derived(config: Config, micro_batch: int, accumulation: int) -> dict[str, Any]:
    train = config.train
    derived: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        # Written even when it is 0: DeepSpeed clips at 1.0 by default.
        "gradient_clipping": train.grad_clip,
        "zero_optimization": _zero(config),
        "optimizer": _optimizer(config),
        # The training loop reports progress.
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }
    if config.zero.offload_optimizer != "none" and train.torch_adam:
        derived["zero_force_ds_cpu_optimizer"] = False
    if train.dtype == "bfloat16":
        # Autocast keeps weights and gradients in float32, so that all stages round identically. It must be DeepSpeed's:
        # on CUDA DeepSpeed disables an autocast entered outside of its forward pass. The empty list prevents the
        # reduction of linear layers' gradients in bfloat16, whose result would depend on the number of workers.
        derived["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return derived


def _optimizer(config: Config) -> dict[str, Any]:
    train = config.train
    adam = {
        # PyTorch's AdamW: DeepSpeed compiles its own at start-up, which takes minutes on a CPU.
        "torch_adam": train.torch_adam,
        "lr": train.lr,
        "betas": list(train.betas),
        "eps": ADAM_EPSILON,
        "weight_decay": train.weight_decay,
    }
    if train.optimizer == "muon":
        return {"type": "Muon", "params": {**adam, "muon_lr": train.muon_lr, "adam_lr": train.lr, "momentum": 0.95}}
    return {"type": "AdamW", "params": {**adam, **({"fused": True} if train.torch_adam else {})}}


def _zero(config: Config) -> dict[str, Any]:
    stage, muon = config.zero.stage, config.train.optimizer == "muon"
    if stage == 0:
        return {"stage": 0}
    # DeepSpeed allocates whole buckets even for small models: 64 MiB of float32 instead of its default of 2 GB.
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": 2**24, "allgather_bucket_size": 2**24}
    if stage == 3:
        # By default parameters below 100,000 elements, most of a small model, stay whole on every worker.
        zero["stage3_param_persistence_threshold"] = 1000
        if muon:
            # Muon needs whole matrices of gradients.
            zero["reduce_scatter"] = False
    if config.zero.offload_optimizer != "none":
        zero["offload_optimizer"] = {"device": config.zero.offload_optimizer, "pin_memory": True}
    if config.zero.offload_parameters != "none":
        zero["offload_param"] = {"device": config.zero.offload_parameters, "pin_memory": True}
    return zero


def _get(tree: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return _ABSENT
        tree = tree[name]
    return tree


def _contradictions(raw: Mapping[str, Any], decided: Mapping[str, Any]) -> Iterator[ConfigError]:
    for path, key in _DECIDED.items():
        section, _, rest = path.partition(".")
        if rest and not isinstance(raw.get(section, {}), Mapping):
            yield _not_a_mapping(f"deepspeed.{section}", raw[section])
            continue
        value = _get(raw, path)
        if value is _ABSENT or value == decided.get(path, _ABSENT):
            continue
        planned = f"is planned as {decided[path]!r}" if path in decided else "is not used"
        yield ConfigError(
            f"deepspeed.{path} = {value!r} contradicts the plan, where it {planned}",
            where=f"deepspeed.{path}",
            remedy=f"remove it and set {key}" if key else "remove it, it cannot be changed",
        )


def _not_a_mapping(path: str, value: Any) -> ConfigError:
    return ConfigError(f"{path} = {value!r} is not a mapping", where=path, remedy="give its keys one by one")


def _merged(base: Mapping[str, Any], raw: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Deep merge: mappings are merged key by key; any other value of `raw` replaces that of `base`."""
    merged = dict(base)
    for name, value in raw.items():
        if isinstance(base.get(name), Mapping):
            if not isinstance(value, Mapping):
                raise _not_a_mapping(f"{path}.{name}", value)
            merged[name] = _merged(base[name], value, f"{path}.{name}")
        else:
            merged[name] = value
    return merged
