"""kill -9 at any moment, then resume: the output is that of an undisturbed run, and nothing is done twice."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.runs.helpers import imc, only_run, start, write_questions

ROWS = 300
OPTIONS = (
    "refine",
    "in.jsonl",
    "-o",
    "out.jsonl",
    "--concurrency",
    "8",
    "--quiet",
    "--set",
    "run.error_threshold=1",
)
SPEED = {"SCRIPTED_SECONDS": "0.04"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    """The output."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_questions(folder / "in.jsonl", ROWS)
    done = imc(folder, *OPTIONS, **SPEED)
    assert done.returncode == 0, done.stderr
    return (folder / "out.jsonl").read_bytes()


def kill_after(process: subprocess.Popen[str], log: Path, rows: int) -> None:
    """Kill the process once it has refined that many rows; progress, unlike time, is the same on a busy machine."""
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= rows):
        time.sleep(0.005)
    process.kill()
    process.communicate()


def stored(run: Path) -> list[str]:
    """The sample ids that survived, as the refiner knows them."""
    connection = sqlite3.connect(run / "run.db")
    rows = connection.execute(
        "SELECT s.row_index, s.id, i.row_index FROM samples s JOIN ids i USING (id) WHERE status != 'data_error'"
    ).fetchall()
    torn = connection.execute(
        "SELECT COUNT(*) FROM events WHERE row_index NOT IN (SELECT row_index FROM samples)"
    ).fetchone()[0]
    connection.close()
    assert torn == 0, "events without their sample"
    return [name if index == first else f"{name}#{index + 1}" for index, name, first in rows]


@pytest.mark.parametrize("number", range(10))
def test_resume_after_kill_9(tmp_path, undisturbed, number):
    write_questions(tmp_path / "in.jsonl", ROWS)
    flush = {"SCRIPTED_FLUSH": "0.02"} if number % 2 else {}
    process = start(tmp_path, *OPTIONS, **SPEED, **flush, SCRIPTED_LOG="first.log")
    kill_after(process, tmp_path / "first.log", random.Random(number).randint(1, ROWS * 2 // 3))
    survived = stored(only_run(tmp_path))
    assert len(survived) < ROWS
    if number % 2:
        assert len(survived) > 0, "hardly anything waits to be stored"
    assert not (tmp_path / "out.jsonl").exists(), "the output appears only when it is whole"
    done = imc(tmp_path, "resume", "last", "--quiet", **SPEED, SCRIPTED_LOG="second.log")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed
    assert (only_run(tmp_path) / "output.jsonl").read_bytes() == undisturbed
    again = set((tmp_path / "second.log").read_text().split())
    assert again.isdisjoint(survived)


def test_a_run_that_is_killed_time_and_again_still_ends_the_same(tmp_path, undisturbed):
    write_questions(tmp_path / "in.jsonl", ROWS)
    arguments = OPTIONS
    for number in range(3):
        log = tmp_path / f"{number}.log"
        process = start(tmp_path, *arguments, **SPEED, SCRIPTED_FLUSH="0.02", SCRIPTED_LOG=log.name)
        kill_after(process, log, ROWS // 5)
        arguments = ("resume", "last", "--quiet")
    assert imc(tmp_path, *arguments, **SPEED).returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed
    asked = [name for number in range(3) for name in (tmp_path / f"{number}.log").read_text().split()]
    assert len(asked) - len(set(asked)) <= 3 * 8 + 60, (
        "only what was in flight or not yet stored is done again"
    )
