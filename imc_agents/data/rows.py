"""What every format shares: a row, the checks of its question and id, and the columns that a refinement adds.

Readers yield every record of a file exactly once, broken ones too: those carry an ``error`` that names the file,
the line, the field and the cure. Writers put the record back as it came and add the columns of a ``Layout``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from imc_agents.errors import UsageError, nearest

__all__ = [
    "ANSWER_FIELDS",
    "BOM",
    "ID_NAMES",
    "IMAGE_FIELDS",
    "MAX_RECORD_BYTES",
    "QUESTION_NAMES",
    "RESULT_FIELDS",
    "SHOWN_BYTES",
    "Layout",
    "Reader",
    "Row",
    "Tabular",
    "Writer",
    "broken_row",
    "check_row",
    "choose_fields",
    "encodable",
    "raw_values",
    "refuse_utf16",
    "survey",
]

QUESTION_NAMES = ("question", "text", "query")
"""Fields that are taken for the question when none is named, in this order."""

ID_NAMES = ("id", "qid")
"""Fields that are taken for the id when none is named, in this order."""

MAX_RECORD_BYTES = 16 * 2**20
"""Longest record of a text format; a longer one is a broken row, so that memory stays bounded."""

BOM = b"\xef\xbb\xbf"
"""Byte order mark that a text file in UTF-8 may begin with."""

SHOWN_BYTES = 1000
"""How much is kept of a record that is too long."""

RESULT_FIELDS = ("refined", "changed", "flags", "confidence", "status", "error")
"""What a writer adds to each row, in this order."""

IMAGE_FIELDS = ("image_noise", "image_severity", "image_probability", "image_operator")
"""What it adds where images were looked at: the noise, 1 to 5 (0: clean), how likely it is, what corrected it."""

ANSWER_FIELDS = ("answer",)
"""What it adds where questions were answered."""

_RAW_FIELDS = ("_raw", "_raw_base64")
_ADDED = frozenset(RESULT_FIELDS + IMAGE_FIELDS + ANSWER_FIELDS + _RAW_FIELDS)
_PREFIX = "imc_"


@dataclass(frozen=True, slots=True)
class Row:
    """One record of an input file.

    Attributes:
        index: Position in the file, from 0.
        id: The record's own id, or one made from its number: ``row-000001`` is the first.
        question: The question, also where it is unusable but is text; None where there is none.
        fields: All fields of the record by name; empty where the record cannot be read.
        error: Why the question cannot be refined, or None.
        line: Line on which the record starts, from 1; in Parquet, which has no lines, the number of the row.
        flags: ``missing_id`` where the file has ids but this row has none.
        raw: The bytes of the record in text formats, without the line end.
        image: Path of its image, where images are looked at and it has one.
    """

    index: int
    id: str
    question: str | None
    fields: Mapping[str, Any]
    error: str | None
    line: int
    flags: tuple[str, ...] = ()
    raw: bytes = field(default=b"", repr=False)
    image: str | None = None

    @property
    def readable(self) -> bool:
        """Whether the record has the structure of its format, so that its fields can be carried through."""
        return bool(self.fields)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the added columns are called in one output file.

    Attributes:
        names: Column name by added field, in the order in which they are written; ``imc_`` precedes a name that the
            input already uses.
        raw_names: Column name by ``_raw`` and ``_raw_base64``; only those that some broken row needs.
    """

    names: Mapping[str, str] = field(default_factory=lambda: {name: name for name in RESULT_FIELDS})
    raw_names: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def renamed(self) -> dict[str, str]:
        """The result fields that are called otherwise because the input already has a field of that name."""
        return {name: column for name, column in self.names.items() if name != column}


class Writer(Protocol):
    """Writes rows of one format."""

    def write(self, row: Row, result: Mapping[str, Any]) -> None:
        """Write a row as it came with the values of the layout's fields added."""
        ...

    def close(self) -> None:
        """Write what is buffered; the stream itself stays open."""
        ...


class Reader(Protocol):
    """Reads one file; every call of ``rows`` starts at its beginning."""

    @property
    def format(self) -> str:
        """Name of the format, as ``--format`` takes it."""
        ...

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def question_field(self) -> str:
        """Field that holds the question."""
        ...

    @property
    def id_field(self) -> str | None:
        """Field that holds the id, or None where ids are made from row numbers."""
        ...

    def rows(self) -> Iterator[Row]:
        """Yield every record once, in order, holding only a few of them in memory."""
        ...

    def count(self) -> int:
        """Return the number of records."""
        ...

    def writer(self, stream: BinaryIO, layout: Layout) -> Writer:
        """Return a writer of the same format."""
        ...


@runtime_checkable
class Tabular(Protocol):
    """What a reader also has whose file names its columns once, and whose writer writes them all."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns, whatever the rows hold."""
        ...


