"""What every reader owes its users, whatever the format."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imc_agents.data.registry import READERS, open_reader, reader_names
from imc_agents.data.rows import RESULT_FIELDS, survey
from imc_agents.errors import UsageError

QUESTIONS = ["Is it left?", "肝脏正常吗？", "", "line one\nline two", 'a "quoted", thing\t!', "  ", "last"]
IDS = ["a", "b", "c", "a", "e", "f", "g"]


def _lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _delimited(delimiter: str) -> Callable[[Path, list[dict[str, str]]], None]:
    def write(path: Path, rows: list[dict[str, str]]) -> None:
        import csv

        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)

    return write


def _parquet(path: Path, rows: list[dict[str, str]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITE = {"jsonl": _lines, "csv": _delimited(","), "tsv": _delimited("\t"), "parquet": _parquet}


@pytest.fixture(params=sorted(READERS))
def path(request, tmp_path) -> Path:
    path = tmp_path / f"q.{request.param}"
    rows = [
        {"id": i, "question": q, "other": f"o{n}"}
        for n, (i, q) in enumerate(zip(IDS, QUESTIONS, strict=True))
    ]
    WRITE[request.param](path, rows)
    return path


def test_every_row_comes_once_in_order_and_again_on_the_next_call(path):
    reader = open_reader(path)
    first, second = list(reader.rows()), list(reader.rows())
    assert [row.index for row in first] == list(range(len(QUESTIONS)))
    assert [row.id for row in first] == IDS
    assert [row.question for row in first] == QUESTIONS
    assert [row.error is None for row in first] == [True, True, False, True, True, False, True]
    assert [(row.id, row.question, row.error) for row in first] == [
        (row.id, row.question, row.error) for row in second
    ]
    assert reader.count() == len(QUESTIONS)
    assert [row.fields["other"] for row in first] == [f"o{number}" for number in range(len(QUESTIONS))]


def test_errors_name_file_line_field_and_cure(path):
    rows = list(open_reader(path).rows())
    for index in (2, 5):
        error = rows[index].error or ""
        assert error.startswith(f"{path.name}:{rows[index].line}: field 'question' ")
        assert "fill it in or delete the row" in error


def test_what_is_written_can_be_read_again(path):
    reader = open_reader(path)
    rows = list(reader.rows())
    stream = io.BytesIO()
    writer = reader.writer(stream, survey(rows))
    for row in rows:
        result = {"refined": f"R{row.index}\n\t,", "changed": True, "flags": ["x"], "confidence": 0.25}
        writer.write(row, {**result, "status": "ok", "error": None})
    writer.close()
    written = path.with_name(f"again.{reader.format}")
    written.write_bytes(stream.getvalue())
    again = open_reader(written, question_field="refined")
    assert [row.question for row in again.rows()] == [f"R{number}\n\t," for number in range(len(QUESTIONS))]
    assert [row.fields["question"] for row in again.rows()] == QUESTIONS
    assert [row.id for row in again.rows()] == IDS
    assert list(next(again.rows()).fields) == ["id", "question", "other", *RESULT_FIELDS]


def test_wrong_fields_are_refused_with_the_fields_there_are(path):
    with pytest.raises(UsageError, match=r"--question-field 'qustion' .* did you mean 'question'\?"):
        open_reader(path, question_field="qustion")
    with pytest.raises(UsageError, match="it has: id, question, other"):
        open_reader(path, id_field="uid")


def test_a_reader_from_another_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[imc_agents.readers]\nlog = other_reader:open_log\n")
    (tmp_path / "other_reader.py").write_text(
        "from imc_agents.data.jsonl import JsonlReader\n"
        "def open_log(path, question_field, id_field):\n"
        "    return JsonlReader(path, question_field or 'message', id_field, 'log')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "x.log").write_text('{"message": "Is it left?"}\n')
    assert "log" in reader_names()
    reader = open_reader(tmp_path / "x.log")
    assert reader.format == "log"
    assert next(reader.rows()).question == "Is it left?"
