"""Names of files and directories that have numbers in them, such as `0001.json`: their order is that of the numbers.

Zeros in front are for people who list a directory. A number that outgrows them is longer, and as text comes before
smaller ones, so names are never compared as text. What is not exactly a name of ours (`.nfs0001`, `.DS_Store`,
`0001 (copy).json`) is another's, and left alone.
"""

from __future__ import annotations

import re

from ivr_dist import storage

_PLACE = re.compile(r"\{:0(\d+)d\}")


class Numbered:
    """Names of one form.

    Args:
        form: A format string of whole numbers from 0 with leading zeros, such as `rank-{:05d}-{:06d}.jsonl`.
    """

    def __init__(self, form: str) -> None:
        self._form = form
        text, *rest = _PLACE.split(form)
        digits = [rf"([0-9]{{{width},}}){re.escape(between)}" for width, between in zip(*[iter(rest)] * 2, strict=True)]
        self._pattern = re.compile(re.escape(text) + "".join(digits))

    def name(self, *numbers: int) -> str:
        """The name with these numbers."""
        return self._form.format(*numbers)

    def parse(self, name: str) -> tuple[int, ...] | None:
        """The numbers of a name; None if it is not one of these."""
        match = self._pattern.fullmatch(name)
        numbers = tuple(map(int, match.groups())) if match else None
        # 00001.json is not how 1 is written where 0001.json is: one number has one name.
        return numbers if numbers is not None and self.name(*numbers) == name else None

    def found(self, url: str) -> list[tuple[int, ...]]:
        """The numbers of the names in a directory, ascending; none if it is absent."""
        return sorted(numbers for numbers in map(self.parse, storage.list_dir(url)) if numbers is not None)
