"""Where noisy data is written: never onto what was there or is being read, and never half a file."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from imc_agents.errors import UsageError

__all__ = ["check_output", "written"]


def check_output(source: Path, target: Path, *, folder: bool, overwrite: bool) -> None:
    """Find out before any work whether the output may be written.

    Args:
        source: The input, a file or a folder.
        target: The output.
        folder: Whether the output is going to be a folder.
        overwrite: Whether files that are there may be replaced.

    Raises:
        UsageError: it is there already, is of the other kind, or input and output lie in each other.
    """
    read, wrote = source.resolve(), target.resolve()
    if read == wrote or (target.exists() and target.samefile(source)):
        raise UsageError(f"{target} is the input itself; choose another place for the output")
    if wrote.is_relative_to(read):
        raise UsageError(f"{target} lies inside the input {source}; choose a place outside of it")
    if folder and read.is_relative_to(wrote):
        raise UsageError(f"the input {source} lies inside {target}; choose another place for the output")
    if folder and target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file, and the output is a folder; choose another name")
    if not folder and target.is_dir():
        raise UsageError(f"{target} is a folder, and the output is one file; name the file")
    empty = folder and target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty and not overwrite:
        raise UsageError(f"{target} is there already; choose another name, or add --overwrite")


@contextmanager
def written(target: Path) -> Generator[BinaryIO]:
    """Open a file beside the target that takes its place when the block ends, and goes when it fails.

    Folders are made as needed.

    Raises:
        UsageError: it cannot be written.
    """
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            yield stream
        temporary.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{target}: cannot be written ({reason}); choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)
