"""Base class of dataclasses of tensors: copy all of them to a device, or to page-locked memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor


class Tensors:
    """Base of dataclasses whose fields are tensors, mappings of them, other such dataclasses, or values of any type."""

    def to(self, device: torch.device) -> Self:
        """Copy to `device`, without blocking where the host memory is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """Copy to page-locked host memory, from which a GPU copies while it computes."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed = {item.name: _changed(getattr(self, item.name), change) for item in fields(self)}  # type: ignore[arg-type]
        return replace(self, **changed)  # type: ignore[type-var]


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Tensors):
        return value._each(change)
    if isinstance(value, Mapping):
        return {name: _changed(part, change) for name, part in value.items()}
    return value
