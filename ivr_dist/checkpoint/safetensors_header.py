"""What a tensor file in the safetensors format holds, from its header alone; needs neither the library nor PyTorch."""

from __future__ import annotations

from typing import Any

from ivr_dist import storage
from ivr_dist.checkpoint.part_manifest import check_shapes, parse_object
from ivr_dist.sanitize import shorten

DTYPES = frozenset(("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"))
"""The types that are written."""
_LONGEST_HEADER = 100_000_000
"""The library's own limit."""


def read_shapes(url: str, size: int) -> dict[str, list[int]]:
    """The shapes of the tensors of a file, by name, from its header.

    Args:
        url: The file.
        size: Its size in bytes.

    Raises:
        ValueError: It is no file of this format, or a tensor is of a type that is never written.
    """
    length = int.from_bytes(storage.read_range(url, 0, 8), "little") if size >= 8 else size
    if length > min(size - 8, _LONGEST_HEADER):
        raise ValueError("it is no safetensors file")
    header = parse_object(storage.read_range(url, 8, 8 + length))
    found: dict[str, Any] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
            raise ValueError(f"{shorten(name, 80)!r} is no tensor")
        found[name] = entry.get("shape")
    check_shapes(found)
    return found
