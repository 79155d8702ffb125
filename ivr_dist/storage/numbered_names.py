"""Numbered names of files and directories, such as `0001.json`, in the order of their numbers.

Leading zeros are for people who list a directory. A number with more digits would sort before smaller ones as text, so
names are never compared as text. Any other name (`.nfs0001`, `.DS_Store`, `0001 (copy).json`) is ignored.
"""

from __future__ import annotations

import re

from ivr_dist import storage

_FIELD = re.compile(r"\{:0(\d+)d\}")


class Numbered:
    """Names of one format.

    Args:
        form: A format string of whole numbers from 0 with leading zeros, such as `rank-{:05d}-{:06d}.jsonl`.
    """

    def __init__(self, form: str) -> None:
        self._form = form
        text, *rest = _FIELD.split(form)
        digits = [rf"([0-9]{{{width},}}){re.escape(between)}" for width, between in zip(*[iter(rest)] * 2, strict=True)]
        self._pattern = re.compile(re.escape(text) + "".join(digits))

    def name(self, *numbers: int) -> str:
        """Format the name with these numbers."""
        return self._form.format(*numbers)

    # decision 006
    def parse(self, name: str) -> tuple[int, ...] | None:
        """Parse the numbers of a name; None if the name has another format."""
        match = self._pattern.fullmatch(name)
        numbers = tuple(map(int, match.groups())) if match else None
        # 00001.json is refused where 1 is written as 0001.json, so that each number has one name.
        return numbers if numbers is not None and self.name(*numbers) == name else None

    def list_numbers(self, url: str) -> list[tuple[int, ...]]:
        """List the numbers of the names in a directory, ascending; none if it is absent."""
        return sorted(numbers for numbers in map(self.parse, storage.list_dir(url)) if numbers is not None)
