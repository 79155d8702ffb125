"""Templates of text with the names of columns in braces, such as `audio/{clip_id}.npy` or `dia{Dialogue_ID:03}`."""

from __future__ import annotations

import re
from collections.abc import Callable

_FIELD = re.compile(r"\{([^{}:]+)(?::0(\d+))?\}")


def is_template(text: str) -> bool:
    """Whether a text names at least one column."""
    return _FIELD.search(text) is not None


def columns_of(template: str) -> list[str]:
    """List the columns that a template names."""
    return [match[1] for match in _FIELD.finditer(template)]


def fill(template: str, value_of: Callable[[str], str]) -> str:
    """Fill a template.

    Args:
        template: The template; `{name:03}` writes a number with at least three digits.
        value_of: Returns the text of a column; empty where there is none.

    Returns:
        The text; empty where a column is empty.

    Raises:
        ValueError: A value that has to be a number is none.
    """
    values = []
    for match in _FIELD.finditer(template):
        value = value_of(match[1]).strip()
        if value and match[2] and not value.isdecimal():
            raise ValueError(f"{match[1]} is {value!r}, not a number")
        values.append(value.zfill(int(match[2])) if value and match[2] else value)
    if not all(values):
        return ""
    replacements = iter(values)
    return _FIELD.sub(lambda match: next(replacements), template)
