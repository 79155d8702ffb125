"""YAML parsing: plain values with their lines, never larger than the file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ivr_dist.config.yaml_source import Located, parse_value, read_yaml
from ivr_dist.errors import ConfigError

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
)


def refused(tmp_path: Path, text: str | bytes) -> str:
    (tmp_path / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_yaml(str(tmp_path / "x.yaml"))
    assert "x.yaml" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases of the file repeat more than 1000 values"),
        (BOMB.replace("[", "{k: [").replace("]", "]}"), "aliases of the file repeat more than 1000 values"),
        ("a: &a\n  b: *a\n", "nested more than 50 deep"),
        ("a: &a [*a]\n", "an alias cannot hold itself"),
        ("&a [*a]: 1", "a key must be a name"),
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}\n", "merge keys (<<) are not supported"),
        ("a: " + "[" * 3000, "nested more than 50 deep"),
        ("\n".join(" " * n + "a:" for n in range(200)), "nested more than 50 deep"),
        ('a: "\\uD800"', "half of a character"),
        ('a: "x\\0y"', "a zero byte"),
        ('"\\uD800": a', "half of a character"),
        (b"a: caf\xe9", "line 1 is not UTF-8 text"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"<!doctype html>", "a web page"),
    ],
)
def test_texts_that_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    began = time.monotonic()
    assert message in refused(tmp_path, text)
    assert time.monotonic() - began < 20


def test_a_few_aliases_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a [1, 2]\nb: *a\nc: {d: *a}\n")
    assert read_yaml(str(tmp_path / "x.yaml")) == {"a": ["1", "2"], "b": ["1", "2"], "c": {"d": ["1", "2"]}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_encoding_that_says_what_it_is(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.yaml").write_bytes("a: caf\u00e9\n".encode(encoding))
    assert read_yaml(str(tmp_path / "x.yaml")) == {"a": "caf\u00e9"}


PIECES = st.sampled_from(
    [
        "&a ",
        "*a",
        "*a, ",
        "[",
        "]",
        "{",
        "}",
        "b: ",
        "\n",
        "  ",
        "- ",
        "x",
        "1e9",
        "<<: ",
        "? ",
        "!!int ",
        "'",
        '"',
        "|\n",
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=60))
@example("&a [*a, *a]")
@example("&a {b: *a}")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_value(text, "there")
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert count(found) <= 1000 + len(text)


def count(value: Any) -> int:
    inner = value.values() if isinstance(value, Located) else value if isinstance(value, list) else ()
    return 1 + sum(map(count, inner))


@given(st.integers(1, 8), st.integers(1, 40))
def test_aliases_stand_for_a_bounded_number_of_values(levels: int, width: int) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels + 1))]
    text = "\n".join(lines)
    values = 3 + sum(1 + 2 * width**n for n in range(1, levels + 1)) if width**levels < 5000 else 10**4
    try:
        found = parse_value(text, "there")
    except ConfigError:
        assert values > 1000
    else:
        assert count(found) <= 1000 + len(yaml.compose(text).value) * 2 + len(text)
