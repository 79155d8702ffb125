"""Writer of safetensors files without copies of the tensors.

The library's writer copies every tensor into a bytes object while it holds the GIL, which would stall the training
loop. Reading uses the library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


def buffers(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Return the content of a file: its header, then the tensors as views of their own memory.

    Args:
        tensors: Contiguous tensors on the host, by name.

    Raises:
        ValueError: A tensor's type has no name in the format, or its elements are not contiguous.
    """
    header: dict[str, object] = {}
    content: list[bytes | memoryview] = []
    position = 0
    # Widest elements first, so that each starts at a multiple of its size.
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        if tensor.dtype not in _NAMES or not tensor.is_contiguous() or tensor.device.type != "cpu":
            raise ValueError(f"{name} cannot be written: {tensor.dtype}, {tensor.device}")
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + size],
        }
        if size:
            content.append(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *content]
