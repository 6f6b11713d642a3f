"""Child processes that have a session and a log of their own, and end with their parent.

Libraries that start processes let them share the terminal: a Ctrl-C reaches all of them at once, so that some die while
others wait for them, and what they print goes over the progress. And where the parent is killed they stay.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import os
import shlex
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

__all__ = ["children_apart"]


@contextmanager
def children_apart(log: Path) -> Generator[None]:
    """Let processes that ``multiprocessing`` spawns meanwhile begin a session of their own and write to the log.

    They must be up before this ends. They are killed when the thread ends that started them, however it ends.

    Args:
        log: Made anew, for its owner only.
    """
    # It serves this process for as long as it lives, so it must not be one of them.
    resource_tracker.ensure_running()
    log.unlink(missing_ok=True)
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    python = os.fsdecode(multiprocessing.spawn.get_executable() or b"")
    # Both are part of util-linux.
    found = {name: shutil.which(name) for name in ("setsid", "setpriv")}
    words = [found["setsid"]] if found["setsid"] else []
    words += [found["setpriv"], "--pdeathsig", "KILL"] if found["setpriv"] else []
    begin = " ".join(["exec", *map(shlex.quote, words), ""])
    with tempfile.TemporaryDirectory(prefix="imc-engine-") as folder:
        start = Path(folder) / "python"
        start.write_text(f'#!/bin/sh\n{begin}{shlex.quote(python)} "$@" >>{shlex.quote(str(log))} 2>&1\n')
        start.chmod(0o700)
        multiprocessing.set_executable(str(start))
        try:
            yield
        finally:
            multiprocessing.set_executable(python)
