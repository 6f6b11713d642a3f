"""The run store: what the trace views and ``imc runs`` ask of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from imc_agents.data.rows import Row
from imc_agents.errors import UsageError
from imc_agents.refinement import Refinement
from imc_agents.runs.start import start_run
from imc_agents.runs.store import RunStore, find_run, list_runs, open_run, run_state
from imc_agents.runs.writer import RunWriter, event_values
from imc_agents.trace.events import EditRecord, Event, Instantiated, Perceived, Vetoed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    source = tmp_path / "in.jsonl"
    source.write_text('{"question": "A?"}\n' * 4)
    folder = start_run(
        source,
        directory=tmp_path / "runs",
        name="my run",
        config_yaml="seed: 0\n",
        seed=0,
        command=("imc",),
        output=None,
    )
    edit = EditRecord(start=0, end=4, before="hypo", after="hyper", kind="typo")
    perceived = Perceived(agent="perceive", round=1, text="hypo", clean=False)
    told = Instantiated(agent="supervisor", round=1, role="spelling", source="catalogue", reason="typo")
    veto = Vetoed(
        agent="guard", round=1, role="spelling", edit=edit, scope="edit", invariant="prefix", detail="hypo"
    )
    outcomes: list[tuple[str, Refinement, list[Event]]] = [
        (
            "a",
            Refinement("teh 50% A_B", "the 50% A_B", "ok", ("x", "é"), 0.1 + 0.2, 1, 2, 30, 4, 5.5),
            [perceived, told],
        ),
        ("b", Refinement("hypo", "hypo", "reverted", calls=3), [perceived, told, veto]),
        ("c", Refinement("clean 500", "clean 500", "unchanged"), [perceived]),
        ("a", Refinement("?", "?", "timeout", confidence=0, error="no result"), []),
    ]
    with RunWriter(folder) as writer:
        for index in (2, 0, 3, 1):
            row_id, refinement, events = outcomes[index]
            row = Row(index, row_id, refinement.original, {}, None, index + 1)
            writer.put(row, refinement, [event_values(event) for event in events])
        writer.flush()
    return folder


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"status": "ok"}, [0]),
        ({"status": ["timeout", "reverted"]}, [1, 3]),
        ({"changed": True}, [0]),
        ({"changed": False}, [1, 2, 3]),
        ({"search": "TEH"}, [0]),
        ({"search": "50%"}, [0]),
        ({"search": "a_b"}, [0]),
        ({"search": "!"}, []),
        ({"agent": "guard"}, [1]),
        ({"agent": "spelling"}, [0, 1]),
        ({"vetoed": True}, [1]),
        ({"vetoed": False}, [0, 2, 3]),
        ({"agent": "perceive", "vetoed": False, "changed": False}, [2]),
    ],
)
def test_samples_come_in_input_order_and_filtered(run, filters, expected):
    with RunStore(run) as store:
        assert [sample.row_index for sample in store.samples(**filters)] == expected


def test_a_sample_comes_back_as_it_was(run):
    with RunStore(run) as store:
        sample = store.sample("a")
        assert sample.refinement == Refinement(
            "teh 50% A_B", "the 50% A_B", "ok", ("x", "é"), 0.1 + 0.2, 1, 2, 30, 4, 5.5
        )
        assert (sample.row_index, sample.line) == (0, 1)
        assert store.sample(3).refinement.error == "no result"
        with pytest.raises(UsageError, match="no finished sample 'zz'"):
            store.sample("zz")


def test_events_of_one_sample_and_of_all(run):
    with RunStore(run) as store:
        assert [event.type for event in store.events(1)] == ["perceived", "instantiated", "vetoed"]
        assert [(index, event.type) for index, event in store.all_events()] == [
            (0, "perceived"),
            (0, "instantiated"),
            (1, "perceived"),
            (1, "instantiated"),
            (1, "vetoed"),
            (2, "perceived"),
        ]


def test_totals(run):
    with RunStore(run) as store:
        totals = store.totals()
    assert totals.by_status["reverted"] == 1
    assert totals.by_status["model_error"] == 0
    assert (totals.rows, totals.changed, totals.flagged, totals.failed) == (4, 1, 1, 1)
    assert (totals.calls, totals.prompt_tokens, totals.completion_tokens) == (5, 30, 4)


def test_a_run_is_found_by_path_id_name_hex_or_last(run):
    runs = run.parent
    digits = run.name.rpartition("-")[2]
    for name in (str(run), run.name, run.name[:-2], "my-run", digits, "last"):
        assert find_run(name, runs) == run
    with open_run(digits, runs) as store:
        assert store.manifest.name == "my-run"
    with pytest.raises(UsageError, match=f"no run 'other' in {runs}; the last one is {run.name}"):
        find_run("other", runs)
    with pytest.raises(UsageError, match="there are none yet"):
        find_run("other", run)
    twin = runs / (run.name[:-1] + "~")
    twin.mkdir()
    (twin / "manifest.json").write_text((run / "manifest.json").read_text())
    with pytest.raises(UsageError, match="'my-run' fits 2 runs"):
        find_run("my-run", runs)
    assert list_runs(runs) == [run, twin]


def test_the_folder_is_private_and_the_database_is_plain_sqlite(run):
    assert run.stat().st_mode & 0o777 == 0o700
    connection = sqlite3.connect(run / "run.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT COUNT(*) FROM samples").fetchone() == (4,)
    connection.close()


def test_a_run_can_be_read_while_it_is_written_and_says_so(run):
    with RunWriter(run) as writer, RunStore(run) as store:
        assert run_state(run, store.manifest) == "running"
        row = Row(9, "new", "?", {}, None, 10)
        writer.put(row, Refinement("?", "?", "unchanged"), [])
        writer.flush()
        assert store.sample("new").row_index == 9
    with RunStore(run) as store:
        assert run_state(run, store.manifest) == "interrupted", "no process holds it any more"


@pytest.mark.parametrize("broken", ["{}", "{", "[]"])
def test_a_broken_manifest_is_one_clear_error(run, broken):
    (run / "manifest.json").write_text(broken)
    with pytest.raises(UsageError, match=r"manifest\.json: cannot be read"):
        RunStore(run)


def test_a_run_without_its_database_is_one_clear_error(run):
    for path in run.glob("run.db*"):
        path.unlink()
    with pytest.raises(UsageError, match=r"run\.db: the run database cannot be read"):
        RunStore(run)


def test_a_folder_that_is_no_run_is_one_clear_error(tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        RunStore(tmp_path)
