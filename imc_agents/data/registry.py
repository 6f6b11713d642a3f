"""The readers by name: those below, and what other packages register under the entry point ``imc_agents.readers``.

A reader is a function ``(path, question_field, id_field) -> Reader``; its name is the format and the file suffix.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from imc_agents.data.delimited import open_csv, open_tsv
from imc_agents.data.jsonl import open_jsonl
from imc_agents.data.parquet import open_parquet
from imc_agents.data.rows import Reader
from imc_agents.errors import UsageError, nearest

__all__ = ["READERS", "OpenReader", "format_of", "open_reader", "reader_names"]

OpenReader = Callable[[Path, str | None, str | None], Reader]

READERS: dict[str, OpenReader] = {
    "jsonl": open_jsonl,
    "csv": open_csv,
    "tsv": open_tsv,
    "parquet": open_parquet,
}

_GROUP = "imc_agents.readers"
_OTHER_SUFFIXES = {"ndjson": "jsonl", "tab": "tsv", "pq": "parquet"}


def reader_names() -> list[str]:
    """Return the names of all registered readers."""
    return sorted({*READERS, *entry_points(group=_GROUP).names})


def format_of(path: Path, format: str | None = None) -> str:
    """Return the format to read a file as: the one asked for, or the one that its suffix says.

    Raises:
        UsageError: if there is no such reader.
    """
    suffix = path.suffix.lower().removeprefix(".")
    wanted = format if format is not None else _OTHER_SUFFIXES.get(suffix, suffix)
    if wanted in READERS:  # before other packages are looked through, which takes a while
        return wanted
    names = reader_names()
    if wanted in names:
        return wanted
    if format is not None:
        raise UsageError(f"--format {format!r} is unknown{nearest(format, names)}; known: {', '.join(names)}")
    ending = f"the ending {path.suffix!r}" if path.suffix else "a name without an ending"
    hint = "; a JSON array becomes JSON lines by `jq -c '.[]'`" if suffix == "json" else ""
    raise UsageError(f"{path}: {ending} names no format; give --format ({', '.join(names)}){hint}")


def open_reader(
    path: Path, *, format: str | None = None, question_field: str | None = None, id_field: str | None = None
) -> Reader:
    """Open a file of questions.

    Args:
        path: The file.
        format: Name of the reader; None goes by the suffix.
        question_field: Field with the question; None takes ``question``, ``text`` or ``query``.
        id_field: Field with the id; None takes ``id`` or ``qid``, or makes ids from row numbers.

    Raises:
        UsageError: if the file cannot be read, is empty, or lacks the fields.
    """
    name = format_of(path, format)
    try:
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a folder, not a file of questions") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise UsageError(f"{path}: the file is empty; there is nothing to refine")
    create: OpenReader = READERS.get(name) or next(iter(entry_points(group=_GROUP, name=name))).load()
    return create(path, question_field, id_field)
