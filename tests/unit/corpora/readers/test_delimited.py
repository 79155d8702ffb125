"""Rows of csv and tsv files: what csv writers write is read back with its lines, and faults name theirs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.readers.delimited import parse_delimited, read_delimited
from ivr_dist.errors import DataError

FIELD = st.text(st.sampled_from("ab ,;\t\"'\r\n\u00e9\u4f60\u2028"), max_size=6)


@given(st.lists(st.tuples(FIELD, FIELD), max_size=6), st.sampled_from(",\t;"), st.sampled_from(["\n", "\r\n"]))
def test_what_csv_writes_is_read_back(rows: list[tuple[str, str]], separator: str, end: str) -> None:
    written = io.StringIO(newline="")
    # Python's writer leaves a carriage return without quotes.
    quoting = csv.QUOTE_ALL if any("\r" in field for row in rows for field in row) else csv.QUOTE_MINIMAL
    writer = csv.writer(written, delimiter=separator, lineterminator=end, quoting=quoting)
    lines = []
    for fields in [("first name", "b"), *rows]:
        lines.append(len(written.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n")))
        writer.writerow(fields)
    table = parse_delimited(written.getvalue().encode(), "t.csv", separator)
    assert table.columns == ("first name", "b")
    assert [(row["first name"], row["b"]) for row in table.rows] == rows
    assert [row.line for row in table.rows] == lines[1:]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_removed(encoding: str) -> None:
    table = parse_delimited("id,text\n1,\u00e9\n".encode(encoding), "t.csv")
    assert table.columns == ("id", "text")
    assert table.rows[0]["text"] == "\u00e9"


def test_an_index_without_a_name_and_blank_lines_are_left_out() -> None:
    table = parse_delimited(b"\n,id,text,\n\n0,a,x,\n \n1,b,,\n", "t.csv")
    assert table.columns == ("id", "text")
    assert [(row.line, dict(row.values)) for row in table.rows] == [
        (4, {"id": "a", "text": "x"}),
        (6, {"id": "b", "text": ""}),
    ]


@pytest.mark.parametrize(("header", "suffix"), [("id;text", ","), ("id\ttext", ","), ("id,text", "\t")])
def test_the_separator_of_the_header_counts_where_the_suffix_says_another(header: str, suffix: str) -> None:
    mark = header[2]
    table = parse_delimited(f'{header}\n1{mark}"a{mark}b"\n'.encode(), "t.csv", suffix)
    assert table.columns == ("id", "text")
    assert table.rows[0]["text"] == f"a{mark}b"


def test_windows_1252_is_read_where_it_is_named() -> None:
    table = parse_delimited(b"id,text\n1,it\x92s\n", "t.csv", encoding="cp1252")
    assert table.rows[0]["text"] == "it\u2019s"


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"id,text\n1,it\x92s\n", "utf-8", r"line 2 is not UTF-8 text: byte 0x92.*it\\u2019s.*iconv -f WINDOWS-1252"),
        (b"id,text\n1,it\x81s\n", "utf-8", r"line 2 is not UTF-8.*; save it as UTF-8$"),
        (b"id,text\n1,it\x81s\n", "cp1252", r"line 2 is not cp1252 text: byte 0x81"),
        (b"id,text\n", "latin-17", r"'latin-17' is not an encoding.*cp1252"),
        (b"id,a,a\n1,2,3\n", "utf-8", r"2 columns are called 'a' \(t.csv, line 1\)"),
        (b"id,a\n1,2\n1,2,3\n", "utf-8", r"the row has 3 fields, the header has 2 \(t.csv, line 3\); put fields"),
        (b'id,a\n1,"x\ny"\n1\n', "utf-8", r"the row has 1 fields, the header has 2 \(t.csv, line 4\); write a sep"),
        (b'id,a\n1,2\n1,"x\n2,y\n', "utf-8", r"not a valid row: unexpected end.*\(t.csv, line 3\); put a field"),
        (b'id,a\n1,"x"y\n', "utf-8", r"not a valid row.*line 2"),
        (b'id,a\n1,"' + b"x" * 200_000 + b'"\n', "utf-8", r"not a valid row: field larger.*line 2"),
        (b",\n1,2\n", "utf-8", r"there is no header"),
        (b'{"id": 1}\n', "utf-8", r"this is JSON, not a csv or tsv file.*\.jsonl"),
        (b"", "utf-8", r"this is an empty file, not a csv or tsv file"),
        (b"PK\x03\x04", "utf-8", r"zip archive.*not a csv or tsv file"),
    ],
)
def test_faults_name_their_line_and_a_remedy(data: bytes, encoding: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_delimited(data, "t.csv", encoding=encoding)


def test_a_file_of_the_corpus_with_required_columns(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("id\ttext\n1\ta,b\n")
    file = SourceFile(path="t.tsv")
    assert read_delimited(str(tmp_path), file, ["id"]).rows[0]["text"] == "a,b"
    with pytest.raises(DataError, match=r"there is no column 'txt' \(.*t.tsv\); did you mean text\?"):
        read_delimited(str(tmp_path), file, ["id", "txt"])
    with pytest.raises(DataError, match=r"a file of the corpus is missing"):
        read_delimited(str(tmp_path), SourceFile(path="u.tsv"))
