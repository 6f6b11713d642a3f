"""Servers that die, come back, hang or are one of two, in the middle of a real run."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imc_agents.models.served import served_here
from tests.vllm.servers import ROOT, Address, kill, needs_vllm, start, stop
from tests.vllm.test_refine import rows, write_questions

pytestmark = needs_vllm

ROWS = 40
RUN_SECONDS = 600


class Restartable:
    """A server of this module's own that may be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = start(folder)

    def again(self) -> None:
        self.address = start(self.folder, "--port", str(self.address.port))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restartable]:
    found = Restartable(tmp_path_factory.mktemp("own"))
    yield found
    stop(found.address)


def imc(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    with (folder / "stderr.txt").open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
        )


def begin(folder: Path, *urls: str, **options: int) -> subprocess.Popen[str]:
    """Start a run of ``ROWS`` questions on the servers; options are those of the backend."""
    write_questions(folder / "in.jsonl", ROWS)
    words = [word for url in urls for word in ("--base-url", url)]
    for name, value in options.items():
        words += ["--set", f"backends.default.options.{name}={value}"]
    return imc(
        folder, "refine", "in.jsonl", "-o", "out.jsonl", "--backend", "vllm", "--concurrency", "16", *words
    )


@contextmanager
def hanging(address: Address) -> Iterator[None]:
    """Let the server stand still: it accepts connections and answers nothing."""
    (served,) = [found for found in served_here() if found.base_url == address.base_url]
    os.killpg(served.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(served.pid, signal.SIGCONT)


def stored(folder: Path) -> int:
    (database,) = list(folder.glob("runs/*/run.db")) or [None]
    if database is None:
        return 0
    connection = sqlite3.connect(database)
    try:
        return connection.execute("SELECT COUNT(*) FROM samples").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def wait_for(folder: Path, run: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while stored(folder) < count:
        assert run.poll() is None, (folder / "stderr.txt").read_text()
        assert time.monotonic() < deadline, f"{stored(folder)} rows; {(folder / 'stderr.txt').read_text()}"
        time.sleep(0.1)


def check_all_done(folder: Path, run: subprocess.Popen[str]) -> str:
    """Every row once, in order, none failed; return what was said on stderr."""
    code = run.wait(RUN_SECONDS)
    said = (folder / "stderr.txt").read_text()
    assert code == 0, said
    found = rows(folder / "out.jsonl")
    assert [row["id"] for row in found] == [f"q{number}" for number in range(ROWS)]
    assert {row["status"] for row in found} <= {"ok", "unchanged", "reverted"}
    assert {row["error"] for row in found} == {None}
    return said


def test_a_run_survives_its_server_being_killed_and_started_again(tmp_path: Path, own: Restartable) -> None:
    run = begin(tmp_path, own.address.base_url)
    wait_for(tmp_path, run, 8)
    kill(own.address)
    before = stored(tmp_path)
    assert before < ROWS, "killed too late to mean anything"
    time.sleep(2)
    assert run.poll() is None, "the run waits"
    own.again()
    said = check_all_done(tmp_path, run)
    assert f"{own.address.base_url} does not answer" in said
    assert f"{own.address.base_url} answers again" in said


def test_one_of_two_servers_dies(tmp_path: Path, own: Restartable, vllm_server: Address) -> None:
    if not Path(f"/proc/{own.address.keeper}").exists():
        own.again()
    run = begin(tmp_path, own.address.base_url, vllm_server.base_url)
    wait_for(tmp_path, run, 8)
    kill(own.address)
    assert stored(tmp_path) < ROWS, "killed too late to mean anything"
    said = check_all_done(tmp_path, run)
    assert f"{own.address.base_url} does not answer" in said
    assert "the others go on" in said


def test_a_server_that_hangs_for_a_while_costs_time_only(tmp_path: Path, vllm_server: Address) -> None:
    run = begin(tmp_path, vllm_server.base_url, timeout_seconds=8)
    wait_for(tmp_path, run, 5)
    with hanging(vllm_server):
        time.sleep(14)
        assert run.poll() is None, (tmp_path / "stderr.txt").read_text()
    check_all_done(tmp_path, run)


def test_a_run_on_a_server_that_does_not_come_back_can_be_resumed(
    tmp_path: Path, vllm_server: Address
) -> None:
    run = begin(tmp_path, vllm_server.base_url, timeout_seconds=12, patience_seconds=2, attempts=3)
    wait_for(tmp_path, run, 5)
    with hanging(vllm_server):
        assert run.wait(120) == 4
    (told,) = [line for line in (tmp_path / "stderr.txt").read_text().splitlines() if "imc: error:" in line]
    assert vllm_server.base_url in told
    assert "start it again" in told
    assert not (tmp_path / "out.jsonl").exists()
    assert 5 <= stored(tmp_path) < ROWS
    check_all_done(tmp_path, imc(tmp_path, "resume", "last", "--retry-errors"))
