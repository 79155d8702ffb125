"""Words of a text: at white space, and by Unicode's word boundaries (UAX #29) in scripts that are written without it.

Chinese, Japanese, Thai, Lao, Khmer and Burmese put no white space between words. UAX #29 has no dictionary: a Chinese
character is a word, as is a run of katakana, of Latin letters or of digits. Punctuation belongs to the word before it,
as it does in text that is split at white space.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Characters of scripts without white space between words."""


def is_unspaced(text: str) -> bool:
    """Whether a text has characters of a script that is written without white space."""
    return not text.isascii() and _UNSPACED.search(text) is not None


def word_starts(part: str) -> list[int]:
    """Return the positions at which the words of a part of a text begin; the part has no white space.

    The first is 0, and the only one where the part has no characters of a script without white space.
    """
    return [0] if not is_unspaced(part) else _boundaries(part)


def split_words(text: str) -> list[str]:
    """Split a text into words."""
    parts = text.split()
    if not is_unspaced(text):
        return parts
    return [
        part[start:end]
        for part in parts
        for starts in (word_starts(part),)
        for start, end in zip(starts, [*starts[1:], len(part)], strict=True)
    ]


def finer_words(
    words: Sequence[str], word_of: Sequence[int | None], offsets: Sequence[tuple[int, int]]
) -> list[int | None]:
    """Number the words of pieces, with several words in a part of the text whose script has no white space.

    The pieces stay those of the tokenizer; one that is part of two words counts for the first.

    Args:
        words: Parts of the text between white space.
        word_of: Number of the part of each piece; None for special pieces.
        offsets: Start and end of each piece in its part.
    """
    if not any(map(is_unspaced, words)):
        return list(word_of)
    starts = [word_starts(word) for word in words]
    first = [0, *accumulate(map(len, starts))]
    return [
        None if part is None else first[part] + bisect_right(starts[part], start) - 1
        for part, (start, _) in zip(word_of, offsets, strict=True)
    ]


@lru_cache(maxsize=4096)
def _segments(part: str) -> tuple[str, ...]:
    # Only texts of these scripts need it.
    import regex  # type: ignore[import-untyped]

    return tuple(regex.split(r"(?V1w)\b", part))


def _boundaries(part: str) -> list[int]:
    starts, position, spoken = [0], 0, False
    for segment in _segments(part):
        is_word = any(character.isalnum() for character in segment)
        if is_word and spoken:
            starts.append(position)
        # Punctuation before the first word belongs to that word.
        spoken = spoken or is_word
        position += len(segment)
    return starts
