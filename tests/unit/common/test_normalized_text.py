"""Normalized texts: what counts as the same text, and which texts are long enough to be compared."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.common.normalized_text import is_comparable, normalize, text_hash

HAN = "\u6211\u559c\u6b22\u4f60\u7684\u7535\u5f71\u771f\u597d\u770b"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Oh, DON'T you -- dare!", "oh don\u2019t you dare"),
        ("well-known  facts\n(all)", "well known facts all"),
        ("Caf\u00e9", "CAFE\u0301"),
        ("\uff21\uff22\uff23 \uff11\uff12", "abc 12"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u6211 \u559c\u6b22\u3002\u4f60 \uff01", "\u6211\u559c\u6b22\u4f60"),
        ("zero\u200bwidth", "zerowidth"),
        ("_a_", "a"),
    ],
)
def test_spellings_of_one_text(one: str, other: str) -> None:
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize(("one", "other"), [("ab", "a b"), ("a1", "a2"), ("\u0e01\u0e34\u0e19", "\u0e01\u0e19")])
def test_other_texts(one: str, other: str) -> None:
    assert normalize(one) != normalize(other)


@given(st.text())
def test_normalizing_again_changes_nothing(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert all(character == " " or unicodedata.category(character)[0] in "LNM" for character in once)
    assert once == once.strip() and "  " not in once


@pytest.mark.parametrize(
    ("text", "long"),
    [
        ("Okay.", False),
        ("one two three four", False),
        ("one two three four five", True),
        ("extraordinarilylongsingleword", False),
        (HAN, True),
        (HAN[:9], False),
        (f"{HAN[:5]} {HAN[5:]}", True),
        (f"ok {HAN[:9]}", False),
        ("", False),
        ("... --- ... !!! ???", False),
        # Korean divides words by spaces.
        ("\ub2e4" * 12, False),
        ("\u0e01" * 10, True),
    ],
)
def test_short_texts_are_equal_by_chance(text: str, long: bool) -> None:
    assert is_comparable(normalize(text)) == long
    assert bool(text_hash(text)) == long


def test_hashes_are_pinned() -> None:
    """They are in packed data, so they must never change."""
    assert (
        text_hash("Oh my God, what ARE you doing?") == text_hash("oh my god what are you doing") == 18422707457143104979
    )
    assert text_hash(HAN) == 12919663312246601239
    assert text_hash("half a pair \ud800 of surrogates") != 0
