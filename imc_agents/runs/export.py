"""Writes the output file of a finished run: input and store side by side, in input order.

The file depends on nothing but the input and the stored results, so a resumed run writes the same bytes as one that
was never interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from imc_agents.data.registry import format_of
from imc_agents.data.rows import RESULT_FIELDS, Layout, Reader, Row, Tabular, survey
from imc_agents.errors import UsageError
from imc_agents.runs.writer import RunWriter

__all__ = ["check_target", "export", "publish"]


def export(
    reader: Reader,
    rows: Callable[[], Iterator[Row]],
    writer: RunWriter,
    target: Path,
    added: Sequence[str] = RESULT_FIELDS,
) -> Layout:
    """Write the rows with their results to ``target``, replacing it in one step; return how columns are called.

    Args:
        reader: The input.
        rows: Returns the selected rows, from the first, each time it is called.
        writer: The run; every row must be finished.
        target: The output file in the run folder.
        added: The fields that are added to the rows.

    Raises:
        UsageError: if it cannot be written.
    """
    layout = survey(rows(), reader.columns if isinstance(reader, Tabular) else (), added)
    temporary = _beside(target)
    try:
        with temporary.open("wb") as stream:
            output = reader.writer(stream, layout)
            results = writer.results()
            for row in rows():
                output.write(row, _result(row, next(results, None)))
            output.close()
        temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error, writer.folder) from error
    finally:
        temporary.unlink(missing_ok=True)
    return layout


def publish(source: Path, target: Path) -> None:
    """Copy the output file to where the user wants it, replacing what is there in one step.

    A target that is no regular file, such as ``/dev/null`` or a named pipe, is written to instead.

    Raises:
        UsageError: if it cannot be written.
    """
    # Resolved, the descriptor of a pipe (/dev/stdout, /dev/fd/63) would become a name that cannot be opened.
    special = target.exists() and not stat.S_ISREG(target.stat().st_mode)
    target = target if special else target.resolve()
    temporary = target if special else _beside(target)
    try:
        with source.open("rb") as stream, temporary.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 2**20)
        if not special:
            temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error, source.parent) from error
    finally:
        if not special:
            temporary.unlink(missing_ok=True)


def check_target(target: Path, source: Path | None, kind: str | None = None) -> None:
    """Find out before a long run whether its output file can be written.

    Args:
        target: The output file.
        source: The input file; None for a stream.
        kind: Format of the output; None skips the look at the ending of its name.

    Raises:
        UsageError: if it cannot, if it is the input itself, or if its name promises another format.
    """
    if kind is not None and _promises_other_format(target, kind):
        cure = f"call it {target.with_suffix(f'.{kind}').name}"
        raise UsageError(f"{target}: the output will be {kind} like the input; {cure}")
    try:
        if target.is_dir():
            raise UsageError(f"{target}: a folder; give -o a file in it")
        if source is not None and target.exists() and source.exists() and target.samefile(source):
            raise UsageError(f"{target}: -o would overwrite the input; choose another name")
        with suppress(FileNotFoundError):
            target.stat()  # a loop of links
        if not target.exists() or target.is_file():
            trial = _beside(target.resolve())
            trial.touch(exist_ok=False)
            trial.unlink()
    except FileNotFoundError:
        raise UsageError(
            f"{target}: the folder {target.resolve().parent} does not exist; create it first"
        ) from None
    except OSError as error:
        message = f"{target}: cannot be written ({error.strerror}); choose another place with -o"
        raise UsageError(message) from error


def _promises_other_format(target: Path, kind: str) -> bool:
    try:
        return format_of(target) != kind
    except UsageError:  # an ending that names no format promises nothing
        return False


def _result(row: Row, stored: tuple[Any, ...] | None) -> dict[str, Any]:
    if stored is None or stored[0] != row.index:
        raise UsageError(f"row {row.index + 1} ({row.id}) is not in the run store; resume the run")
    _, refined, changed, flags, confidence, status, error, seen, said = stored
    found: dict[str, Any] = json.loads(seen) if seen else {}
    return {
        "refined": None if row.question is None else refined,
        "changed": bool(changed),
        "flags": json.loads(flags),
        "confidence": confidence,
        "status": status,
        "error": error,
        "image_noise": found.get("noise"),
        "image_severity": found.get("severity"),
        "image_probability": found["probabilities"].get(found["noise"]) if found else None,
        "image_operator": found.get("operator"),
        "answer": json.loads(said)["answer"] if said else None,
    }


def _beside(target: Path) -> Path:
    """Return an unused name in the same folder, so that a file can be put in its place in one step."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")


def _cannot_write(target: Path, error: OSError, folder: Path) -> UsageError:
    cure = "free some space" if error.errno == errno.ENOSPC else "make its folder writable"
    return UsageError(
        f"{target}: cannot be written ({error.strerror or error}); all results are stored: {cure}, "
        f"then `imc resume {folder}`, or add `-o` with another place"
    )
