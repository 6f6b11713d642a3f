"""CSV and TSV: RFC 4180 in, the same quoting out, and a broken record costs itself only."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from imc_agents.data import delimited
from imc_agents.data.registry import open_reader
from imc_agents.data.rows import survey
from imc_agents.errors import UsageError
from tests.data.test_jsonl import read, write

ADDED = "refined,changed,flags,confidence,status,error"


def test_a_field_over_several_lines_is_one_row(tmp_path):
    content = b'id,question,note\r\n1,"Is it\nleft, or\r\n""right""?",x\r\n2,B?,"y, z"\r\n'
    reader, rows = read(tmp_path / "q.csv", content)
    assert [row.question for row in rows] == ['Is it\nleft, or\r\n"right"?', "B?"]
    assert [row.line for row in rows] == [2, 5]
    assert reader.count() == 2
    written = write(reader, rows).decode()
    assert written == (
        f"id,question,note,{ADDED}\r\n"
        '1,"Is it\nleft, or\r\n""right""?",x,R,true,a;b,0.5,ok,\r\n'
        '2,B?,"y, z",R,true,a;b,0.5,ok,\r\n'
    )


def test_written_cells_are_quoted_where_they_must_be(tmp_path):
    reader, rows = read(tmp_path / "q.csv", b"question\nA?\n")
    stream = io.BytesIO()
    writer = reader.writer(stream, survey(rows))
    refined = 'a, "b"\r\nc'
    empty = {"changed": False, "flags": [], "confidence": 1.0, "status": "ok", "error": None}
    writer.write(rows[0], {"refined": refined, **empty})
    assert next(csv.DictReader(io.StringIO(stream.getvalue().decode(), newline="")))["refined"] == refined


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (b"x,caf\xe9,n", "invalid UTF-8 at byte 6 of the record"),
        (b"x,a\x00b,n", "field 'question' has a NUL byte"),
        (b"x,,n", "field 'question' is empty"),
        (b"x,  ,n", "holds only white space"),
        (b"", "the line is empty; delete it"),
        (b"x,A?", "2 cells where the header has 3; quote cells with commas"),
        (b"x,Is it left, or right?,n", "4 cells where the header has 3"),
        (b'x,"A" is it?,n', "not CSV"),
        (b'x,"never closed,n', "a quote is opened on this line and never closed"),
    ],
)
def test_a_bad_record_costs_no_other_row(tmp_path, record, expected):
    reader, rows = read(
        tmp_path / "q.csv", b"\n".join([b"id,question,note", b"1,A?,n", record, b"2,B?,n", b""])
    )
    assert [row.question for row in rows if row.error is None] == ["A?", "B?"]
    assert len(rows) == 3
    assert rows[1].error is not None
    assert rows[1].error.startswith("q.csv:3: ")
    assert expected in rows[1].error
    written = list(csv.DictReader(io.StringIO(write(reader, rows).decode(), newline="")))
    assert [row["refined"] for row in written] == ["R", "R", "R"]
    assert all(len(row) == len(written[0]) and None not in row for row in written), "no row is ragged"
    if not rows[1].readable and b"\xe9" not in record:
        assert written[1]["_raw"] == record.decode()


def test_a_stray_quote_is_found_however_the_file_goes_on(tmp_path):
    content = b'id,question\n1,A?\n2,"stray\n3,C?\n4,"D, ""d""?"\n5,E?\n'
    _, rows = read(tmp_path / "q.csv", content)
    assert [(row.id, row.question) for row in rows if row.error is None] == [
        ("1", "A?"),
        ("3", "C?"),
        ("4", 'D, "d"?'),
        ("5", "E?"),
    ]
    assert [row.line for row in rows] == [2, 3, 4, 5, 6]


def test_a_quote_opened_on_the_last_line_is_reported(tmp_path):
    _, rows = read(tmp_path / "q.csv", b'question,n\nA?,1\n"cut off')
    assert [row.error is None for row in rows] == [True, False]


def test_a_quote_inside_an_unquoted_cell_is_a_character(tmp_path):
    _, rows = read(tmp_path / "q.csv", b'question,n\n5" tube in place?,1\n')
    assert rows[0].question == '5" tube in place?'


def test_a_record_beyond_the_bound_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_RECORD_BYTES", 2000)
    content = b"question,n\nA?,1\n" + b"x" * 50_000 + b',2\n"open,3\n' + b"D?,4\n" * 1000
    reader, rows = read(tmp_path / "q.csv", content)
    assert [row.error is None for row in rows[:4]] == [True, False, False, True]
    assert len(rows) == reader.count() == 1003
    assert rows[-1].line == 1004


def test_a_byte_order_mark_and_the_line_ends_stay(tmp_path):
    reader, rows = read(tmp_path / "q.csv", b"\xef\xbb\xbfquestion\nA?\n")
    assert rows[0].question == "A?"
    assert write(reader, rows) == b"\xef\xbb\xbf" + f"question,{ADDED}\nA?,R,true,a;b,0.5,ok,\n".encode()


def test_tsv_is_read_with_tabs_and_commas_are_text(tmp_path):
    reader, rows = read(tmp_path / "q.tsv", b"id\tquestion\n1\tleft, or right?\n")
    assert rows[0].question == "left, or right?"
    assert write(reader, rows).decode().splitlines()[1] == "1\tleft, or right?\tR\ttrue\ta;b\t0.5\tok\t"


def test_input_columns_are_not_overwritten(tmp_path):
    reader, rows = read(tmp_path / "q.csv", b"question,status,error\nA?,mine,1\n")
    row = next(csv.DictReader(io.StringIO(write(reader, rows).decode())))
    assert row["status"] == "mine"
    assert row["imc_status"] == "ok"
    assert row["imc_error"] == ""


@pytest.mark.parametrize("record", [b"1,a\n", b""])
def test_input_columns_are_not_repeated_where_no_row_is_readable(tmp_path, record):
    reader, rows = read(tmp_path / "q.csv", b"id,question,status\n" + record)
    header = next(csv.reader(io.StringIO(write(reader, rows).decode(), newline="")))
    assert len(set(header)) == len(header)
    assert header[:3] == ["id", "question", "status"]
    assert "imc_status" in header


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("q.csv", b"a,b\n1,2\n", {}, "no field called question, text or query"),
        ("q.csv", b"\n1,2\n", {}, ":1: no header"),
        ("q.csv", b"question,question\n1,2\n", {}, "column 'question' is there twice"),
        ("q.csv", "question\nA?\n".encode("utf-16"), {}, "UTF-16"),
        ("q.txt", b"question\nA?\n", {}, "the ending '.txt' names no format; give --format (csv, jsonl"),
        ("q.json", b'[{"question": "A?"}]', {}, "jq -c '.[]'"),
        ("q", b"A?", {}, "a name without an ending names no format"),
        ("q.csv", b"question\n", {"format": "cvs"}, "--format 'cvs' is unknown; did you mean 'csv'?"),
    ],
)
def test_mistakes_that_concern_the_whole_file_are_one_error(tmp_path, name, content, options, expected):
    with pytest.raises(UsageError) as error:
        read(tmp_path / name, content, **options)
    assert expected in str(error.value)


def test_missing_files_and_folders_are_told_apart(tmp_path: Path):
    with pytest.raises(UsageError, match="there is no such file"):
        open_reader(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="a folder, not a file"):
        open_reader(tmp_path, format="csv")
