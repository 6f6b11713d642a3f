"""Starts runs: looks at the input, makes the run folder, and describes the run in its manifest."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, Literal

from imc_agents import __version__
from imc_agents.data.images import choose_image_field
from imc_agents.data.registry import format_of, open_reader
from imc_agents.data.rows import ANSWER_FIELDS, IMAGE_FIELDS, RESULT_FIELDS, Reader, Row
from imc_agents.errors import UsageError
from imc_agents.runs.export import check_target
from imc_agents.runs.manifest import InputInfo, Manifest, Selection, write_manifest
from imc_agents.runs.writer import StorageError, make_run_folder, utc_now

__all__ = ["CONFIG", "count_rows", "reopen_input", "select", "spool_stdin", "start_run"]

CONFIG = "config.yaml"

_PACKAGES = ("torch", "transformers", "langgraph", "langchain-core", "pydantic", "symspellpy", "wordfreq")


def start_run(
    source: Path | BinaryIO,
    *,
    directory: Path,
    name: str | None,
    config_yaml: str,
    seed: int,
    command: tuple[str, ...],
    output: Path | None,
    format: str | None = None,
    question_field: str | None = None,
    id_field: str | None = None,
    image_field: str | None = None,
    images: bool = False,
    answers: bool = False,
    selection: Selection = Selection(),
    kind: Literal["refine", "bench"] = "refine",
) -> Path:
    """Make the folder of a new run and return it; ``execute_run`` does the rest.

    Args:
        source: The input file, or a stream, which is kept in the run folder so that the run can be resumed.
        directory: Folder for run folders.
        name: Name of the run; None takes the name of the input.
        config_yaml: The resolved configuration.
        seed: Its base seed.
        command: The command line, for the manifest.
        output: Where the output file goes; None leaves it in the run folder.
        format: Name of the reader; None goes by the suffix, and for a stream means ``jsonl``.
        question_field: Field with the question; None chooses.
        id_field: Field with the id; None chooses.
        image_field: Field that names the image; None chooses.
        images: Whether images are looked at.
        answers: Whether questions are answered, from their images where they have some.
        selection: Which rows to take.
        kind: What begins it, for ``imc resume``.

    Raises:
        UsageError: if the input cannot be used or the output cannot be written.
        StorageError: if the run folder cannot be made.
    """
    spooled = not isinstance(source, Path)
    if isinstance(source, Path):
        # A mistake in the input shows before anything is created.
        reader = open_reader(source, format=format, question_field=question_field, id_field=id_field)
        total, rows = count_rows(reader, selection)
        seen_field = choose_image_field(reader, image_field) if images or answers else None
        if output is not None:
            check_target(output, source, reader.format)
        folder = make_run_folder(directory, name or source.stem)
    else:
        piped = format_of(Path("stdin"), format or "jsonl")
        if output is not None:
            check_target(output, None, piped)
        folder = make_run_folder(directory, name or "stdin")
        try:
            spool = spool_stdin(source, folder / f"input.{piped}")
            reader = open_reader(spool, format=piped, question_field=question_field, id_field=id_field)
            total, rows = count_rows(reader, selection)
            seen_field = choose_image_field(reader, image_field) if images or answers else None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    now = utc_now()
    manifest = Manifest(
        id=folder.name,
        name=folder.name.partition("-")[2].rpartition("-")[0],
        state="running",
        versions=_versions(),
        platform=platform.platform(),
        command=command,
        seed=seed,
        input=InputInfo(
            path=reader.path.name if spooled else str(reader.path.absolute()),
            spooled=spooled,
            format=reader.format,
            sha256=_digest(reader.path),
            bytes=reader.path.stat().st_size,
            rows=total,
            question_field=reader.question_field,
            id_field=reader.id_field,
            image_field=seen_field,
        ),
        selection=selection,
        rows=rows,
        added=(
            *RESULT_FIELDS,
            *(IMAGE_FIELDS if images and seen_field is not None else ()),
            *(ANSWER_FIELDS if answers else ()),
        ),
        kind=kind,
        output=None if output is None else str(output.absolute()),
        created=now,
        updated=now,
    )
    try:
        (folder / CONFIG).write_text(config_yaml, encoding="utf-8")
        write_manifest(folder, manifest)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); free some space") from error
    return folder


def reopen_input(folder: Path, manifest: Manifest) -> Reader:
    """Open the input of a run again.

    Raises:
        UsageError: if it is gone, or not the same file any more.
    """
    recorded = manifest.input
    path = folder / recorded.path
    if not path.is_file():
        raise UsageError(f"{path}: the input of this run is gone; put it back, or start a new run")
    if path.stat().st_size != recorded.bytes or _digest(path) != recorded.sha256:
        raise UsageError(f"{path}: the input changed since the run started; put it back, or start a new run")
    return open_reader(
        path,
        format=recorded.format,
        question_field=recorded.question_field,
        id_field=recorded.id_field,
    )


def select(rows: Iterator[Row], selection: Selection) -> Iterator[Row]:
    """Yield the selected rows; nothing is read past the last of a limited number."""
    if selection.limit is not None and selection.limit <= 0:
        return
    wanted = frozenset(selection.only)
    taken = 0
    for row in rows:
        if wanted and row.id not in wanted:
            continue
        taken += 1
        yield row
        if taken == selection.limit:
            return


def count_rows(reader: Reader, selection: Selection) -> tuple[int, int]:
    """Return the number of rows and of selected rows.

    Raises:
        UsageError: if ``only`` names an id that no row has.
    """
    total = rows = reader.count()
    if selection.only:
        missing = set(selection.only)
        rows = 0
        for row in select(reader.rows(), Selection(only=selection.only)):
            missing.discard(row.id)
            rows += 1
        if missing:
            names = ", ".join(repr(name) for name in sorted(missing))
            where = f"the field {reader.id_field!r}" if reader.id_field else "row numbers, such as row-000001"
            raise UsageError(f"{reader.path}: no row with the id {names} (--only); ids come from {where}")
    return total, rows if selection.limit is None else min(rows, selection.limit)


def spool_stdin(stream: BinaryIO, path: Path) -> Path:
    """Copy the stream to the path and return it.

    Raises:
        UsageError: if the stream is empty.
        StorageError: if the copy cannot be written.
    """
    try:
        with path.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 2**20)
    except OSError as error:
        raise StorageError(f"{path}: stdin cannot be kept ({error.strerror}); free some space") from error
    if path.stat().st_size == 0:
        raise UsageError(
            "stdin is empty; pipe questions into it, one JSON object a line unless --format says else"
        )
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    versions = {"imc-agents": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
