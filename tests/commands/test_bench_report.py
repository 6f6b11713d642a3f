"""`imc bench report` and `imc bench compare` as a user types them, on run folders as the runner leaves them."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from cli import run
from imc_agents.bench.matrix.layout import Case, write_cases
from imc_agents.bench.matrix.store import read_run
from imc_agents.bench.outcomes import BenchRun, Outcome
from imc_agents.commands.bench_report import print_report
from imc_agents.data.rows import Row
from imc_agents.refinement import Refinement
from imc_agents.runs.start import start_run
from imc_agents.runs.writer import RunWriter, event_values
from imc_agents.trace.events import Answered
from tests.bench.made_runs import made_run

BEFORE = made_run(24, severities=(1, 5), failures=0.03, name="before")
AFTER = made_run(24, severities=(1, 5), seed=1, name="after")


def stored(made: BenchRun, directory: Path, *, finished: int | None = None) -> Path:
    """A run folder with the outcomes, or with the first few of those planned."""
    with tempfile.TemporaryFile() as rows:
        write_cases((_case(outcome) for outcome in made.outcomes), rows)
        rows.seek(0)
        folder = start_run(
            rows,
            directory=directory,
            name=made.name,
            config_yaml="name: made\n",
            seed=0,
            command=("imc", "bench", "run"),
            output=None,
            answers=True,
            kind="bench",
        )
    with RunWriter(folder) as writer:
        for index, outcome in enumerate(made.outcomes[:finished]):
            row = Row(index, _case(outcome).id, outcome.noisy, {}, None, index + 1)
            refinement = Refinement(outcome.noisy, outcome.refined, outcome.status)
            events = []
            if outcome.reply is not None:
                said = Answered(
                    agent="answer", round=0, way="full", question=outcome.refined, answer=outcome.reply
                )
                events.append(event_values(said))
            writer.put(row, refinement, events)
        writer.flush()
    return folder


def _case(outcome: Outcome) -> Case:
    place = (
        outcome.model,
        outcome.dataset,
        outcome.noise,
        str(outcome.severity),
        outcome.method,
        outcome.sample,
    )
    return Case(
        id="/".join(place),
        model=outcome.model,
        dataset=outcome.dataset,
        noise=outcome.noise,
        severity=outcome.severity,
        modality=outcome.modality,
        method=outcome.method,
        sample=outcome.sample,
        kind=outcome.kind,
        question=outcome.noisy,
        published=outcome.question,
        gold=outcome.answer,
        image=None,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("work") / "runs"
    stored(BEFORE, directory)
    stored(AFTER, directory)
    return directory


@pytest.fixture(autouse=True)
def work(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(runs.parent)
    return runs.parent


def test_what_was_stored_is_what_is_read(runs: Path) -> None:
    found = read_run(next(runs.glob("*-before-*")))
    assert found.outcomes == BEFORE.outcomes
    assert found.complete


def test_piped_output_is_a_json_line_for_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "report", "before"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (row,) = (
        row
        for row in rows
        if (row["noise"], row["severity"], row["method"], row["metric"]) == ("typo", 5, "imc", "accuracy")
    )
    assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert {row["metric"] for row in rows} >= {
        "accuracy",
        "recall",
        "f1",
        "exact",
        "ce",
        "rce",
        "word_error_rate",
    }


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("report.md", "| method | typo (text)"),
        ("report.tex", r"\toprule"),
        ("report.csv", "model,dataset,noise,severity,method,metric"),
        ("report.json", '"run": "before"'),
        ("report.txt", "Accuracy of closed questions, % · made · made_set"),
    ],
)
def test_the_file_name_chooses_the_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, sign: str
) -> None:
    first, second = tmp_path / name, tmp_path / f"again-{name}"
    for file in (first, second):
        assert run(["bench", "report", "before", "--metric", "accuracy", "-o", str(file)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"wrote {first}" in captured.err
    text = first.read_text(encoding="utf-8")
    assert sign in text
    assert text == second.read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "\x1b" not in text


def test_a_page_with_pictures_and_the_pictures_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, plots = tmp_path / "report.html", tmp_path / "plots"
    arguments = ["bench", "report", "before", "-o", str(page), "--metric", "accuracy", "--plots", str(plots)]
    assert run(arguments) == 0
    assert page.read_text(encoding="utf-8").count("<svg") == 2
    names = sorted(file.name for file in plots.iterdir())
    assert names == [
        f"made-made_set-accuracy-{what}"
        for what in ("noises.png", "noises.svg", "severity.png", "severity.svg")
    ]
    assert capsys.readouterr().err.count("wrote ") == 5


def test_an_unfinished_run_is_reported_as_far_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(BEFORE, tmp_path, finished=len(BEFORE.outcomes) // 2)
    assert run(["bench", "report", str(folder), "--format", "md"]) == 0
    total = len(BEFORE.outcomes)
    assert f"Incomplete: {total // 2:,} of {total:,} outcomes are there" in capsys.readouterr().out


def test_the_end_of_a_run_prints_its_tables(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(next(runs.glob("*-before-*")))
    text = capsys.readouterr().out
    assert "Accuracy of closed questions" in text
    assert "Token recall of open questions" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= Console().width


@pytest.mark.parametrize("format", ["table", "md", "latex", "csv", "json", "html"])
def test_errors_against_another_run_are_in_every_format(
    capsys: pytest.CaptureFixture[str], format: str
) -> None:
    arguments = ["bench", "report", "before", "--metric", "accuracy", "--against", "after"]
    assert run([*arguments, "--against-method", "sms", "--format", format]) == 0
    text = capsys.readouterr().out
    assert "after/made/sms" in text if format == "csv" else "after" in text
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert {row["metric"] for row in rows} >= {"ce_against", "rce_against"}
    elif format == "json":
        assert {row["metric"] for row in json.loads(text)["against"]["rows"]} == {"ce"}
    else:
        assert "imc rCE" in text


def test_two_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "compare", "before", "after", "--method", "imc"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["method"] for row in rows} == {"imc"}
    assert {"clean", "typo", "ocr", "gaussian", "mean"} == {row["noise"] for row in rows}
    assert run(["bench", "compare", "before", "after", "--format", "md", "--flips", "3"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# before against after")
    assert text.count("\n### ") == 3
    assert run(["bench", "compare", "before", "after", "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["method"] for row in table} == {"none", "sms", "imc"}
    for format in ("latex", "html", "json", "table"):
        assert run(["bench", "compare", "before", "after", "--format", format]) == 0
        assert "before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report", "gone"), "no run 'gone' in runs"),
        (("report", "before", "--format", "latx"), "--format: unknown 'latx'; did you mean 'latex'"),
        (("report", "before", "-o", "report.doc"), "report.doc: no format goes with '.doc'"),
        (("report", "before", "-o", "gone/report.md"), "gone/report.md: its folder does not exist"),
        (("report", "before", "-o", "taken.md"), "taken.md: cannot be written (Is a directory)"),
        (("report", "before", "--metric", "recal"), "--metric: unknown 'recal'; did you mean 'recall'"),
        (("report", "before", "--baseline", "non"), "before has no method 'non'; did you mean 'none'"),
        (("report", "before", "--against", "gone"), "no run 'gone' in runs"),
        (("report", "before", "--against", "after", "--against-method", "smt"), "after has no method 'smt'"),
        (("report", "before", "--against-method", "sms"), "--against-method sms: is of the run of --against"),
        (("compare", "before", "gone"), "no run 'gone' in runs"),
        (("compare", "before", "after", "--method", "pdc"), "before has no method 'pdc'"),
    ],
)
def test_mistakes_are_one_clear_line(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    (work / "taken.md").mkdir(exist_ok=True)
    assert run(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert len(captured.err.strip().splitlines()) == 1
