"""The strict decoder: values that fit their types are built, all others are refused with their path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.common.decoder import AnyFloat, DecodeError, Decoder, Words, decode, describe_type, show


@dataclass(frozen=True)
class Part:
    name: str
    size: int = 0
    kind: Literal["tar", "index"] = "tar"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"its size is {self.size}")


@dataclass(frozen=True)
class Record:
    ratio: float
    parts: list[Part]
    done: bool = False
    best: float | None = None
    loss: AnyFloat = 0.0
    last: AnyFloat | None = None
    stage: Literal[0, 1] = 0
    ranks: tuple[str, ...] = ()
    names: Sequence[str] = ()
    by_name: dict[str, Part] = field(default_factory=dict)
    changed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    workers: int | list[int] = 1
    extra: Any = None
    seen: int = field(default=7, init=False)


ClassPath = Annotated[str | dict[str, Any], Words("a class, as module:Class or a mapping")]


def test_an_annotated_type_has_words_of_its_own() -> None:
    assert decode(list[ClassPath], ["a:B", {"class": "a:B", "x": 1}]) == ["a:B", {"class": "a:B", "x": 1}]
    with pytest.raises(DecodeError, match=r"^\[0\]: 3 is not a class, as module:Class or a mapping$"):
        decode(list[ClassPath], [3])


SMALLEST: dict[str, Any] = {"ratio": 0.5, "parts": [{"name": "a"}]}


def test_a_record_is_built() -> None:
    value = {
        "ratio": 1,
        "parts": [{"name": "a", "size": 3, "kind": "index"}],
        "done": True,
        "best": None,
        "ranks": ["host:1"],
        "by_name": {"x": {"name": "y"}},
        "changed": {"train.lr": ["1", "2"]},
        "workers": [2, 8],
        "extra": {"any": [1, None]},
    }
    record = decode(Record, value)
    assert record.parts == [Part("a", 3, "index")]
    assert (record.ranks, record.by_name, record.workers) == (("host:1",), {"x": Part("y")}, [2, 8])
    assert type(record.ratio) is int, "numbers stay as they were written: ids are hashes of them"
    assert (record.names, record.seen, record.extra) == ((), 7, {"any": [1, None]})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ratio": "x"}, "ratio: 'x' is not a number"),
        ({"ratio": True}, "ratio: true is not a number"),
        ({"ratio": math.nan}, "ratio: nan is not a finite number"),
        ({"ratio": -math.inf}, "ratio: -inf is not a finite number"),
        ({"ratio": 10**400}, f"ratio: 1{'0' * 36}... is not a finite number"),
        ({"ratio": None}, "ratio: null is not a number"),
        ({"best": "x"}, "best: 'x' is not a number"),
        ({"best": math.inf}, "best: inf is not a finite number"),
        ({"done": 1}, "done: 1 is not true or false"),
        ({"parts": {}}, "parts: {} is not a list of mappings"),
        ({"parts": [{"name": "a"}, 3]}, "parts[1]: 3 is not a mapping"),
        ({"parts": [{"name": 3}]}, "parts[0].name: 3 is not a string"),
        ({"parts": [{}]}, "key parts[0].name is missing"),
        ({"parts": [{"name": "a", "sise": 1}]}, "unknown key parts[0].sise"),
        ({"parts": [{"name": "a", "size": 1.0}]}, "parts[0].size: 1.0 is not a whole number"),
        ({"parts": [{"name": "a", "size": True}]}, "parts[0].size: true is not a whole number"),
        ({"parts": [{"name": "a", "kind": "zip"}]}, "parts[0].kind: 'zip' is not one of tar, index"),
        ({"parts": [{"name": "a", "size": -1}]}, "parts[0]: its size is -1"),
        ({"stage": True}, "stage: true is not one of 0, 1"),
        ({"ranks": "host:1"}, "ranks: 'host:1' is not a list of strings"),
        ({"ranks": [1]}, "ranks[0]: 1 is not a string"),
        ({"by_name": {"x": {"name": None}}}, "by_name.x.name: null is not a string"),
        ({"changed": {"x": ["1", 2]}}, "changed.x[1]: 2 is not a string"),
        ({"changed": ["x"]}, "changed: ['x'] is not a mapping of names to lists of strings"),
        ({"workers": "two"}, "workers: 'two' is not a whole number or a list of whole numbers"),
        ({"workers": [1, "x"]}, "workers[1]: 'x' is not a whole number"),
        ({"seen": 3}, "unknown key seen"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(change: dict[str, Any], text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Record, SMALLEST | change)
    assert str(caught.value) == text


def test_the_whole_value_has_no_path() -> None:
    for value in (None, 3, [], "text"):
        with pytest.raises(DecodeError, match=r"^.* is not a mapping$") as caught:
            decode(Record, value)
        assert caught.value.path == ""


def test_an_error_names_what_would_fit() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Record, SMALLEST | {"parts": [{"name": "a", "kind": "tarr"}]})
    assert (caught.value.keys, tuple(caught.value.choices)) == (("parts", 0, "kind"), ("tar", "index"))
    with pytest.raises(DecodeError) as caught:
        decode(Part, {"nam": "a"})
    assert (caught.value.reason, tuple(caught.value.choices)) == ("unknown", ("name", "size", "kind"))


def test_fields_with_a_default_can_be_required() -> None:
    with pytest.raises(DecodeError, match=r"^key size is missing$"):
        decode(Part, {"name": "a"}, complete=True)
    assert decode(Part, {"name": "a", "size": 1, "kind": "tar"}, complete=True) == Part("a", 1)


def test_nan_only_where_it_is_allowed() -> None:
    assert math.isnan(decode(Record, SMALLEST | {"loss": math.nan}).loss)
    assert decode(Record, SMALLEST | {"last": math.inf}).last == math.inf
    assert decode(Record, SMALLEST | {"last": None}).last is None


def test_a_source_with_scalars_of_its_own() -> None:
    def read(value: Any, hint: Any) -> Any:
        if value == "bad":
            raise ValueError("bad is no good")
        return int(value) if hint in (int, float) else value

    decoder = Decoder(read=read, show=lambda value: f"<{value}>", floats=True)
    record = decoder.decode(Record, {"ratio": "3", "parts": [{"name": "a", "size": "4"}]})
    assert (record.ratio, type(record.ratio), record.parts[0].size) == (3.0, float, 4)
    with pytest.raises(DecodeError, match=r"^ratio: bad is no good$"):
        decoder.decode(Record, {"ratio": "bad", "parts": []})
    with pytest.raises(DecodeError, match=r"^done: <4> is not true or false$"):
        decoder.decode(Record, SMALLEST | {"ratio": 1, "done": "4"})


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number, or null"),
        (list[Literal["a", "b"]], "a list of any of a, b"),
        (dict[str, float], "a mapping of names to numbers"),
        (dict[str, Any], "a mapping"),
        (int | list[int], "a whole number or a list of whole numbers"),
        (dict[str, list[str]], "a mapping of names to lists of strings"),
        (AnyFloat, "a number"),
        (ClassPath, "a class, as module:Class or a mapping"),
        (list[ClassPath], "a list of entries, each a class, as module:Class or a mapping"),
        (list[str | dict[str, Any]], "a list of strings or mappings"),
        (Part, "a mapping"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert describe_type(hint) == words


def test_values_as_they_may_have_been_typed() -> None:
    assert show([None, True, "a", {"b": 1.5}]) == "[null, true, 'a', {b: 1.5}]"
    assert len(show("x" * 5000)) <= 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "size", "x"]), inner),
    max_leaves=6,
)


@given(st.sampled_from(["ratio", "parts", "done", "loss", "ranks", "by_name", "workers", "stage", "x"]), JSON)
def test_any_value_is_decoded_to_itself_or_refused_by_name(key: str, value: Any) -> None:
    try:
        record = decode(Record, SMALLEST | {key: value})
    except DecodeError as error:
        assert key in str(error) and "\n" not in str(error)
    else:
        found = asdict(record)[key]
        expected = tuple(value) if key == "ranks" else value
        if key == "parts":
            expected = [asdict(Part(**item)) for item in value]
        if key == "by_name":
            expected = {name: asdict(Part(**item)) for name, item in value.items()}
        assert found == expected or (math.isnan(found) and math.isnan(expected))
