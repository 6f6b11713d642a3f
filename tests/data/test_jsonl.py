"""JSON lines: every line is a row, and what is written back is what was read plus our columns."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest

from imc_agents.data import jsonl
from imc_agents.data.registry import open_reader
from imc_agents.data.rows import Reader, Row, Tabular, survey
from imc_agents.errors import UsageError

RESULT = {
    "refined": "R",
    "changed": True,
    "flags": ["a", "b"],
    "confidence": 0.5,
    "status": "ok",
    "error": None,
}


def read(path: Path, content: bytes, **options: str) -> tuple[Reader, list[Row]]:
    path.write_bytes(content)
    reader = open_reader(path, **options)
    return reader, list(reader.rows())


def write(reader: Reader, rows: list[Row]) -> bytes:
    stream = io.BytesIO()
    writer = reader.writer(stream, survey(rows, reader.columns if isinstance(reader, Tabular) else ()))
    for row in rows:
        writer.write(row, RESULT)
    writer.close()
    return stream.getvalue()


def test_good_rows_have_id_question_and_line(tmp_path):
    reader, rows = read(tmp_path / "q.jsonl", b'{"id": 7, "question": "A?"}\n{"id": "x", "question": "B?"}')
    assert [(row.index, row.id, row.question, row.line, row.error) for row in rows] == [
        (0, "7", "A?", 1, None),
        (1, "x", "B?", 2, None),
    ]
    assert reader.count() == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"id": "x", "question": "caf\xe9"}', "invalid UTF-8 at byte 29"),
        (b'{"id": "x", "question": "a\x00b"}', "NUL byte at byte 27"),
        (b'{"id": "x", "question": "a\\u0000b"}', "field 'question' has a NUL byte at character 1"),
        (b'{"id": "x", "question": "a\\ud83db"}', "half of a surrogate pair"),
        (b'["question"]', "a JSON list, not an object"),
        (b'"text"', "a JSON str, not an object"),
        (b"{}", "the object has no fields"),
        (
            b'{"id": "x", "query": "A?"}',
            "field 'question' is missing; add it to this row, which has: id, query",
        ),
        (b'{"\\ud800x": "b"}', "field 'question' is missing; add it to this row, which has: \\ud800x"),
        (b'{"id": "x", "question": 3}', "field 'question' is a number; make it a text"),
        (b'{"id": "x", "question": true}', "field 'question' is true or false"),
        (b'{"id": "x", "question": null}', "field 'question' is null"),
        (b'{"id": "x", "question": ["A?"]}', "field 'question' is a list"),
        (b'{"id": "x", "question": ""}', "field 'question' is empty; fill it in or delete the row"),
        (b'{"id": "x", "question": " \\t\\n"}', "field 'question' holds only white space"),
        (b"", "the line is empty; delete it"),
        (b"  ", "the line is empty; delete it"),
        (b'{"id": "x", "question": "A?",}', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"question": ' + b"1" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_bad_line_is_a_row_with_an_error_and_costs_no_other_row(tmp_path, line, expected):
    good = b'{"id": "%d", "question": "Is it?"}'
    content = b"\n".join([good % 1, line, good % 2]) + b"\n"
    reader, rows = read(tmp_path / "q.jsonl", content)
    assert [row.error is None for row in rows] == [True, False, True]
    assert rows[1].error is not None
    assert rows[1].error.startswith("q.jsonl:2: ")
    assert rows[1].error.encode("utf-8"), "the store and the console take it"
    assert expected in rows[1].error
    assert reader.count() == 3
    written = [json.loads(text) for text in write(reader, rows).decode().splitlines()]
    assert len(written) == 3
    assert [row["refined"] for row in written] == ["R", "R", "R"]


def test_a_truncated_last_line_says_so(tmp_path):
    _, rows = read(tmp_path / "q.jsonl", b'{"question": "A?"}\n{"question": "B')
    assert "the file ends in the middle of a record" in (rows[1].error or "")


def test_written_lines_keep_every_byte_of_the_original_fields(tmp_path):
    line = '{"z": 1.10, "a":1e5,  "big": 12345678901234567890123, "question": "caf\\u00e9 é", "a": 2 }'
    reader, rows = read(tmp_path / "q.jsonl", line.encode() + b"\r\n")
    assert write(reader, rows).decode() == (
        line[:-2] + ', "refined": "R", "changed": true, "flags": ["a", "b"], "confidence": 0.5,'
        ' "status": "ok", "error": null}\n'
    )


def test_unreadable_lines_are_carried_as_they_came(tmp_path):
    reader, rows = read(tmp_path / "q.jsonl", b'{"question": "A?"}\nnot json "\n\xff\xfe bytes\n')
    _, text, binary = (json.loads(line) for line in write(reader, rows).decode().splitlines())
    assert text["_raw"] == 'not json "'
    assert base64.b64decode(binary["_raw_base64"]) == b"\xff\xfe bytes"


def test_a_field_of_the_input_is_never_overwritten(tmp_path):
    content = b'{"question": "A?"}\n{"question": "B?", "status": "mine", "refined": 1, "imc_refined": 2}\n'
    reader, rows = read(tmp_path / "q.jsonl", content)
    first, second = (json.loads(line) for line in write(reader, rows).decode().splitlines())
    assert second["status"] == "mine"
    assert second["refined"] == 1
    assert second["imc_refined"] == 2
    assert second["imc_status"] == "ok"
    assert second["imc_imc_refined"] == "R"
    assert first["imc_status"] == "ok", "all rows of a file use the same names"
    assert survey(rows).renamed == {"refined": "imc_imc_refined", "status": "imc_status"}


def test_missing_and_unusable_ids_are_made_from_the_row_number(tmp_path):
    content = (
        b'{"qid": "a", "text": "A?"}\n{"text": "B?"}\n{"qid": {}, "text": "C?"}\n{"qid": " ", "text": "D?"}\n'
    )
    reader, rows = read(tmp_path / "q.jsonl", content)
    assert (reader.question_field, reader.id_field) == ("text", "qid")
    assert [row.id for row in rows] == ["a", "row-000002", "row-000003", "row-000004"]
    assert [row.flags for row in rows] == [(), ("missing_id",), ("missing_id",), ("missing_id",)]
    _, rows = read(tmp_path / "q.jsonl", b'{"text": "A?"}\n')
    assert (rows[0].id, rows[0].flags) == ("row-000001", ()), "a file without ids lacks none"


def test_unusual_but_fine_questions_pass(tmp_path):
    questions = ["hat der Patient?", "肝脏正常吗？", "هل الكبد طبيعي؟", "🫀 ok?", "word " * 100_000]
    content = "\n".join(json.dumps({"question": question}, ensure_ascii=False) for question in questions)
    _, rows = read(tmp_path / "q.jsonl", content.encode())
    assert [row.question for row in rows] == questions
    assert not any(row.error for row in rows)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    reader, rows = read(tmp_path / "q.jsonl", b'\xef\xbb\xbf{"question": "A?"}\n')
    assert rows[0].question == "A?"
    assert write(reader, rows).startswith(b'{"question"')


def test_a_line_beyond_the_bound_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_RECORD_BYTES", 4096)
    long = json.dumps({"question": "x" * 3_000_000}).encode()
    content = b'{"question": "A?"}\n' + long + b'\n{"question": "B?"}\n'
    reader, rows = read(tmp_path / "q.jsonl", content)
    assert [row.question for row in rows] == ["A?", None, "B?"]
    assert "longer than" in (rows[1].error or "")
    assert len(rows[1].raw) == 1000
    assert reader.count() == 3


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (b'{"prompt": "A?", "n": 1}\n', {}, "no field called question, text or query; name the one"),
        (b'{"prompt": "A?", "n": 1}\n', {}, "the file has: prompt, n"),
        (
            b'{"prompt": "A?"}\n',
            {"question_field": "promt"},
            "--question-field 'promt' is no field of the file; did you mean 'prompt'?; it has: prompt",
        ),
        (b'{"\\ud800x": "A?"}\n', {}, "the file has: \\ud800x"),
        (b'{"question": "A?"}\n', {"id_field": "uid"}, "--id-field 'uid' is no field of the file"),
        (b'[\n{"question": "A?"}\n]\n', {}, "a JSON array, not JSON lines; convert it with `jq -c '.[]'"),
        ('{"question": "A?"}\n'.encode("utf-16"), {}, "UTF-16; convert it with `iconv"),
        (b"", {}, "the file is empty; there is nothing to refine"),
    ],
)
def test_mistakes_that_concern_the_whole_file_are_one_error(tmp_path, content, options, expected):
    with pytest.raises(UsageError) as error:
        read(tmp_path / "q.jsonl", content, **options)
    assert expected in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "q.jsonl"))


def test_a_file_of_bad_rows_only_can_still_be_read(tmp_path):
    _, rows = read(tmp_path / "q.jsonl", b"nonsense\n\xff\n")
    assert len(rows) == 2
    assert all(row.error for row in rows)
