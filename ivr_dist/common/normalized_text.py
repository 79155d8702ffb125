"""Normalized texts: what is left of a transcript where punctuation, case and spelling of characters do not count.

Two corpora often hold one sentence in two spellings ("Oh, don't!" and "oh don't"), which leakage checks must find, and
many short ones by chance ("Okay."), which they must not. Pure functions.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import xxhash

FEWEST_WORDS = 5
"""Words from which on equal texts are no chance."""
FEWEST_CHARACTERS = 10
"""Characters from which on they are none, in scripts without spaces."""

# Han, Hiragana, Katakana, Bopomofo, Thai, Lao, Tibetan, Burmese, Khmer: words are not divided by spaces.
_SPACELESS = (
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
)
_CHARACTER = re.compile(f"[{_SPACELESS}]")
_SPACE_BETWEEN = re.compile(f"(?<=[{_SPACELESS}]) (?=[{_SPACELESS}])")
_REMOVED = "'\u2018\u2019\u02bc`\u00b4"
"""Apostrophes, which some transcripts leave out: `dont` is `don't`."""


def normalize(text: str) -> str:
    """Normalize a text: NFKC, case folded, letters and digits only, white space collapsed.

    Apostrophes and invisible characters are removed, all other characters but letters, digits and the marks on them
    become spaces. Between characters of scripts without spaces there are none.
    """
    # Folding may undo the composition of characters.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = "".join(map(_replacement, folded)).split()
    joined = " ".join(words)
    return joined if joined.isascii() else _SPACE_BETWEEN.sub("", joined)


def is_comparable(normalized: str) -> bool:
    """Whether a normalized text is so long that another one equals it by no chance."""
    if normalized.count(" ") + 1 >= FEWEST_WORDS:
        return True
    return not normalized.isascii() and len(_CHARACTER.findall(normalized)) >= FEWEST_CHARACTERS


def text_hash(transcript: str) -> int:
    """Hash a transcript's normalized text to 64 bits (xxh3); 0 where it is too short to be compared."""
    normalized = normalize(transcript)
    if not is_comparable(normalized):
        return 0
    # Half of a surrogate pair can be in JSON; 0 stands for none.
    return xxhash.xxh3_64_intdigest(normalized.encode("utf-8", "surrogatepass")) or 1


@lru_cache(maxsize=1 << 16)
def _replacement(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in "LNM":
        return character
    return "" if character in _REMOVED or category == "Cf" else " "
