"""`imc refine` and `imc runs` as a user meets them: files in, files out, exit codes, one clear line when it fails."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from imc_agents.data.registry import open_reader
from imc_agents.data.rows import RESULT_FIELDS
from imc_agents.errors import UsageError
from imc_agents.runs.export import check_target
from imc_agents.runs.manifest import Selection
from imc_agents.runs.start import select, start_run
from imc_agents.runs.writer import RunWriter, StorageError
from tests.runs.helpers import imc, lines, manifest, only_run, start, write, write_questions


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
