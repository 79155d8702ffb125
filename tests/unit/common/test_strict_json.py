"""Strict JSON: duplicate keys, deep nesting and numbers that are too long are refused."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.common import strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_python_writes_is_read(value: Any, as_bytes: bool) -> None:
    text = json.dumps(value)
    found = strict_json.loads(text.encode() if as_bytes else text)
    assert json.dumps(found) == text
    json.dumps(strict_json.finite(found), allow_nan=False)


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_anything_else_is_a_value_error(text: str | bytes) -> None:
    with contextlib.suppress(ValueError):
        strict_json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 100 deep"),
        ('{"a":' * 400 + "1" + "}" * 400, "nested more than 100 deep"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' is given twice"),
        ('[{"a": {"b": 1, "b": 1}}]', "key 'b' is given twice"),
        ("1" * 5000, "a whole number of thousands of digits"),
        ("", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"a": "\xba\xdc"}', "not UTF-8 text: byte 0xba at 7"),
        (b"\x1f\x8b\x08\0", "compressed with gzip"),
    ],
)
def test_traps_are_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strict_json.loads(text)


def test_a_hundred_levels_are_read() -> None:
    assert strict_json.loads("[" * 99 + "]" * 99)
    assert strict_json.loads(b"\xef\xbb\xbf[1e999]") == [math.inf]
