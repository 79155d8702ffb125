"""ZeRO layouts: a worker's share of weights and optimizer state at each stage, as fragments (decision 011).

Fragments are views of DeepSpeed's live memory, so nothing above depends on the stage. DeepSpeed's own checkpoint files
are pickles that only the same stage and number of workers can read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ivr_dist.checkpoint.fragments import Fragment, saved_buffers, share
from ivr_dist.checkpoint.part_manifest import WEIGHT

_MOMENTUM = "momentum_buffer"


@dataclass(frozen=True)
class _Momentum:
    """Muon's momentum at stages 1 and 2: a rank keeps that of every parameter of which it owns any element, in full."""

    start: int
    """First element of the parameter in the rank's buffer."""
    numel: int
    total: int
    """Elements of the buffer."""


@dataclass(frozen=True)
class _Slot:
    """One trainable parameter's elements in the optimizer of this rank."""

    parameter: str
    offset: int
    """Index of the first one in the flattened parameter."""
    numel: int
    key: Tensor
    """Tensor that the optimizer updates, and key of its state: the parameter, or several flattened into one."""
    start: int
    """Index of the first one in the flattened key."""
    momentum: _Momentum | None = None
    """Location of Muon's momentum, if it is not laid out like the key."""

    def view(self, whole: Tensor) -> Tensor:
        """Return this slot's elements of a tensor shaped like the key."""
        return whole.detach().view(-1).narrow(0, self.start, self.numel)


def owned(engine: Any, rank: int, world: int) -> list[Fragment]:
    """Return this rank's share of all weights, buffers and optimizer state, as live views.

    Over all ranks every element is in exactly one fragment.

    Args:
        engine: DeepSpeed's engine.
        rank: This rank.
        world: Ranks that share the model.
    """
    stage = engine.zero_optimization_stage()
    slots = [_fragment(engine, slot) for slot in _slots(engine)]
    rest = _untrained_shards(engine.module) if stage == 3 else []
    everywhere = [*_replicated(engine.module, frozen=stage != 3), *(slots if stage == 0 else [])]
    return [*([] if stage == 0 else slots), *rest, *share(everywhere, rank, world)]


@dataclass(frozen=True)
class StateSlice:
    """This rank's memory of elements `offset .. offset + len(target)` of one optimizer state of a parameter."""

    parameter: str
    state: str
    offset: int
    target: Tensor
    """Flat view of the optimizer's own memory."""


def state_slices(engine: Any, states: Callable[[str], Sequence[str]]) -> Iterator[StateSlice]:
    """Yield all optimizer state of this rank, allocated if the optimizer has not done so yet.

    Args:
        engine: DeepSpeed's engine.
        states: Names of the per-element states of a parameter.
    """
    for slot in _slots(engine):
        state_of_key = _optimizer(engine).state[slot.key]
        for state in states(slot.parameter):
            if state == _MOMENTUM and slot.momentum is not None:
                if state not in state_of_key:
                    state_of_key[state] = torch.zeros(slot.momentum.total, dtype=slot.key.dtype, device=slot.key.device)
                yield StateSlice(
                    slot.parameter, state, 0, state_of_key[state].narrow(0, slot.momentum.start, slot.momentum.numel)
                )
                continue
            if state not in state_of_key:
                state_of_key[state] = torch.zeros_like(slot.key, memory_format=torch.contiguous_format)
            yield StateSlice(slot.parameter, state, slot.offset, slot.view(state_of_key[state]))


def put_scalars(engine: Any, scalars: Callable[[str], Mapping[str, float]]) -> None:
    """Set the optimizer's scalar states, such as step counts.

    Args:
        engine: DeepSpeed's engine.
        scalars: Returns the scalars of a parameter, by name.
    """
    optimizer = _optimizer(engine)
    for slot in _slots(engine):
        for name, value in scalars(slot.parameter).items():
            optimizer.state[slot.key][name] = _scalar(optimizer, slot.key, value)


def _scalar(optimizer: torch.optim.Optimizer, key: Tensor, value: float) -> Any:
    """Convert a scalar to the optimizer's own type: PyTorch's keeps tensors, on the device if the update is fused."""
    # Muon delegates parameters that are not matrices to an inner optimizer.
    optimizer = getattr(optimizer, "aux_optimizer", None) or optimizer
    if not type(optimizer).__module__.startswith("torch."):
        return int(value)
    on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    return torch.tensor(value, dtype=torch.float32, device=key.device if on_device else "cpu")


