"""Reader of the header of safetensors files; needs neither the library nor PyTorch."""

from __future__ import annotations

from typing import Any

from ivr_dist import storage
from ivr_dist.checkpoint.part_manifest import check_shapes, parse_object
from ivr_dist.sanitize import shorten

DTYPES = frozenset(("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"))
"""Element types that checkpoints contain."""
_LONGEST_HEADER = 100_000_000
"""The library's own limit."""


def read_shapes(url: str, size: int) -> dict[str, list[int]]:
    """Read the shapes of the tensors of a file, by name, from its header.

    Args:
        url: The file.
        size: Its size in bytes.

    Raises:
        ValueError: It is not a safetensors file, or a tensor has an element type that is never written.
    """
    length = int.from_bytes(storage.read_range(url, 0, 8), "little") if size >= 8 else size
    if length > min(size - 8, _LONGEST_HEADER):
        raise ValueError("it is not a safetensors file")
    header = parse_object(storage.read_range(url, 8, 8 + length))
    shapes: dict[str, Any] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
            raise ValueError(f"{shorten(name, 80)!r} is not a tensor")
        shapes[name] = entry.get("shape")
    check_shapes(shapes)
    return shapes
