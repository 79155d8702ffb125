"""A fake device that computes nothing, to test GPU code paths without a GPU.

Tensors on PyTorch's `meta` device have shapes and no values. Like a GPU it is not "cpu", so the same branches are
taken. What needs a value on the host is counted and answered with ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FAKE = torch.device("meta")
_BOTH = {"_to_copy", "copy_", "_pack_padded_sequence", "_pack_padded_sequence_backward"}
"""What takes a device's tensors and the host's together; lengths of sequences belong on the host."""


class FakeGpu(TorchDispatchMode):
    """Inside, operations on `FAKE` are recorded by name, and those that mix it with the host are refused.

    As on CUDA, a scalar of the host may take part, but not in `cat` and `stack`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()
        self.waits = 0
        """Times that the host waited for a value."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there, here = [t for t in tensors if t.device == FAKE], [t for t in tensors if t.device != FAKE]
        if name == "_local_scalar_dense" and there:
            self.waits += 1
            return 1
        if name == "_to_copy" and there and torch.device(kwargs.get("device") or FAKE) != FAKE:
            self.waits += 1
            return torch.ones(there[0].shape, dtype=kwargs.get("dtype") or there[0].dtype)
        if there and name not in _BOTH:
            if any(t.dim() > 0 or name in ("cat", "stack") for t in here):
                raise RuntimeError(f"{name}: expected all tensors to be on the same device")
            self.operations.add(name)
        return func(*args, **kwargs)


class _Attend(torch.autograd.Function):
    """Shapes of fused attention, which would fall apart into other operations on `meta` than on a GPU."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return query.new_empty(*query.shape[:-1], value.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """A `FakeGpu` in whose context whole training steps run."""

    def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor) -> Tensor:
        out: Tensor = _Attend.apply(query, key, value)  # type: ignore[no-untyped-call]
        return out

    # `meta` knows no autocast.
    autocast = patch("torch.autocast", lambda *_, **__: nullcontext())
    with patch.object(F, "scaled_dot_product_attention", attend), autocast, FakeGpu() as fake:
        yield fake
