"""Keeps a server for as long as ``imc serve`` lives: a small program that starts it and ends all of its processes.

A server has children of its own, which may wait for each other for ever if only one of them is told to stop, and
nobody would stop them where ``imc serve`` is killed. This program leads the process group of them all. Its standard
input is a pipe that only ``imc serve`` holds: when that ends, however it does, so does the server.

Run as ``python keeper.py SECONDS PROGRAM [ARGUMENT ...]``. Exit code 0 if the server was asked to stop, else its own.
Imports nothing of ours, since it is there for as long as the server.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["keep"]

_POLL_SECONDS = 0.1
_LAST_SECONDS = 2.0
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_KILL = signal.SIGQUIT


def keep(program: list[str], seconds: float) -> int:
    """Run the program until it ends or is to be stopped, then end what is left of its process group.

    Args:
        program: The command line.
        seconds: How long it may take to stop after it was asked; then it is killed, as it is at once on SIGQUIT.
    """
    asked: list[int] = []
    hurried: list[int] = []
    bell, ringer = os.pipe()
    os.set_blocking(ringer, False)
    signal.set_wakeup_fd(ringer)
    for number in _STOP:
        signal.signal(number, lambda number, _frame: asked.append(number))
    signal.signal(_KILL, lambda number, _frame: hurried.append(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    child = subprocess.Popen(program, stdin=subprocess.DEVNULL)
    while child.poll() is None and not asked and not hurried:
        heard, _, _ = select.select([sys.stdin, bell], [], [])
        if bell in heard:
            os.read(bell, 4096)
        elif not os.read(sys.stdin.fileno(), 1):
            asked.append(signal.SIGHUP)
    for number in _STOP:
        signal.signal(number, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + (seconds if asked else _LAST_SECONDS)
    while (child.poll() is None or _others()) and time.monotonic() < deadline and not hurried:
        time.sleep(_POLL_SECONDS)
    _kill_others(child)
    code = child.wait()
    if asked or hurried:
        return 0
    return 128 - code if code < 0 else code or 1


def _kill_others(child: subprocess.Popen[bytes]) -> None:
    # Python's trackers of shared memory end by themselves once nobody uses it, and free it before they do.
    deadline = time.monotonic() + _LAST_SECONDS
    while left := _others():
        trackers = {pid for pid in left if _is_tracker(pid)}
        for pid in left if time.monotonic() > deadline else left - trackers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.poll()
        time.sleep(_POLL_SECONDS)


def _others() -> set[int]:
    """The other living processes of this process's group."""
    group, own = os.getpgrp(), os.getpid()
    processes = _by_proc() if Path("/proc/self/stat").exists() else _by_ps()
    return {
        pid for pid, leader, state in processes if leader == group and pid != own and state[0] not in "ZX"
    }


def _is_tracker(pid: int) -> bool:
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _by_proc() -> Iterator[tuple[int, int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            state, _, group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
            yield int(folder.name), int(group), state


def _by_ps() -> Iterator[tuple[int, int, str]]:
    command = ["ps", "-A", "-o", "pid=,pgid=,stat="]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        pid, group, state = line.split()[:3]
        yield int(pid), int(group), state


if __name__ == "__main__":
    sys.exit(keep(sys.argv[2:], float(sys.argv[1])))
