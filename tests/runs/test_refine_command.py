"""`imc refine` and `imc resume` as a user meets them: files in, files out, exit codes, one clear line when it fails."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imc_agents.config.schema import RunConfig
from imc_agents.data.registry import open_reader
from imc_agents.data.rows import RESULT_FIELDS
from imc_agents.errors import UsageError
from imc_agents.models.protocol import Capabilities
from imc_agents.runs.execute import execute_run
from imc_agents.runs.export import check_target
from imc_agents.runs.manifest import Selection
from imc_agents.runs.start import select, start_run
from imc_agents.runs.writer import RunWriter, StorageError
from tests.runs.helpers import imc, only_run, start, write_questions
from tests.runs.scripted import Refiner


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *questions: object) -> None:
    path.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((only_run(folder) / "manifest.json").read_text())


def test_every_row_is_in_the_output_once_and_in_order(tmp_path):
    ids = write_questions(tmp_path / "in.jsonl", 120)
    done = imc(tmp_path, "refine", "in.jsonl", SCRIPTED_SECONDS="0.01")
    assert done.returncode == 0, done.stderr
    rows = lines(tmp_path / "in.refined.jsonl")
    assert [row["id"] for row in rows] == ids
    assert [row["n"] for row in rows] == list(range(120))
    for row in rows:
        assert list(row)[-6:] == list(RESULT_FIELDS)
        bad = row["n"] % 37 == 36
        assert row["status"] == ("data_error" if bad else "ok" if row["n"] % 3 == 0 else "unchanged")
        assert row["changed"] is (row["status"] == "ok")
        assert ("duplicate_id" in row["flags"]) is (row["n"] % 10 == 9)
        if not bad:
            assert row["refined"] == row["question"].replace("teh", "the")
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["ok"], summary["data_error"]) == (120, 39, 3)
    assert summary["output"] == str(tmp_path / "in.refined.jsonl")
    assert summary["questions_per_second"] > 0
    assert "120/120" in done.stderr


def test_the_run_folder_tells_what_ran(tmp_path):
    write(tmp_path / "in.jsonl", "Is teh liver normal?")
    arguments = (
        "refine",
        "in.jsonl",
        "--model",
        "m: x",
        "--set",
        "seed=7",
        "--name",
        "my run",
        "--concurrency",
        "3",
    )
    assert imc(tmp_path, *arguments).returncode == 0
    run = only_run(tmp_path)
    assert run.stat().st_mode & 0o777 == 0o700
    assert "-my-run-" in run.name
    told = manifest(tmp_path)
    assert told["state"] == "finished"
    assert told["command"] == ["imc", *arguments]
    assert told["seed"] == 7
    assert told["models"]["default"] == {
        "model": "scripted",
        "revision": "r1",
        "scores": True,
        "max_tokens": 2048,
    }
    assert told["prompts"] == {"likelihood": "abc"}
    assert told["input"]["bytes"] == (tmp_path / "in.jsonl").stat().st_size
    assert len(told["input"]["sha256"]) == 64
    config = (run / "config.yaml").read_text()
    assert "m: x" in config
    assert "concurrency: 3" in config
    assert (run / "output.jsonl").read_bytes() == (tmp_path / "in.refined.jsonl").read_bytes()


@pytest.mark.parametrize("where", ["stdin", "fifo"])
def test_a_pipe_is_kept_in_the_run_folder_and_answered_on_stdout(tmp_path, where):
    content = "text,n\r\nIs teh liver normal?,1\r\n"
    if where == "fifo":
        os.mkfifo(tmp_path / "pipe")
        process = start(tmp_path, "refine", "pipe", "--format", "csv")
        (tmp_path / "pipe").write_text(content, newline="")
        stdout, stderr = process.communicate(timeout=30)
    else:
        done = imc(tmp_path, "refine", "-", "--format", "csv", stdin=content)
        stdout, stderr = done.stdout, done.stderr
    row = next(csv.DictReader(io.StringIO(stdout, newline="")))
    assert row["refined"] == "Is the liver normal?"
    assert json.loads(stderr.splitlines()[-1])["ok"] == 1, "the summary stays out of the data"
    assert (only_run(tmp_path) / "input.csv").read_text() == content.replace("\r\n", "\n")


def test_an_interrupted_pipe_can_be_resumed(tmp_path):
    process = start(tmp_path, "refine", "-", SCRIPTED_SECONDS="20")
    process.stdin = None
    process.wait(timeout=30)
    assert process.returncode == 2, "an empty stdin is a mistake"
    assert "stdin is empty; pipe questions into it" in process.stderr.read()
    assert not list((tmp_path / "runs").iterdir()), "and leaves nothing behind"
    process.communicate()
    content = "".join(json.dumps({"question": f"Is teh {n}?"}) + "\n" for n in range(9))
    done = imc(tmp_path, "refine", "-", stdin=content)
    run = only_run(tmp_path)
    (run / "output.jsonl").unlink()
    again = imc(tmp_path, "resume", str(run))
    assert again.stdout == done.stdout
    assert len(again.stdout.splitlines()) == 9


def test_parquet_in_parquet_out(tmp_path):
    import pyarrow as pa

    table = pa.table({"qid": [5, 6], "question": ["Is teh A?", "B?"], "image": [b"\0", None]})
    pq.write_table(table, tmp_path / "q.parquet")
    assert imc(tmp_path, "refine", "q.parquet", "-o", "out.parquet").returncode == 0
    after = pq.read_table(tmp_path / "out.parquet")
    assert after.select(["qid", "question", "image"]).equals(table)
    assert after.column("refined").to_pylist() == ["Is the A?", "B?"]


def test_limit_and_only_choose_rows(tmp_path):
    write_questions(tmp_path / "in.jsonl", 30)
    imc(tmp_path, "refine", "in.jsonl", "-o", "a.jsonl", "--limit", "4")
    assert [row["n"] for row in lines(tmp_path / "a.jsonl")] == [0, 1, 2, 3]
    imc(tmp_path, "refine", "in.jsonl", "-o", "b.jsonl", "--only", "q8", "--only", "q3")
    assert [row["n"] for row in lines(tmp_path / "b.jsonl")] == [3, 8, 9], "both rows with the id q8"
    shutil.rmtree(tmp_path / "runs")
    done = imc(tmp_path, "refine", "in.jsonl", "--only", "q99")
    assert done.returncode == 2
    assert "no row with the id 'q99' (--only); ids come from the field 'id'" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_dry_run_prints_every_request_and_writes_nothing(tmp_path):
    write(tmp_path / "in.jsonl", "Is teh liver normal?", 3, "B?")
    before = sorted(tmp_path.iterdir())
    done = imc(tmp_path, "refine", "in.jsonl", "--dry-run", "--limit", "2")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first == {"id": "row-000001", "line": 1, "request": "score: Is teh liver normal?"}
    assert second["error"] == "in.jsonl:2: field 'question' is a number; make it a text"
    assert sorted(tmp_path.iterdir()) == before
    piped = imc(tmp_path, "refine", "-", "--dry-run", stdin='{"question": "C?"}\n')
    assert json.loads(piped.stdout)["request"] == "score: C?"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stores_what_is_done_and_says_how_to_go_on(tmp_path, number):
    write(tmp_path / "in.jsonl", "Is teh A?", "B?", "fail:slow", "fail:slow")
    process = start(tmp_path, "refine", "in.jsonl", SCRIPTED_LOG="log")
    while not (tmp_path / "log").exists() or len((tmp_path / "log").read_text().split()) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    run = only_run(tmp_path)
    hint = f"interrupted, 2 of 4 questions are done; go on with: imc resume runs/{run.name}"
    assert stderr.splitlines()[-1] == hint
    assert manifest(tmp_path)["state"] == "interrupted"
    assert not (tmp_path / "in.refined.jsonl").exists()
    done = imc(tmp_path, "resume", hint.split()[-1], "--concurrency", "9", SCRIPTED_REPAIRED="1")
    assert done.returncode == 0, done.stderr
    assert manifest(tmp_path)["sittings"] == 2
    statuses = [row["status"] for row in lines(tmp_path / "in.refined.jsonl")]
    assert statuses == ["ok", "unchanged", "unchanged", "unchanged"]


def test_a_second_ctrl_c_kills_at_once(tmp_path):
    write(tmp_path / "in.jsonl", "fail:stubborn")
    process = start(tmp_path, "refine", "in.jsonl", "--set", "run.timeout_seconds=100")
    while not list(tmp_path.glob("runs/*/run.db")) or b"refining" not in os.read(
        process.stderr.fileno(), 100
    ):
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == -signal.SIGINT
    process.communicate()


def test_an_unreachable_backend_ends_the_run_with_4_and_it_can_be_resumed(tmp_path):
    write(tmp_path / "in.jsonl", "Is teh A?", "fail:unreachable")
    done = imc(tmp_path, "refine", "in.jsonl", "-j", "1")
    assert done.returncode == 4
    told = done.stderr.splitlines()
    assert told[-1] == "imc: error: http://127.0.0.1:9/v1: connection refused; start the server"
    assert "once the backend answers, go on with: imc resume runs/" in told[-2]
    state = manifest(tmp_path)
    assert state["state"] == "stopped"
    assert "connection refused" in state["error"]
    assert imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="1").returncode == 0
    assert [row["status"] for row in lines(tmp_path / "in.refined.jsonl")] == ["ok", "unchanged"]


def test_too_many_failures_end_with_3_and_retry_errors_redoes_all_but_data_errors(tmp_path):
    write(tmp_path / "in.jsonl", "fail:model", "fail:defect", "fail:slow", 3, "Is teh A?")
    settings = ("--set", "run.timeout_seconds=0.2")
    done = imc(tmp_path, "refine", "in.jsonl", *settings)
    assert done.returncode == 3
    assert "4 questions (80.0%) failed, more than run.error_threshold allows (5.0%)" in done.stderr
    statuses = [row["status"] for row in lines(tmp_path / "in.refined.jsonl")]
    assert statuses == ["model_error", "infra_error", "timeout", "data_error", "ok"]
    assert imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="1", SCRIPTED_LOG="none").returncode == 3
    assert not (tmp_path / "none").exists(), "without --retry-errors nothing is left to do"
    imc(tmp_path, "resume", "last", "--retry-errors", SCRIPTED_REPAIRED="1", SCRIPTED_LOG="some")
    assert sorted((tmp_path / "some").read_text().split()) == ["row-000001", "row-000002", "row-000003"]
    statuses = [row["status"] for row in lines(tmp_path / "in.refined.jsonl")]
    assert statuses == ["unchanged", "unchanged", "unchanged", "data_error", "ok"]
    tolerant = imc(tmp_path, "refine", "in.jsonl", *settings, "--set", "run.error_threshold=0.8")
    assert tolerant.returncode == 0


def test_interrupted_before_the_model_is_there_nothing_was_refined(tmp_path):
    class Loading(Refiner):
        async def open(self) -> dict[str, Capabilities]:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
            raise AssertionError

    write(tmp_path / "in.jsonl", "fail:model", "Is teh A?")
    imc(tmp_path, "refine", "in.jsonl")
    result = asyncio.run(
        execute_run(
            only_run(tmp_path),
            Loading(None),
            RunConfig(),
            on_start=lambda total, done: None,
            on_progress=lambda refinement: None,
            retry_errors=True,
        )
    )
    assert not result.finished
    assert (result.totals.rows, result.totals.failed, result.fresh) == (2, 1, 0)


def test_resume_refuses_what_would_not_match(tmp_path):
    write(tmp_path / "in.jsonl", "Is teh A?", "fail:unreachable")
    imc(tmp_path, "refine", "in.jsonl", "-j", "1")
    done = imc(tmp_path, "resume", "last", SCRIPTED_PROMPTS="xyz", SCRIPTED_REPAIRED="1")
    assert done.returncode == 2
    assert "prompt likelihood changed since the run started" in done.stderr
    write(tmp_path / "in.jsonl", "Is teh B?", "fail:unreachable")
    done = imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"imc: error: {tmp_path / 'in.jsonl'}: the input changed since the run started; "
        "put it back, or start a new run"
    )
    (tmp_path / "in.jsonl").unlink()
    done = imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="1")
    assert "the input of this run is gone" in done.stderr


def test_resume_goes_by_the_config_of_the_run_not_by_todays(tmp_path):
    write(tmp_path / "in.jsonl", "fail:unreachable", "fail:slow")
    imc(tmp_path, "refine", "in.jsonl", "--set", "run.timeout_seconds=0.3", "--set", "run.error_threshold=1")
    (tmp_path / "imc.yaml").write_text("run: {timeout_seconds: 99, error_threshold: 0}\n")
    done = imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="unreachable")
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "in.refined.jsonl")[1]["error"] == "no result within 0.3 s"


def test_a_live_run_cannot_be_resumed(tmp_path):
    write(tmp_path / "in.jsonl", "fail:slow")
    process = start(tmp_path, "refine", "in.jsonl")
    while not list(tmp_path.glob("runs/*/run.db")):
        time.sleep(0.01)
    done = imc(tmp_path, "resume", "last")
    process.kill()
    process.communicate()
    assert done.returncode == 2
    assert f"process {process.pid} on " in done.stderr
    assert "is filling this run; wait for it or stop it first" in done.stderr


def test_a_full_disk_under_the_output_loses_nothing(tmp_path):
    write(tmp_path / "in.jsonl", *["Is teh liver normal?"] * 50)
    done = imc(tmp_path, "refine", "in.jsonl", "-o", "/dev/full")
    assert done.returncode == 2
    assert "/dev/full: cannot be written (No space left on device); all results are stored" in done.stderr
    assert Path("/dev/full").is_char_device(), "a device is written to, never replaced"
    done = imc(tmp_path, "resume", "last", "-o", "out.jsonl", SCRIPTED_LOG="none")
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "out.jsonl")) == 50
    assert not (tmp_path / "none").exists()


def test_the_output_can_be_a_descriptor_of_a_pipe(tmp_path):
    write(tmp_path / "in.jsonl", "Is teh A?")
    process = start(tmp_path, "refine", "in.jsonl", "-o", "/dev/stdout", "--quiet")
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert json.loads(stdout.splitlines()[0])["refined"] == "Is the A?"


def test_a_link_is_followed_to_the_folder_that_is_written_to(tmp_path):
    write(tmp_path / "in.jsonl", "Is teh A?")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.jsonl").symlink_to("elsewhere/out.jsonl")
    assert imc(tmp_path, "refine", "in.jsonl", "-o", "out.jsonl").returncode == 0
    assert lines(tmp_path / "elsewhere" / "out.jsonl")[0]["refined"] == "Is the A?"
    assert (tmp_path / "out.jsonl").is_symlink()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises(UsageError, match="Too many levels of symbolic links"):
        check_target(tmp_path / "loop.jsonl", None)
    (tmp_path / "dangling.jsonl").symlink_to("gone/out.jsonl")
    with pytest.raises(UsageError, match="does not exist; create it first"):
        check_target(tmp_path / "dangling.jsonl", None)


def test_limited_rows_are_not_read_past_the_last(tmp_path):
    write(tmp_path / "in.jsonl", "A?", "B?", "C?")
    for limit in range(4):
        rows = open_reader(tmp_path / "in.jsonl").rows()
        assert [row.index for row in select(rows, Selection(limit=limit))] == list(range(limit))
        assert [row.index for row in rows] == list(range(limit, 3)), "the rest is still there"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("none.jsonl",), "none.jsonl: there is no such file"),
        (("in.jsonl", "-o", "in.jsonl"), "in.jsonl: -o would overwrite the input; choose another name"),
        (("in.jsonl", "-o", "no/out.jsonl"), "no does not exist; create it first"),
        (("in.jsonl", "-o", "."), "a folder; give -o a file in it"),
        (("in.jsonl", "--set", "run.concurency=3"), "did you mean 'concurrency'"),
        (("in.jsonl", "--question-field", "qestion"), "did you mean 'question'?; it has: question"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_run(tmp_path, arguments, expected):
    write(tmp_path / "in.jsonl", "Is teh A?")
    content = (tmp_path / "in.jsonl").read_bytes()
    done = imc(tmp_path, "refine", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("imc: error: ")
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
    assert (tmp_path / "in.jsonl").read_bytes() == content


@contextmanager
def read_only_folder() -> Iterator[Path]:
    """A folder that this process can read but not write, also where the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    (folder / "in.jsonl").write_text('{"question": "A?"}\n')
    (folder / "runs").mkdir()
    root = os.geteuid() == 0
    for path in (folder, folder / "runs"):
        path.chmod(0o555)
    try:
        if root:
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        (folder / "runs").chmod(0o700)
        shutil.rmtree(folder)


