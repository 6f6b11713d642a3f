"""Records of the vLLM servers that ``imc serve`` started on this machine: where they listen, and their keys.

A record holds the key of its server, so it is a file that nobody else may read. It counts only while the process that
it names lives: a number that the system has given to another process since is told apart by when that began.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from imc_agents.errors import UsageError
from imc_agents.models.weights import cache_directory

__all__ = [
    "Served",
    "api_key_for",
    "forget_record",
    "is_alive",
    "log_path",
    "process_birth",
    "record_path",
    "records_directory",
    "save_record",
    "served_here",
]

_GONE = ("Z", "X")  # states of a process that has ended and waits for its parent to notice


@dataclass(frozen=True, slots=True)
class Served:
    """One server.

    Attributes:
        base_url: Where it listens, up to and with /v1.
        model: Name under which it serves the model.
        checkpoint: What was given as ``--model``.
        pid: Leader of the server's process group, which is a session of its own.
        birth: When that process began, see ``process_birth``.
        started: When the server was started: UTC, ISO 8601.
        log: Path of its log file.
        host: Name of the machine; a cache folder may be shared by many.
        ready: Whether it has answered that it is healthy; False while it loads the model.
        api_key: The key that requests need.
    """

    base_url: str
    model: str
    checkpoint: str
    pid: int
    birth: str
    started: str
    log: str
    host: str
    ready: bool
    api_key: str = field(repr=False)

    @property
    def port(self) -> int:
        """The port in its address."""
        return int(self.base_url.removesuffix("/v1").rpartition(":")[2])


def records_directory() -> Path:
    """Return the folder with the records and logs, which is made for the user alone.

    Raises:
        UsageError: it cannot be made.
    """
    folder = cache_directory() / "servers"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror}; set IMC_CACHE to a writable folder"
        ) from None
    return folder


def record_path(pid: int) -> Path:
    """The file for the record of a server on this machine."""
    return records_directory() / f"{_host()}-{pid}.json"


def log_path(port: int) -> Path:
    """The file for the output of a server on this machine; the next one on that port begins it anew."""
    return records_directory() / f"{_host()}-{port}.log"


def save_record(served: Served) -> Path:
    """Write the record, whole or not at all, never readable by others.

    Raises:
        UsageError: it cannot be written.
    """
    path = record_path(served.pid)
    work = path.with_suffix(".part")
    try:
        work.unlink(missing_ok=True)
        with os.fdopen(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(asdict(served), stream)
        work.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; free some space or set IMC_CACHE") from None
    return path


def forget_record(served: Served) -> None:
    """Remove the record; no matter if it is gone already."""
    with suppress(OSError):
        record_path(served.pid).unlink(missing_ok=True)


def served_here(*, starting: bool = False) -> list[Served]:
    """Return the servers that were started on this machine and live, oldest first; other records are removed.

    Args:
        starting: Also those that are not ready yet.
    """
    try:
        paths = sorted(records_directory().glob("*.json"))
    except UsageError:
        return []  # where no record can be written there is none to read
    here = socket.gethostname()
    found: list[Served] = []
    for path in paths:
        served = _read(path)
        if served is not None and served.host != here:
            continue  # only its own machine knows whether it lives
        if served is None or not is_alive(served):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        elif served.ready or starting:
            found.append(served)
    return sorted(found, key=lambda served: (served.started, served.pid))


def api_key_for(base_url: str) -> str | None:
    """The key of the server of ours at that address; None where it is not ours."""
    wanted = _plain(base_url)
    for served in served_here(starting=True):
        if _plain(served.base_url) == wanted:
            return served.api_key
    return None


def is_alive(served: Served) -> bool:
    """Whether the process of a record lives and is still the one that was recorded."""
    return process_birth(served.pid) == served.birth


def process_birth(pid: int) -> str | None:
    """What tells a process from a later one with the same number; None if it has ended."""
    if pid <= 1:
        return None
    try:
        # The name of the program, in brackets, may hold anything, brackets and blanks too.
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if state in _GONE else f"{boot} {rest[18]}"
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _birth_by_ps(pid)
    except (OSError, ValueError, IndexError):
        return None


def _birth_by_ps(pid: int) -> str | None:
    """The same where there is no /proc, as on macOS."""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    state, _, began = done.stdout.strip().partition(" ")
    return None if state.startswith(_GONE) else began.strip() or None


def _read(path: Path) -> Served | None:
    """The record in a file; None if it is damaged."""
    kinds: dict[str, type] = {"pid": int, "ready": bool}
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        kept = {item.name: values[item.name] for item in fields(Served)}
        if any(type(value) is not kinds.get(name, str) for name, value in kept.items()):
            return None
        served = Served(**kept)
        return served if served.port > 0 else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _plain(address: str) -> str:
    return address.rstrip("/").replace("://localhost:", "://127.0.0.1:")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "host"
