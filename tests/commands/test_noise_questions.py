"""``imc noise apply`` on question files: the questions become noisy, every other byte stays."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cli
from imc_agents.noise.text import apply_text_noise

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "examples" / "noisy_questions.jsonl"

Run = Callable[..., list[str]]


@pytest.fixture
def apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``imc noise apply NAME IN OUT ...`` in an empty folder; the lines of stdout, or of stderr where it fails."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> list[str]:
        assert cli.run(["noise", "apply", *arguments, "--workers", "1"]) == code, capsys.readouterr()
        captured = capsys.readouterr()
        return (captured.err if code else captured.out).splitlines()

    return run


def noisy(question: str, sample_id: str, kind: str = "typo", severity: int = 3) -> str:
    return apply_text_noise(question, kind, severity, sample_id=sample_id).text


def test_json_lines_keep_all_but_the_question(apply: Run) -> None:
    first = '{"id": "q1",  "n": 1.50, "question":"Is there a \\u00e9normous effusion?", "deep": {"question": "Is it?"}}'
    second = '{"question": "Sind die Größen verändert, oder sind sie normal?", "id": 7, "answer": "nein"}'
    third = '{"question": "first", "id": "q3", "question" : "Which kidney is enlarged?"}'
    Path("in.jsonl").write_bytes("\r\n".join(["\ufeff" + first, second, third, ""]).encode())
    apply("typo", "in.jsonl", "out.jsonl", "--severity", "3")
    content = Path("out.jsonl").read_bytes()
    one, two, three, last = content.decode().split("\r\n")
    assert last == ""
    changed = json.dumps(noisy("Is there a énormous effusion?", "q1"))
    assert one == "\ufeff" + first.replace('"Is there a \\u00e9normous effusion?"', changed)
    assert "\\u00e9" in one, "what was ASCII stays so"
    kept = json.dumps(noisy("Sind die Größen verändert, oder sind sie normal?", "7"), ensure_ascii=False)
    assert two == '{"question": ' + kept + ', "id": 7, "answer": "nein"}'
    assert (
        three
        == '{"question": "first", "id": "q3", "question" : '
        + json.dumps(noisy("Which kidney is enlarged?", "q3"))
        + "}"
    )
    assert one != "\ufeff" + first


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_tables_keep_their_quotes(apply: Run, suffix: str, delimiter: str) -> None:
    lines = [
        delimiter.join(["qid", '"the question"', "note"]),
        delimiter.join(["a", "Is the liver enlarged?", '"x ""y"" z"']),
        delimiter.join(["b", '"Is the ""left"" kidney, or spleen,\nenlarged?"', ""]),
        delimiter.join(['"c"', '"Is there consolidation?"', '"one', 'two"']).replace(
            f"one{delimiter}two", "one\ntwo"
        ),
    ]
    Path(f"in.{suffix}").write_bytes("\n".join(lines).encode() + b"\n")
    apply("typo", f"in.{suffix}", f"out.{suffix}", "--severity", "5", "--question-field", "the question")
    content = Path(f"out.{suffix}").read_text()
    rows = list(csv.reader(io.StringIO(content), delimiter=delimiter, strict=True))
    clean = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, strict=True))
    for before, after in zip(clean[1:], rows[1:], strict=True):
        assert after == [before[0], noisy(before[1], before[0], severity=5), before[2]]
    written = content.split("\n")
    assert written[0] == lines[0]
    assert written[1].endswith(f'{delimiter}"x ""y"" z"')
    assert not written[1].split(delimiter)[1].startswith('"')
    assert f'"c"{delimiter}"' in content


def test_parquet_keeps_its_schema_and_nulls(apply: Run) -> None:
    columns = {
        "id": pa.array([1, 2, 3], pa.int32()),
        "question": pa.array(["Is the heart enlarged?", None, "Where is the fracture?"], pa.large_string()),
        "image": pa.array([b"\x00\xff", b"", None]),
    }
    table = pa.table(columns).replace_schema_metadata({"origin": "ward"})
    pq.write_table(table, "in.parquet", row_group_size=2)
    (problem, *_) = apply("ocr", "in.parquet", "out.parquet", "--severity", "5", code=3)
    assert "in.parquet:2" in problem
    found = pq.read_table("out.parquet")
    assert found.schema.equals(table.schema, check_metadata=True)
    assert found.drop_columns("question").equals(table.drop_columns("question"))
    expected = [
        noisy("Is the heart enlarged?", "1", "ocr", 5),
        None,
        noisy("Where is the fracture?", "3", "ocr", 5),
    ]
    assert found.column("question").to_pylist() == expected


def test_rows_without_a_question_stay_and_are_told(apply: Run) -> None:
    lines = [
        '{"id": "a", "question": "Is there pneumonia?"}',
        "not JSON",
        '{"id": "c", "question": ""}',
        '{"id": "d", "question": "Is there an effusion?"}',
    ]
    Path("in.jsonl").write_text("\n".join(lines) + "\n")
    told = [line for line in apply("typo", "in.jsonl", "out.jsonl", "-s", "5", code=3) if "error" in line]
    assert [line.split("in.jsonl:")[1][0] for line in told] == ["2", "3"]
    written = Path("out.jsonl").read_text().splitlines()
    assert written[1:3] == lines[1:3]
    assert json.loads(written[3])["question"] == noisy("Is there an effusion?", "d", severity=5)


def test_a_suite_on_questions_is_its_five_text_noises(apply: Run) -> None:
    (line,) = apply("imc-11", str(QUESTIONS), "out", "--severity", "2,4")
    row = json.loads(line)
    assert row["noises"] == ["typo", "ocr", "asr", "drop_shuffle", "shorthand"]
    files = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.jsonl")}
    assert files == {f"{name}/severity_{s}/noisy_questions.jsonl" for name in row["noises"] for s in (2, 4)}
    clean = [json.loads(text) for text in QUESTIONS.read_text().splitlines()]
    for kind in ("asr", "drop_shuffle"):
        written = Path(f"out/{kind}/severity_4/noisy_questions.jsonl").read_text().splitlines()
        expected = [noisy(row["question"], row["id"], kind, 4) for row in clean]
        assert [json.loads(text)["question"] for text in written] == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("gaussian", "in.jsonl", "out.jsonl"),
            "gaussian is noise of image, and the input is a file of questions",
        ),
        (("medmnist-c", "in.jsonl", "out"), "the suite medmnist-c has no noise for questions"),
        (("typo", "in.jsonl", "out.csv"), "the output is jsonl like the input"),
        (("typo", "in.jsonl", "in.jsonl"), "in.jsonl is the input itself"),
        (("typo", "in.jsonl", "out.jsonl", "--question-field", "qestion"), "did you mean 'question'?"),
    ],
)
def test_mistakes_are_one_line(apply: Run, arguments: tuple[str, ...], told: str) -> None:
    Path("in.jsonl").write_text('{"question": "Is there pneumonia?"}\n')
    (line,) = apply(*arguments, "--severity", "1", "--overwrite", code=2)
    assert told in line
    assert {path.name for path in Path().iterdir()} == {"in.jsonl"}


def test_categories_in_parquet_stay_categories(apply: Run) -> None:
    question: Any = pa.array(["Is it a mass?", "Is it a mass?"]).dictionary_encode()
    pq.write_table(pa.table({"question": question}), "in.parquet")
    apply("typo", "in.parquet", "out.parquet", "--severity", "5")
    found = pq.read_table("out.parquet")
    assert found.schema == pq.read_table("in.parquet").schema
    assert found.column("question").to_pylist() == [
        noisy("Is it a mass?", f"row-00000{n}", severity=5) for n in (1, 2)
    ]
