"""Files that are replaced as a whole, and folders that one process holds."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from imc_agents.errors import UsageError

__all__ = ["held", "part_of", "replaced"]


@contextmanager
def held(folder: Path) -> Generator[None]:
    """Hold a folder that is there, so that no other process fills it; however this one ends, it is given back.

    Raises:
        UsageError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)  # the folder itself, so that no file is left in it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UsageError(f"{folder}: another process is filling it; wait for it or stop it first") from error
    finally:
        os.close(handle)


def part_of(path: Path) -> Path:
    """Where a file is written before it is put in its place."""
    return path.with_name(f".{path.name}.part")


def replaced(path: Path, content: bytes) -> None:
    """Write a file beside another, then put it in its place.

    Raises:
        UsageError: the folder cannot be written.
    """
    part = part_of(path)
    try:
        part.write_bytes(content)
        os.replace(part, path)  # noqa: PTH105  # the same file system, and atomic
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{path}: cannot be written ({reason}); check the folder and the disk") from error
