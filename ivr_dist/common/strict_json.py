"""Strict JSON parsing: refuses duplicate keys and deep nesting; replaces NaN where it is written."""

from __future__ import annotations

import json
import math
from typing import Any

from ivr_dist.common.file_signatures import HEAD, kind_of
from ivr_dist.sanitize import shorten

_MAX_DEPTH = 100


def loads(text: str | bytes) -> Any:
    """Parse a JSON text.

    Bytes may have any encoding that JSON allows. NaN and infinities are read, as Python writes them.

    Raises:
        ValueError: It is not JSON, an object has a key twice, or lists and objects are nested more than 100 deep.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(_DEEP) from None
    except json.JSONDecodeError:
        if not text.strip():
            raise ValueError("it is empty") from None
        raise
    except UnicodeDecodeError as error:
        kind = kind_of(error.object[:HEAD])
        byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise ValueError(f"it is not UTF-8 text: {byte}" if kind is None else f"it is {kind.name}") from None
    except ValueError as error:
        # Python's message refers to interpreter settings.
        if "integer string conversion" in str(error):
            raise ValueError("a whole number of thousands of digits") from None
        raise
    # Most texts have fewer brackets in total than the limit.
    lists, objects = (text.count(b"["), text.count(b"{")) if isinstance(text, bytes) else map(text.count, "[{")
    if lists + objects > _MAX_DEPTH:
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise ValueError for a JSON value that is nested more than 100 deep."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [child for each in level for child in _children(each)]
        if not level:
            return
    raise ValueError(_DEEP)


def finite(value: Any) -> Any:
    """Replace every number that is not finite by null."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_DEEP = f"lists or objects are nested more than {_MAX_DEPTH} deep"


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for position, name in enumerate(names) if name in names[:position])
        raise ValueError(f"key {shorten(duplicate, 80)!r} is given twice")
    return value
