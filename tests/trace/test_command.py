"""``imc trace`` on a real run folder, as a person on a terminal and as a program behind a pipe."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from cli import run as imc_command
from imc_agents.data.rows import Row
from imc_agents.refinement import Refinement
from imc_agents.runs.start import start_run
from imc_agents.runs.writer import RunWriter, event_values
from imc_agents.trace.events import Event, Perceived, load
from tests.docs.console import run as run_in_shell
from tests.trace.scene import EVENTS, FLAG, QUESTION, REFINEMENT

CLEAN: list[Event] = [Perceived(agent="perceiver", round=1, text="Is it clean?", clean=True)]

Imc = Callable[..., tuple[int, str, str]]


def make_run(folder: Path, name: str, outcomes: list[tuple[str, Refinement, list[Event]]]) -> Path:
    source = folder / "in.jsonl"
    source.write_text('{"question": "A?"}\n')
    made = start_run(
        source, directory=folder / "runs", name=name, config_yaml="", seed=0, command=("imc",), output=None
    )
    with RunWriter(made) as writer:
        for index, (row_id, refinement, events) in enumerate(outcomes):
            row = Row(index, row_id, refinement.original, {}, None, index + 1)
            writer.put(row, refinement, [event_values(event) for event in events])
        writer.flush()
    return made


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make_run(
        folder,
        "vqa",
        [
            ("clean-1", Refinement("Is it clean?", "Is it clean?", "unchanged", calls=1), CLEAN),
            (
                "changed-2",
                Refinement("Is teh a?", "Is the a?", "ok"),
                [e for e in EVENTS if e.type != "vetoed"],
            ),
            ("vqarad-0042", REFINEMENT, EVENTS),
            ("zh-4", Refinement("清楚吗?", "清楚吗?", "unchanged", ("unsupported_language",)), []),
            ("late-5", Refinement("?", "?", "timeout", confidence=0, error="no result in 300 s"), []),
            ("vqarad-0042", Refinement("again", "again", "unchanged"), CLEAN),
        ],
    )
    return folder


@pytest.fixture
def imc(project: Path, monkeypatch: pytest.MonkeyPatch) -> Imc:
    def call(*arguments: str, folder: Path = project) -> tuple[int, str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            code = imc_command(["trace", *arguments])
        for stream in streams:
            stream.flush()
        out, err = (cast(io.BytesIO, stream.buffer).getvalue().decode() for stream in streams)
        return code, out, err

    return call


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ([], [0, 1, 2, 3, 4, 5]),
        (["--status", "unchanged"], [0, 3, 5]),
        (["--status", "ok", "--status", "timeout"], [1, 2, 4]),
        (["--changed"], [1, 2]),
        (["--not-changed", "--limit", "2"], [0, 3]),
        (["--vetoed"], [2]),
        (["--agent", "radiology-terms"], [1, 2]),
        (["--flag", "look_alike"], [2]),
        (["--flag", "unsupported_language"], [3]),
        (["--search", "TEH"], [1, 2]),
        (["--search", "清楚"], [3]),
        (["--search", "nowhere"], []),
    ],
)
def test_list_filters(imc: Imc, filters: list[str], rows: list[int]) -> None:
    code, out, _ = imc("list", *filters)
    assert code == 0
    assert [record["row_index"] for record in records(out)] == rows


@pytest.mark.parametrize("run", ["last", "latest", "vqa"])
def test_a_run_can_be_named(imc: Imc, run: str) -> None:
    assert len(records(imc("list", run)[1])) == 6


def test_show_takes_the_most_telling_question_by_itself(imc: Imc) -> None:
    first, *events = records(imc("show")[1])
    assert first["type"] == "sample"
    assert first["id"] == "vqarad-0042"
    assert first["refined"] == REFINEMENT.refined
    assert [event["type"] for event in events] == [event.type for event in EVENTS]
    assert all(event["row_index"] == 2 for event in events)


def test_shown_events_can_be_read_back(imc: Imc) -> None:
    events = records(imc("show", "last", "vqarad-0042", "--prompts")[1])[1:]
    for event in events:
        del event["row_index"], event["id"]
    assert [load(json.dumps(event)) for event in events] == EVENTS


def test_show_by_id_or_by_row(imc: Imc) -> None:
    assert records(imc("show", "last", "changed-2")[1])[0]["row_index"] == 1
    assert records(imc("show", "last", "6")[1])[0]["original"] == "again", "rows count from 1"


def test_show_one_round(imc: Imc) -> None:
    events = records(imc("show", "last", "3", "--round", "2")[1])[1:]
    assert {event["round"] for event in events} == {2}
    code, _, err = imc("show", "last", "3", "--round", "7")
    assert code == 2
    assert "has no round 7; it has 2" in err


def test_show_all_streams_every_question(imc: Imc) -> None:
    samples = [record for record in records(imc("show", "--all")[1]) if record["type"] == "sample"]
    assert [sample["row_index"] for sample in samples] == list(range(6))


def test_stats_agree_with_the_list(imc: Imc) -> None:
    told = records(imc("stats")[1])
    (spelling,) = [record for record in told if record.get("agent") == "spelling"]
    assert spelling["vetoed"] == 1
    assert spelling["accepted"] == 4 + 3, "one of them was vetoed in one of the two questions"
    assert [record["vetoed_edits"] for record in told if record["type"] == "invariant"] == [1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "last", "vqarad-42"], "did you mean 'vqarad-0042'?"),
        (["show", "last", "99"], "no finished question '99'"),
        (["show", "last", "0"], "no finished question '0'"),
        (["show", "last", "9" * 20], "no finished question"),
        (["show", "nothing"], "no run 'nothing' in runs"),
        (["list", "--status", "unchangd"], "did you mean 'unchanged'?"),
        (["show", "last", "3", "--all"], "leave out either --all or '3'"),
    ],
)
def test_mistakes_get_one_line_with_the_cure(imc: Imc, arguments: list[str], told: str) -> None:
    code, out, err = imc(*arguments)
    assert code == 2
    assert out == ""
    assert told in err
    assert len(err.splitlines()) == 1


def test_without_runs_it_says_how_to_make_one(imc: Imc, tmp_path: Path) -> None:
    code, _, err = imc("show", folder=tmp_path)
    assert code == 2
    assert err == "imc: error: no runs in runs yet; `imc refine FILE` makes one\n"


def test_a_run_named_by_its_path_is_read_whatever_todays_configuration_is(imc: Imc, tmp_path: Path) -> None:
    made = make_run(tmp_path, "old", [("clean-1", Refinement("A?", "A?", "unchanged"), CLEAN)])
    (tmp_path / "old").mkdir()
    assert len(records(imc("list", "old", folder=tmp_path)[1])) == 1, "a folder called like a run is no run"
    (tmp_path / "imc.yaml").write_text("sede: 1\n")
    assert len(records(imc("list", str(made), folder=tmp_path)[1])) == 1
    assert imc("list", "last", folder=tmp_path)[0] == 2


def test_a_run_without_finished_questions_says_how_to_go_on(imc: Imc, tmp_path: Path) -> None:
    made = make_run(tmp_path, "new", [])
    code, _, err = imc("show", folder=tmp_path)
    assert code == 2
    assert f"`imc resume runs/{made.name}` goes on with it" in err


def on_terminal(project: Path, line: str) -> str:
    code, screen = run_in_shell(f"export NO_COLOR=1 COLUMNS=100; {line}", project, terminal=True)
    assert code == 0
    return screen


def test_people_get_a_tree_and_programs_can_ask_for_json(project: Path) -> None:
    screen = on_terminal(project, "imc trace show")
    assert QUESTION in screen
    assert "├── perceiver" in screen
    assert "⊘ vetoed" in screen
    lines = on_terminal(project, "imc trace show --json").splitlines()
    assert next(json.loads(line)["type"] for line in lines if line) == "sample"


def test_people_get_tables(project: Path) -> None:
    screen = on_terminal(project, "imc trace list --limit 3 && imc trace stats")
    assert "[-evidnce-]{+evidence+}" in screen
    assert FLAG in screen
    assert "the first 3 only; --limit N shows more" in screen
    assert "opposite_prefix" in screen
