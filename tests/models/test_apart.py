"""Child processes with a session and a log of their own."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import os
from pathlib import Path

from imc_agents.models.apart import children_apart


def tell() -> None:
    print(f"session {os.getsid(0)}", flush=True)


def test_children_have_a_session_and_a_log_of_their_own(tmp_path: Path, capfd) -> None:
    python = multiprocessing.spawn.get_executable()
    log = tmp_path / "a log's.txt"
    log.write_text("of an earlier run")
    with children_apart(log):
        child = multiprocessing.get_context("spawn").Process(target=tell)
        child.start()
        child.join(60)
    assert child.exitcode == 0
    assert log.read_text() == f"session {child.pid}\n"
    assert os.getsid(0) != child.pid
    assert log.stat().st_mode & 0o077 == 0
    assert capfd.readouterr().out == ""
    assert multiprocessing.spawn.get_executable() == python