def _fragment(engine: Any, slot: _Slot) -> Fragment:
    state_of_key = _optimizer(engine).state.get(slot.key, {})
    tensors = {WEIGHT: slot.view(slot.key)}
    scalars = {}
    for name, value in state_of_key.items():
        if name == _MOMENTUM and slot.momentum is not None:
            tensors[name] = value.narrow(0, slot.momentum.start + slot.offset, slot.numel)
        elif torch.is_tensor(value) and value.dim() and value.numel() == slot.key.numel():
            tensors[name] = slot.view(value)
        elif torch.is_tensor(value) and value.numel() == 1:
            scalars[name] = float(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            scalars[name] = value
    return Fragment(slot.parameter, slot.offset, slot.numel, tensors, scalars)


def _optimizer(engine: Any) -> torch.optim.Optimizer:
    """Return the optimizer that ZeRO's wraps."""
    stage = engine.zero_optimization_stage()
    return engine.optimizer if stage == 0 else engine.optimizer.optimizer  # type: ignore[no-any-return]


def _slots(engine: Any) -> Iterator[_Slot]:
    """Yield this rank's slots."""
    stage = engine.zero_optimization_stage()
    find = {0: _whole, 1: _flat, 2: _flat, 3: _sharded}[stage]
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            slot = find(engine, name, parameter)
            if slot is not None:
                yield slot


def _whole(engine: Any, name: str, parameter: nn.Parameter) -> _Slot:
    """Stage 0: every rank holds the whole parameter."""
    return _Slot(name, 0, parameter.numel(), parameter, 0)


def _flat(engine: Any, name: str, parameter: Any) -> _Slot | None:
    """Stages 1 and 2: groups are flattened, and each rank holds a contiguous run of each."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    key = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    momentum = _momentum(engine.optimizer.params_in_partition[mapping.param_group_index], parameter)
    return _Slot(name, int(here.start), int(there.numel), key, int(there.start), momentum)


def _momentum(partition: Sequence[Tensor], parameter: Any) -> _Momentum | None:
    if not getattr(parameter, "use_muon", False):
        return None
    sizes = [other.numel() for other in partition]
    index = next(number for number, other in enumerate(partition) if other is parameter)
    return _Momentum(sum(sizes[:index]), sizes[index], sum(sizes))


def _sharded(engine: Any, name: str, parameter: Any) -> _Slot | None:
    """Stage 3: each parameter is split into equal pieces, the last ones padded."""
    zero = engine.optimizer
    group, start, length = zero.grad_position[zero.get_param_id(parameter)]
    offset, numel = _shard(parameter, length)
    if numel == 0 and offset > 0:
        return None
    return _Slot(name, offset, numel, zero.fp32_partitioned_groups_flat[group], int(start))


def _shard(parameter: Any, length: int) -> tuple[int, int]:
    """Return offset and size of this rank's piece, without padding."""
    offset = min(parameter.ds_zero_partition_rank * length, parameter.ds_numel)
    return offset, min(length, parameter.ds_numel - offset)


def _untrained_shards(module: nn.Module) -> Iterator[Fragment]:
    """Stage 3: yield this rank's pieces of frozen parameters."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            offset, numel = _shard(parameter, parameter.ds_tensor.numel())  # type: ignore[attr-defined]
            if numel or offset == 0:
                piece = parameter.ds_tensor.detach().view(-1).narrow(0, 0, numel)  # type: ignore[attr-defined]
                yield Fragment(name, offset, numel, {WEIGHT: piece})


def _replicated(module: nn.Module, frozen: bool) -> Iterator[Fragment]:
    """Yield replicated tensors: saved buffers, and frozen parameters."""
    if frozen:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                yield Fragment(name, 0, parameter.numel(), {WEIGHT: parameter.detach().reshape(-1)})
    for name, buffer in saved_buffers(module).items():
        yield Fragment(name, 0, buffer.numel(), {WEIGHT: buffer.detach().reshape(-1)})
