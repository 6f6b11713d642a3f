"""Tables of image files: CSV, TSV or JSON lines with the columns ``image``, ``label`` and, if wanted, ``split``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from imc_agents.data.jsonl import JsonlReader
from imc_agents.data.registry import format_of, open_reader
from imc_agents.data.rows import Row
from imc_agents.errors import DataError, UsageError, nearest
from imc_agents.vision.reading import inside

__all__ = ["SPLIT_NAMES", "TableRow", "read_table", "table_at"]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What a split is called here, by what it may be called in a source."""

_SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")
_IMAGE, _LABEL, _SPLIT = "image", "label", "split"
_PEEKED_ROWS = 100


@dataclass(frozen=True, slots=True)
class TableRow:
    """One image of a table.

    Attributes:
        image: Its path as the table names it.
        label: Name of its class.
        split: ``train``, ``val`` or ``test``.
        file: Where it lies.
    """

    image: str
    label: str
    split: str
    file: Path


def table_at(path: Path) -> Path | None:
    """Return the table that a path means: itself, or the only ``labels.*`` of a folder; None where it is no table.

    Raises:
        UsageError: a folder has several.
    """
    if not path.is_dir():
        return path if path.suffix.lower() in _SUFFIXES and path.is_file() else None
    found = [file for suffix in _SUFFIXES if (file := path / f"labels{suffix}").is_file()]
    if len(found) > 1:
        raise UsageError(
            f"{path}: holds {' and '.join(file.name for file in found)}; name the one that is meant"
        )
    return found[0] if found else None


def read_table(path: Path) -> tuple[TableRow, ...]:
    """Read a table whole, and see that every image is there once, with a label; no image is opened.

    Raises:
        UsageError: the table cannot be read, lacks a column or has no rows; a row has no label, an unknown split, or an
            image that is missing, lies outside the folder of the table, or stands in an earlier row.
    """
    if path.is_file() and not path.stat().st_size:
        raise UsageError(f"{path}: the table is empty; write a row for each image")
    columns = _columns(path)
    _check_columns(path, columns)
    reader = open_reader(path, question_field=_LABEL, id_field=_IMAGE)
    rows: list[TableRow] = []
    lines: dict[Path, int] = {}
    for row in reader.rows():
        made = _row(path, row, _SPLIT in columns)
        if made.file in lines:
            first = lines[made.file]
            raise UsageError(
                f"{path}:{row.line}: the image {made.image!r} stands in line {first} already; delete one of the rows"
            )
        lines[made.file] = row.line
        rows.append(made)
    if not rows:
        raise UsageError(f"{path}: no rows below the names of the columns; add one for each image")
    _check_labels(path, rows)
    return tuple(rows)


def _columns(path: Path) -> Sequence[str]:
    """The columns as far as they can be told; a header that cannot be read is for the reader to complain about."""
    kind = format_of(path)
    if kind == "jsonl":
        found: dict[str, None] = {}
        for row in islice(JsonlReader(path, _LABEL, _IMAGE).rows(), _PEEKED_ROWS):
            found.update(dict.fromkeys(row.fields))
        return tuple(found)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            return next(csv.reader(stream, delimiter="\t" if kind == "tsv" else ","), list[str]())
    except (OSError, csv.Error):
        return ()


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if not columns or "\0" in "".join(columns):
        return
    for name in (_IMAGE, _LABEL):
        if name not in columns:
            hint = nearest(name, tuple(columns)) or f", it has: {', '.join(islice(columns, 20))}"
            raise UsageError(f"{path}: no column {name!r} (a table has image, label and split){hint}")
    # A split that is not seen as one would make all images test images.
    for name in columns if _SPLIT not in columns else ():
        if get_close_matches(name.strip().lower(), [_SPLIT], cutoff=0.8):
            raise UsageError(f"{path}: the column {name!r} is not called 'split'; rename it")


def _row(path: Path, row: Row, has_split: bool) -> TableRow:
    where = f"{path}:{row.line}"
    if row.error is not None:
        raise UsageError(f"{path.parent / row.error}" if row.error.startswith(f"{path.name}:") else row.error)
    image, label = row.fields.get(_IMAGE), (row.question or "").strip()
    if not isinstance(image, str) or not image.strip():
        raise UsageError(f"{where}: the row names no image; fill in 'image' or delete the row")
    if not has_split and _SPLIT in row.fields:
        raise UsageError(f"{where}: the row names a split, which earlier ones do not; give each row one")
    split = _split(where, row.fields.get(_SPLIT)) if has_split else "test"
    try:
        file = inside(path.parent, image)
    except DataError as error:
        raise UsageError(f"{where}: {error}") from error
    if not file.is_file():
        raise UsageError(f"{where}: there is no image {image!r} in {path.parent}; correct the path")
    return TableRow(image, label, split, file)


def _split(where: str, value: Any) -> str:
    name = value.strip() if isinstance(value, str) else value
    if name is None or name == "":
        raise UsageError(f"{where}: the row names no split; fill in train, val or test")
    if not isinstance(name, str) or name.lower() not in SPLIT_NAMES:
        hint = nearest(name.lower(), tuple(SPLIT_NAMES)) if isinstance(name, str) else ""
        raise UsageError(f"{where}: unknown split {name!r}{hint or '; write train, val or test'}")
    return SPLIT_NAMES[name.lower()]


def _check_labels(path: Path, rows: Sequence[TableRow]) -> None:
    spelled: dict[str, str] = {}
    for row in rows:
        alike = " ".join(row.label.casefold().split())
        first = spelled.setdefault(alike, row.label)
        if first != row.label:
            raise UsageError(
                f"{path}: the labels {first!r} and {row.label!r} differ in case or blanks only; write one of them"
            )