def choose_fields(
    path: Path, found: Sequence[str], question_field: str | None, id_field: str | None
) -> tuple[str, str | None]:
    """Return the fields that hold question and id.

    Args:
        path: The file, for messages.
        found: The fields of the file; empty where none could be read.
        question_field: The user's choice; None chooses among ``QUESTION_NAMES``.
        id_field: The user's choice; None chooses among ``ID_NAMES``, or nothing.

    Raises:
        UsageError: if the file does not have the field; lists those it has.
    """
    listed = _listed(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
    for option, wanted in (("--question-field", question_field), ("--id-field", id_field)):
        if wanted is not None and found and wanted not in found:
            hint = nearest(wanted, tuple(found))
            raise UsageError(f"{path}: {option} {wanted!r} is no field of the file{hint}; it has: {listed}")
    question = question_field or next((name for name in QUESTION_NAMES if name in found), None)
    if question is None and found:
        raise UsageError(
            f"{path}: no field called {', '.join(QUESTION_NAMES[:-1])} or {QUESTION_NAMES[-1]}; "
            f"name the one with the question by --question-field; the file has: {listed}"
        )
    return question or QUESTION_NAMES[0], id_field or next((name for name in ID_NAMES if name in found), None)


def check_row(
    path: Path,
    index: int,
    line: int,
    fields: Mapping[str, Any],
    question_field: str,
    id_field: str | None,
    raw: bytes = b"",
) -> Row:
    """Return the row of a record that could be read, with an ``error`` where its question is unusable."""
    row_id, flags = _own_id(index, fields, id_field)
    value = fields.get(question_field)
    question: str | None = None
    where = f"{path.name}:{line}"
    if question_field not in fields:
        listed = _listed(islice(fields, 10))
        error = f"{where}: field {question_field!r} is missing; add it to this row, which has: {listed}"
    elif not isinstance(value, str):
        error = f"{where}: field {question_field!r} is {_kind(value)}; make it a text"
    elif not encodable(value):
        error = f"{where}: field {question_field!r} holds half of a surrogate pair; write whole characters"
    else:
        question, error = value, None
        if "\0" in value:
            error = f"{where}: field {question_field!r} has a NUL byte at character {value.find(chr(0))}; remove it"
        elif not value.strip():
            blank = "holds only white space" if value else "is empty"
            error = f"{where}: field {question_field!r} {blank}; fill it in or delete the row"
    return Row(index, row_id, question, fields, error, line, flags, raw)


def broken_row(path: Path, index: int, line: int, problem: str, raw: bytes) -> Row:
    """Return the row of a record that cannot be read at all."""
    return Row(index, _made_id(index), None, {}, f"{path.name}:{line}: {problem}", line, (), raw)


def refuse_utf16(path: Path, start: bytes) -> None:
    """Raise ``UsageError`` if a file that starts like this is UTF-16."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{path}: the file is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`")


def survey(rows: Iterable[Row], columns: Iterable[str] = (), added: Sequence[str] = RESULT_FIELDS) -> Layout:
    """Return how the added columns are called so that no field of these rows is overwritten.

    Args:
        rows: The rows that will be written.
        columns: Columns that will be written even if no row can be read, as a ``Tabular`` reader has them.
        added: The fields that will be added.
    """
    taken = set(columns)
    raw: set[str] = set()
    for row in rows:
        for name in row.fields:
            if name in _ADDED or name.startswith(_PREFIX):
                taken.add(name)
        if not row.readable:
            raw.update(raw_values(row))
    names = {name: _free(name, taken) for name in added}
    return Layout(names, {name: _free(name, taken) for name in _RAW_FIELDS if name in raw})


def raw_values(row: Row) -> dict[str, str]:
    """Return a broken record as it came: text under ``_raw``, and what is not UTF-8 under ``_raw_base64``."""
    try:
        return {"_raw": row.raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"_raw_base64": base64.b64encode(row.raw).decode("ascii")}


def _listed(names: Iterable[str]) -> str:
    """Join names for a message; half of a surrogate pair, which JSON lets through, could not be stored or shown."""
    return ", ".join(names).encode("utf-8", "backslashreplace").decode()


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = _PREFIX + name
    return name


def _own_id(index: int, fields: Mapping[str, Any], id_field: str | None) -> tuple[str, tuple[str, ...]]:
    if id_field is None:
        return _made_id(index), ()
    value = fields.get(id_field)
    usable = isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    if not usable or isinstance(value, bool) or not str(value).strip() or not encodable(str(value)):
        return _made_id(index), ("missing_id",)
    return str(value), ()


def _made_id(index: int) -> str:
    return f"row-{index + 1:06d}"


def encodable(text: str) -> bool:
    """Whether a text can be stored: JSON lets half of a surrogate pair through, UTF-8 does not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return {"list": "a list", "dict": "an object"}.get(
        type(value).__name__, f"of type {type(value).__name__}"
    )
