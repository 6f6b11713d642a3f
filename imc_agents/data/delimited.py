"""CSV per RFC 4180, with fields over several lines, and TSV: the same with tabs.

A written record is the record that was read with cells appended, so the quoting of the original cells stays as it
was.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from imc_agents.data.rows import (
    BOM,
    MAX_RECORD_BYTES,
    SHOWN_BYTES,
    Layout,
    Row,
    Writer,
    broken_row,
    check_row,
    choose_fields,
    raw_values,
    refuse_utf16,
)
from imc_agents.errors import UsageError

__all__ = ["DelimitedReader", "open_csv", "open_tsv"]

_UNCLOSED = (
    "a quote is opened on this line and never closed as it should be; close it, or double a literal quote"
)


@dataclass(frozen=True, slots=True)
class _Record:
    """One record: its cells, or None and the problem; ``raw`` is without the line end."""

    line: int
    raw: bytes
    cells: list[str] | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DelimitedReader:
    """Reads and writes CSV and TSV."""

    path: Path
    question_field: str
    id_field: str | None
    format: str
    delimiter: str
    columns: tuple[str, ...]

    def rows(self) -> Iterator[Row]:
        """Yield every record below the header as a row, empty lines too."""
        records = _records(self.path, self.delimiter)
        header = next(records).cells or []
        for index, record in enumerate(records):
            cells, problem = record.cells, record.problem
            if cells is not None and len(cells) != len(header):
                if not record.raw.strip():
                    problem = "the line is empty; delete it"
                else:
                    mark = "tabs" if self.delimiter == "\t" else "commas"
                    problem = (
                        f"{len(cells)} cells where the header has {len(header)}; quote cells with {mark}"
                    )
                cells = None
            if cells is None:
                yield broken_row(self.path, index, record.line, problem, record.raw)
                continue
            fields = dict(zip(header, cells, strict=True))
            yield check_row(
                self.path, index, record.line, fields, self.question_field, self.id_field, record.raw
            )

    def count(self) -> int:
        """Return the number of records below the header."""
        return sum(1 for _ in _records(self.path, self.delimiter)) - 1

    def writer(self, stream: BinaryIO, layout: Layout) -> Writer:
        """Return a writer with the same header, delimiter and line end."""
        with self.path.open("rb") as source:
            first = source.readline()
            bom = BOM if first.startswith(BOM) else b""
        line_end = b"\r\n" if first.endswith(b"\r\n") else b"\n"
        header = next(_records(self.path, self.delimiter))
        columns = [*layout.names.values(), *layout.raw_names.values()]
        stream.write(bom + header.raw + _cells(columns, self.delimiter) + line_end)
        return _DelimitedWriter(stream, layout, self.delimiter, line_end, len(header.cells or []))


@dataclass(frozen=True, slots=True)
class _DelimitedWriter:
    stream: BinaryIO
    layout: Layout
    delimiter: str
    line_end: bytes
    width: int

    def write(self, row: Row, result: Mapping[str, Any]) -> None:
        added = [_cell(result[name]) for name in self.layout.names]
        if row.readable:
            raw = row.raw
            kept = dict[str, str]()
        else:
            raw = self.delimiter.encode() * (self.width - 1)
            kept = raw_values(row)
        added += [kept.get(name, "") for name in self.layout.raw_names]
        self.stream.write(raw + _cells(added, self.delimiter) + self.line_end)

    def close(self) -> None:
        pass


def _open(
    path: Path, question_field: str | None, id_field: str | None, format: str, delimiter: str
) -> DelimitedReader:
    header = next(_records(path, delimiter), None)
    if header is not None:
        refuse_utf16(path, header.raw)
    if header is None or not header.cells:
        problem = header.problem if header is not None and header.problem else "the line is empty"
        raise UsageError(f"{path}:1: no header with the names of the columns ({problem}); add one")
    question, row_id = choose_fields(path, header.cells, question_field, id_field)
    for name in (question, row_id):
        if name is not None and header.cells.count(name) > 1:
            raise UsageError(f"{path}:1: column {name!r} is there twice; rename one")
    return DelimitedReader(path, question, row_id, format, delimiter, tuple(header.cells))


def open_csv(path: Path, question_field: str | None, id_field: str | None) -> DelimitedReader:
    """Open a CSV file.

    Raises:
        UsageError: if it has no header, is UTF-16, or lacks the fields.
    """
    return _open(path, question_field, id_field, "csv", ",")


def open_tsv(path: Path, question_field: str | None, id_field: str | None) -> DelimitedReader:
    """Open a file of tab-separated values.

    Raises:
        UsageError: if it has no header, is UTF-16, or lacks the fields.
    """
    return _open(path, question_field, id_field, "tsv", "\t")


class _TooLongError(Exception):
    """A record is longer than MAX_RECORD_BYTES."""


class _Lines:
    """Feeds lines to ``csv.reader`` and remembers those of the current record.

    Bytes that are not UTF-8 pass through as lone surrogates (``surrogateescape``), so that they cost one row only.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = self._second_line = 0
        self.next_line = 1
        self.begin()

    def begin(self) -> None:
        """Start a new record."""
        self.line = self.next_line
        self.raw: list[bytes] = []
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(MAX_RECORD_BYTES + 1)
        if not raw:
            raise StopIteration
        first = self._offset == 0
        self._offset += len(raw)
        self.next_line += 1
        self.raw.append(raw.removeprefix(BOM) if first else raw)
        self.size += len(raw)
        too_long = self.size > MAX_RECORD_BYTES
        if too_long:
            self._skip_line(raw)
        if len(self.raw) == 1:
            self._second_line = self._offset
        if too_long:
            raise _TooLongError
        return self.raw[-1].decode("utf-8", "surrogateescape")

    def back_to_second_line(self) -> None:
        """Give back all lines of the record but its first."""
        self._offset = self._stream.seek(self._second_line)
        self.next_line = self.line + 1
        del self.raw[1:]

    def _skip_line(self, raw: bytes) -> None:
        while raw and not raw.endswith(b"\n"):
            raw = self._stream.readline(2**20)
            self._offset += len(raw)


def _records(path: Path, delimiter: str) -> Iterator[_Record]:
    """Yield all records, the header first; a stray quote costs the line it is on, not the rest of the file."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    with path.open("rb") as stream:
        lines = _Lines(stream)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            lines.begin()
            cells: list[str] | None = None
            problem = ""
            try:
                cells = next(reader)
            except StopIteration:
                return
            except _TooLongError:
                problem = f"the record is longer than {MAX_RECORD_BYTES // 2**20} MiB; split it"
                if len(lines.raw) == 1:
                    lines.raw[0] = lines.raw[0][:SHOWN_BYTES]
            except csv.Error as error:
                problem = f"not CSV ({error}); quote the cell, and double the quotes inside it"
            if cells is None and (len(lines.raw) > 1 or "end of data" in problem):
                lines.back_to_second_line()
                problem = _UNCLOSED
            raw = b"".join(lines.raw).removesuffix(b"\n").removesuffix(b"\r")
            if cells is not None and (at := _first_bad_byte(raw)) is not None:
                cells, problem = None, f"invalid UTF-8 at byte {at + 1} of the record; save the file as UTF-8"
            yield _Record(lines.line, raw, cells, problem)


def _first_bad_byte(raw: bytes) -> int | None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ";".join(cast("list[str]", value)) if isinstance(value, list) else str(value)


def _cells(values: list[str], delimiter: str) -> bytes:
    """Return the cells as they follow others on a line."""
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator="\r\n").writerow(["", *values])
    return line.getvalue().removesuffix("\r\n").encode("utf-8")
