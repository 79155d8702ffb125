"""Words at white space, and by Unicode's boundaries where a script has none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.common.word_segmentation import finer_words, split_words, word_starts

CHINESE = "\u6211\u4e70\u4e86iPhone 15\uff0c\u597d\uff01"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's a well-known fact, isn't it?", ["It's", "a", "well-known", "fact,", "isn't", "it?"]),
        ("na\u00efve \u041f\u0440\u0438\u0432\u0435\u0442!", ["na\u00efve", "\u041f\u0440\u0438\u0432\u0435\u0442!"]),
        ("", []),
        (CHINESE, ["\u6211", "\u4e70", "\u4e86", "iPhone", "15\uff0c", "\u597d\uff01"]),
        ("\uff08\u597d\uff09", ["\uff08\u597d\uff09"]),
        ("\uff01\u3002", ["\uff01\u3002"]),
        ("\u30ab\u30e1\u30e9\u3092", ["\u30ab\u30e1\u30e9", "\u3092"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.text(st.sampled_from("ab1 .,\u4f60\u597d\u3002\uff0c\u30ab\u3042\u0e01\u0e34\t")))
def test_no_character_is_lost(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())
    for part in text.split():
        starts = word_starts(part)
        assert starts[0] == 0
        assert starts == sorted(set(starts))
        assert starts[-1] < len(part)


def test_the_pieces_of_an_encoder_stay_and_count_for_the_word_they_begin_in() -> None:
    # Parts "ab" and two Chinese words with punctuation; the tokenizer has a piece of both of these words.
    parts, word_of = ["ab", "\u4f60\u597d\u3002"], [None, 0, 0, 1, 1, None]
    offsets = [(0, 0), (0, 1), (1, 2), (0, 2), (2, 3), (0, 0)]
    assert finer_words(parts, word_of, offsets) == [None, 0, 0, 1, 2, None]
    assert finer_words(["ab", "cd"], [None, 0, 1], [(0, 0), (0, 2), (0, 2)]) == [None, 0, 1]
