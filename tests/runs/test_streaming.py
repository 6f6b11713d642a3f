"""A long file streams through: memory does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.runs.helpers import ROOT, environment

ROWS = 60_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    # In a process of its own: what other tests have left in memory would blur the figures.
    done = subprocess.run(
        [sys.executable, "cli.py", "bench", "rows", "--rows", str(ROWS), "-o", str(tmp_path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["growth_mib"] < 15, told
    assert (tmp_path / "rows.refined.jsonl").stat().st_size > ROWS * 200
    with (tmp_path / "rows.refined.jsonl").open() as stream:
        rows = [json.loads(line) for line in stream]
    assert len(rows) == ROWS
    assert sum(row["changed"] for row in rows) == ROWS / 3
    assert sum("duplicate_id" in row["flags"] for row in rows) == ROWS / 1000
