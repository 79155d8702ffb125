"""Printed text is one line of visible characters, whatever the data contains."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from ivr_dist.display.console import LocalConsole, render
from ivr_dist.display.plain_output import say
from ivr_dist.display.progress import bars
from ivr_dist.display.tables import print_metrics, print_rows, print_table
from ivr_dist.errors import DataError, IvrError
from ivr_dist.run.events import CheckpointSaved, Evaluation, Note, Phase
from ivr_dist.sanitize import plain, plain_lines, shorten, writable

EVIL = "\x1b]0;changed\x07\x1b[2J\x9b31m\u202eevil\u200b\r\nline\u2028\ud800"
# Any code point, halves of surrogate pairs included, and often those that do harm.
TEXT = st.text(
    st.one_of(st.sampled_from(EVIL + "\t\x7f\x85\xad\ufeff\U000e0041 [b]/"), st.characters(codec=None)), max_size=40
)


def harmless(text: str) -> bool:
    """Whether there is no control or format character, no surrogate, and no newline but the last."""
    return all(unicodedata.category(letter)[0] != "C" and letter not in "\u2028\u2029" for letter in text)


@given(TEXT)
def test_any_text_becomes_one_visible_line(text: str) -> None:
    assert harmless(plain(text)) and plain(text).isprintable()
    assert plain(plain(text)) == plain(text)
    assert harmless(plain_lines(text).replace("\n", "").replace("\t", ""))


def test_invisible_characters_are_escaped() -> None:
    assert plain("a\x1b[31m\u202eb\u200b\n\ud800") == r"a\x1b[31m\u202eb\u200b\n\ud800"
    assert plain("\u3042\u3000\u6587 \u00e9\xa0x") == "\u3042 \u6587 \u00e9 x"
    assert plain_lines("\x1b[36mblue\x1b[0m\r\nnext\t\x1b[2J") == "blue\nnext\t\\x1b[2J"


@given(st.text("ab .,", max_size=80), st.integers(4, 60))
def test_a_text_is_cut_between_words_if_possible(text: str, most: int) -> None:
    short = shorten(text, most)
    assert len(short) <= most
    if len(text) <= most:
        assert short == text
    elif short.endswith(" ..."):
        rest = text[len(short) - len(" ...") :].lstrip(" ,;:")
        assert text.startswith(short.removesuffix(" ...")) and (not rest or text[: -len(rest) or None][-1:] in " ,;:.")


def test_a_cut_ends_a_sentence_or_ends_with_dots() -> None:
    assert shorten("One thing. Another thing that is long", 20) == "One thing."
    assert shorten("one thing that goes on and on", 20) == "one thing that ..."
    assert shorten("x" * 30, 10) == "xxxxxxx..."


@given(TEXT, TEXT, TEXT)
@settings(max_examples=40, deadline=None)
def test_errors_events_rows_and_tables_are_sanitized(first: str, second: str, third: str) -> None:
    assert harmless(str(DataError(first, where=second, remedy=third)))
    for encoding in ("utf-8", "ascii", "latin-1", "gbk"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        console = LocalConsole(stream)
        for event in (
            Note(first),
            Phase(second),
            Evaluation(first, 1, {f"{second}/{third}": 1.0}, True),
            CheckpointSaved(first, 1.0, 0.0),
        ):
            console.emit(event)
            assert render(event) is not None
        events = 4
        print_rows([(first, second), (second, third)], stream)
        print_metrics({first: {second: 1.0, third: None}}, stream)
        stream.flush()
        lines = stream.buffer.getvalue().decode(encoding).split("\n")  # type: ignore[attr-defined]
        assert all(harmless(line) for line in lines)
        # A table of one or two rows: an empty line, the head, a rule, the rows, an empty line.
        assert len(lines) - 1 == events + 2 + 4 + len({second, third})


def test_columns_of_wide_characters_are_aligned() -> None:
    stream = io.StringIO()
    rows = [("\u60c5\u611f", "1", "x"), ("mood", "22", "y"), ("e\u0301t\u00e9", "3", "z")]
    print_table(("\u4efb\u52a1 task", "count", "end"), rows, stream)
    print_rows([("\u60c5\u611f", "a"), ("mood", "a")], stream)
    table, two = stream.getvalue().splitlines()[3:6], stream.getvalue().splitlines()[-2:]
    assert len({cell_len(line.rstrip()) for line in table}) == 1
    assert len({cell_len(line) for line in two}) == 1


def test_a_wide_table_is_not_cut() -> None:
    stream = io.StringIO()
    print_table(("name", "place"), [("a", "x" * 700), ("b" * 300, "y")], stream)
    assert "x" * 700 in stream.getvalue() and "b" * 300 in stream.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_outside_the_encoding_are_escaped(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    say("\u6587 \u00e9 \ud800", stream, flush=True)
    written = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert written == writable("\u6587 \u00e9 ", stream) + r"\ud800" + "\n"
    assert (r"\u6587" in written) == (encoding != "utf-8")


def test_a_progress_bar_may_have_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    with bars() as progress:
        progress("[/bold]\x1b[2J", 1, 1)
    assert r"[/bold]\x1b[2J" in capsys.readouterr().err


def test_an_error_is_the_same_after_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(DataError(EVIL, where="x", remedy="y")))
    assert isinstance(error, IvrError) and error.what == EVIL and harmless(str(error))
