"""Parquet: columns and their types pass through untouched."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imc_agents.data import parquet
from imc_agents.data.registry import open_reader
from imc_agents.data.rows import survey
from imc_agents.errors import UsageError
from tests.data.test_jsonl import RESULT, write


def table() -> pa.Table:
    return pa.table(
        {
            "qid": pa.array([1, 2, 3, None], pa.int16()),
            "question": pa.array(["A?", None, "  ", "D\0?"]).dictionary_encode(),
            "image": pa.array([{"bytes": b"\x00\xff", "path": "x.png"}] * 4),
            "when": pa.array([0, 1, 2, 3], pa.timestamp("us", "UTC")),
        }
    ).replace_schema_metadata({"made by": "someone"})


def test_rows_and_their_errors(tmp_path):
    pq.write_table(table(), tmp_path / "q.parquet")
    reader = open_reader(tmp_path / "q.parquet")
    rows = list(reader.rows())
    assert [row.id for row in rows] == ["1", "2", "3", "row-000004"]
    assert rows[0].error is None
    assert rows[0].fields["image"] == {"bytes": b"\x00\xff", "path": "x.png"}
    assert [row.error for row in rows[1:]] == [
        "q.parquet:2: field 'question' is null; make it a text",
        "q.parquet:3: field 'question' holds only white space; fill it in or delete the row",
        "q.parquet:4: field 'question' has a NUL byte at character 1; remove it",
    ]
    assert reader.count() == 4


@pytest.mark.parametrize("chosen", [slice(None), slice(1, 3), slice(0, 0)])
def test_original_columns_keep_values_types_and_metadata(tmp_path, chosen, monkeypatch):
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 3)
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 3)
    pq.write_table(table(), tmp_path / "q.parquet")
    reader = open_reader(tmp_path / "q.parquet")
    before = pq.read_table(tmp_path / "q.parquet")
    after = pq.read_table(io.BytesIO(write(reader, list(reader.rows())[chosen])))
    assert after.select(before.column_names).equals(before.take(pa.array(list(range(4))[chosen], pa.int64())))
    assert after.schema.metadata == before.schema.metadata
    assert after.column_names[4:] == list(RESULT)
    assert after.schema.field("flags").type == pa.list_(pa.string())
    assert after.column("flags").to_pylist() == [["a", "b"]] * after.num_rows


def test_invalid_utf8_is_one_bad_row_and_is_carried_through(tmp_path):
    values = pa.array([b"A?", b"caf\xe9", b"C?"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, values.buffers())
    pq.write_table(pa.table({"question": broken}), tmp_path / "q.parquet")
    reader = open_reader(tmp_path / "q.parquet")
    rows = list(reader.rows())
    assert [row.error is None for row in rows] == [True, False, True]
    after = pq.read_table(io.BytesIO(write(reader, rows)))
    assert after.column("question").cast(pa.binary()).to_pylist() == [b"A?", b"caf\xe9", b"C?"]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([0, 1], pa.timestamp("ns")),
        pa.array([0, 2**31 - 1], pa.int32()).view(pa.date32()),
    ],
)
def test_an_id_that_python_cannot_hold_is_a_missing_id(tmp_path, ids):
    pq.write_table(pa.table({"id": ids, "question": ["A?", "B?"]}), tmp_path / "q.parquet")
    reader = open_reader(tmp_path / "q.parquet")
    rows = list(reader.rows())
    assert [(row.id, row.question, row.error) for row in rows] == [
        ("row-000001", "A?", None),
        ("row-000002", "B?", None),
    ]
    assert rows[1].flags == ("missing_id",)
    after = pq.read_table(io.BytesIO(write(reader, rows)))
    assert after.column("id").equals(pq.read_table(tmp_path / "q.parquet").column("id"))


def test_input_columns_are_not_repeated_where_no_row_is_chosen(tmp_path):
    pq.write_table(pa.table({"question": ["A?"], "flags": [3]}), tmp_path / "q.parquet")
    names = pq.read_table(io.BytesIO(write(open_reader(tmp_path / "q.parquet"), []))).column_names
    assert len(set(names)) == len(names)
    assert "imc_flags" in names


def test_input_columns_are_not_overwritten(tmp_path):
    pq.write_table(pa.table({"question": ["A?"], "flags": [3]}), tmp_path / "q.parquet")
    reader = open_reader(tmp_path / "q.parquet")
    rows = list(reader.rows())
    assert survey(rows).renamed == {"flags": "imc_flags"}
    after = pq.read_table(io.BytesIO(write(reader, rows)))
    assert after.column("flags").to_pylist() == [3]
    assert after.column("imc_flags").to_pylist() == [["a", "b"]]


def test_a_truncated_file_is_one_clear_error(tmp_path):
    path = tmp_path / "q.parquet"
    pq.write_table(table(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"q\.parquet: not a whole Parquet file"):
        open_reader(path)


def test_the_question_column_must_be_named_or_known(tmp_path):
    pq.write_table(pa.table({"prompt": ["A?"]}), tmp_path / "q.parquet")
    with pytest.raises(UsageError, match="the file has: prompt"):
        open_reader(tmp_path / "q.parquet")
    assert next(open_reader(tmp_path / "q.parquet", question_field="prompt").rows()).question == "A?"
