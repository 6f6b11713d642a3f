"""Your own questions: JSON lines (or CSV, TSV, Parquet) with ``question``, ``answer``, ``image``, and the images."""

from __future__ import annotations

from pathlib import Path

from imc_agents.data.images import choose_image_field
from imc_agents.data.registry import READERS, format_of, open_reader
from imc_agents.data.rows import Row
from imc_agents.data.sets.entries import Entry, Fields, data_set
from imc_agents.data.sets.formats import QuestionFormat, choose
from imc_agents.data.sets.records import DataSet, Problem
from imc_agents.errors import UsageError

__all__ = ["FORMAT"]

_NAME = "jsonl"
_WHOLE = "all"
_SPLITS = ("train", "val", "valid", "validate", "validation", "dev", "test")


def _files(path: Path) -> dict[str, Path]:
    """The files of questions by split: one that carries no split's name holds all."""
    if path.is_file():
        return {_split_of(path): path}
    named = [file for file in sorted(path.glob("*.*")) if file.suffix.lower().lstrip(".") in READERS]
    files = {_split_of(file): file for file in named}
    if len(files) < len(named):
        listed = ", ".join(file.name for file in named[:10])
        raise UsageError(f"{path}: several files of questions ({listed}); name one, or call them by splits")
    return files


def _split_of(file: Path) -> str:
    return file.stem if file.stem in _SPLITS else _WHOLE


def _splits(path: Path) -> tuple[str, ...]:
    return tuple(_files(path))


def _open(path: Path, split: str | None, unpack: Path | None) -> DataSet:  # noqa: ARG001
    files = _files(path)
    split = choose("split", split, tuple(files), path, default="test")
    file = files[split]
    reader = open_reader(file, format=format_of(file))
    rows = list(reader.rows())
    image_field = choose_image_field(reader, None)
    fields = Fields(
        id=reader.id_field,
        question=reader.question_field,
        image=image_field,
        without_image=True,
        kind="answer_type",
        group="group",
        language="language",
    )
    broken = [Problem(f"{file.name}:{row.line}", _reason(row)) for row in rows if row.error is not None]
    entries = [Entry(f"{file.name}:{row.line}", dict(row.fields)) for row in rows if row.error is None]
    folder = file.parent / "images"
    images = folder if folder.is_dir() and not _beside(file.parent, entries, image_field) else file.parent
    name = path.stem if path.is_file() else path.resolve().name
    return data_set(
        name, _NAME, path, split, entries, fields, images=images if image_field else None, found=broken
    )


def _reason(row: Row) -> str:
    """What is wrong, without the place, which a problem tells apart."""
    return (row.error or "").split(": ", 1)[-1]


def _beside(folder: Path, entries: list[Entry], image_field: str | None) -> bool:
    """Whether the first image named is found from the file's own folder, as ``images/a.png`` is."""
    named = (entry.value.get(image_field) for entry in entries)
    first = next((name for name in named if isinstance(name, str) and name.strip()), None)
    return first is not None and (folder / first).is_file()


def _recognises(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in (".jsonl", ".csv", ".tsv")
    return any(path.glob("*.jsonl"))


FORMAT = QuestionFormat(
    _NAME,
    "your own: questions as .jsonl, .csv, .tsv or .parquet with question, answer, image",
    _recognises,
    _splits,
    _open,
)