def test_read_only_folders_are_one_clear_error(tmp_path):
    with read_only_folder() as folder:
        with pytest.raises(StorageError) as error:
            start_run(
                folder / "in.jsonl",
                directory=folder / "runs",
                name=None,
                config_yaml="",
                seed=0,
                command=(),
                output=None,
            )
        assert "the run folder cannot be created (Permission denied); choose another place" in str(
            error.value
        )
        with pytest.raises(
            UsageError, match=r"cannot be written \(Permission denied\); choose another place"
        ):
            check_target(folder / "out.jsonl", None)
        with pytest.raises(StorageError, match=r"cannot be written \(Permission denied\); make the folder"):
            RunWriter(folder / "runs")


def test_runs_list_and_show_give_json_when_piped(tmp_path):
    assert imc(tmp_path, "runs", "list").stdout == ""
    write(tmp_path / "in.jsonl", "Is teh A?", 3)
    imc(tmp_path, "refine", "in.jsonl")
    bare = tmp_path / "runs" / "0-bare-0"
    bare.mkdir()
    shutil.copy(only_run(tmp_path) / "manifest.json", tmp_path / "manifest.json")
    listed = imc(tmp_path, "runs", "list").stdout.splitlines()
    (tmp_path / "manifest.json").rename(bare / "manifest.json")
    assert listed[0] in imc(tmp_path, "runs", "list").stdout.splitlines(), (
        "a run without run.db hides no other"
    )
    shutil.rmtree(bare)
    (row,) = [json.loads(line) for line in listed]
    assert (row["state"], row["rows"], row["ok"], row["data_error"]) == ("finished", 2, 1, 1)
    shown = json.loads(imc(tmp_path, "runs", "show", "in").stdout)
    assert shown["run"] == row["run"]
    assert shown["manifest"]["input"]["rows"] == 2
