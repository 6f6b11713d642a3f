"""A server as a process: started in a group of its own, watched until it answers, stopped with all its children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx

from imc_agents.errors import BackendUnreachableError, UsageError
from imc_agents.models.served import (
    Served,
    forget_record,
    is_alive,
    log_path,
    process_birth,
    save_record,
)
from imc_agents.serving import keeper
from imc_agents.serving.launch import Launch
from imc_agents.serving.log import read_stage, why_it_ended

__all__ = ["Running", "end_server", "is_healthy", "kill_server", "start_server", "stop_server"]

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 20.0
_LOADING_SECONDS = 3.0
_KEEPER_SECONDS = 5.0


@dataclass(slots=True)
class Running:
    """A server that this process has started.

    Attributes:
        process: The keeper, which leads the server's process group.
        served: Its record.
    """

    process: subprocess.Popen[bytes]
    served: Served

    def wait_until_ready(self, seconds: float, on_stage: Callable[[str], None]) -> bool:
        """Wait until the server answers, and note that in its record; False where it was stopped meanwhile.

        Args:
            seconds: How long at most.
            on_stage: Told again and again how far it is.

        Raises:
            BackendUnreachableError: it ended, or is not ready in time.
        """
        deadline = time.monotonic() + seconds
        while not is_healthy(self.served):
            if self.process.poll() == 0:
                return False
            if self.process.returncode is not None:
                raise BackendUnreachableError(self.why_it_ended())
            stage = read_stage(Path(self.served.log))
            if time.monotonic() > deadline:
                raise BackendUnreachableError(
                    f"{self.served.model} was not ready after {seconds:g} s (it was {stage}); raise --ready-seconds; "
                    f"log: {self.served.log}"
                )
            on_stage(stage)
            time.sleep(_POLL_SECONDS)
        self.served = replace(self.served, ready=True)
        save_record(self.served)
        return True

    def why_it_ended(self) -> str:
        """One line that says why the server ended, and where its log is."""
        code = self.process.wait()
        killed = f"it was killed from outside (signal {-code})"
        reason = killed if code < 0 else why_it_ended(Path(self.served.log), code)
        return f"the server of {self.served.model} ended: {reason}; log: {self.served.log}"


def start_server(launch: Launch) -> Running:
    """Start the server and record it; its output goes to a log file that only its owner can read.

    The server ends with this process, whatever ends that.

    Args:
        launch: What to start.

    Raises:
        UsageError: the log or the record cannot be written.
    """
    path = log_path(launch.port)
    command = [sys.executable, "-I", str(Path(keeper.__file__)), str(_GRACE_SECONDS), *launch.argv]
    try:
        path.unlink(missing_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; free some space or set IMC_CACHE") from None
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=launch.environment,
            start_new_session=True,
            bufsize=0,
        )
    finally:
        os.close(log)
    served = Served(
        base_url=launch.base_url,
        model=launch.model,
        checkpoint=launch.checkpoint,
        pid=process.pid,
        birth=process_birth(process.pid) or "",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        log=str(path),
        host=socket.gethostname(),
        ready=False,
        api_key=launch.api_key,
    )
    running = Running(process, served)
    try:
        save_record(served)
    except BaseException:
        end_server(running)
        raise
    return running


def is_healthy(served: Served) -> bool:
    """Whether the server answers and its engine lives."""
    url = f"{served.base_url.removesuffix('/v1')}/health"
    try:
        # No proxy is asked for an address on this machine.
        return httpx.get(url, timeout=5.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def stop_server(served: Served) -> None:
    """End all processes of the server: asked first, killed where that takes too long."""
    if not is_alive(served):
        return
    with suppress(ProcessLookupError):
        os.kill(served.pid, signal.SIGTERM)
    # vLLM heeds no signal while it loads a model, and has nothing to finish then.
    if _has_ended(served, _GRACE_SECONDS if served.ready else _LOADING_SECONDS):
        return
    kill_server(served)
    if not _has_ended(served, _KEEPER_SECONDS):
        _kill_group(served)


def kill_server(served: Served) -> None:
    """Have all processes of a living server killed at once."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(served.pid, signal.SIGQUIT)


def _has_ended(served: Served, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(served):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


def _kill_group(served: Served) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(served.pid, signal.SIGKILL)


def end_server(running: Running) -> None:
    """Stop a server of this process, if it has not ended yet, and remove its record."""
    stop_server(running.served)
    code = running.process.wait()
    if code < 0:  # the keeper was killed: who is left of its group is not kept by anybody
        _kill_group(running.served)
    if running.process.stdin is not None:
        running.process.stdin.close()
    forget_record(running.served)
