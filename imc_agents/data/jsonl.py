"""JSON lines: one object a line.

A written line is the line that was read with the new fields spliced in before its closing brace, so key order,
number formats, escapes and spacing of the original fields stay as they were.
"""

from __future__ import annotations

import json
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

__all__ = ["JsonlReader", "open_jsonl"]

_PEEKED_ROWS = 100


@dataclass(frozen=True, slots=True)
class JsonlReader:
    """Reads and writes JSON lines."""

    path: Path
    question_field: str
    id_field: str | None
    format: str = "jsonl"

    def rows(self) -> Iterator[Row]:
        """Yield every line as a row, empty lines too."""
        for index, (raw, whole) in enumerate(_lines(self.path)):
            if not whole:
                problem = f"the line is longer than {MAX_RECORD_BYTES // 2**20} MiB; split the record"
                yield broken_row(self.path, index, index + 1, problem, raw[:SHOWN_BYTES])
                continue
            line = raw.removesuffix(b"\n").removesuffix(b"\r")
            value, problem = _parse(line)
            if value is None:
                if not raw.endswith(b"\n") and line.strip():
                    problem = f"{problem}; the file ends in the middle of a record, write it again"
                yield broken_row(self.path, index, index + 1, problem, line)
            else:
                yield check_row(self.path, index, index + 1, value, self.question_field, self.id_field, line)

    def count(self) -> int:
        """Return the number of lines."""
        lines, last = 0, b"\n"
        with self.path.open("rb") as stream:
            while block := stream.read(2**20):
                lines += block.count(b"\n")
                last = block[-1:]
        return lines + (last != b"\n")

    def writer(self, stream: BinaryIO, layout: Layout) -> Writer:
        """Return a writer of JSON lines."""
        return _JsonlWriter(stream, layout)


@dataclass(frozen=True, slots=True)
class _JsonlWriter:
    stream: BinaryIO
    layout: Layout

    def write(self, row: Row, result: Mapping[str, Any]) -> None:
        added = {column: result[name] for name, column in self.layout.names.items()}
        if row.readable:
            body = row.raw.rstrip()[:-1].rstrip() + b", "
        else:
            kept = {self.layout.raw_names[name]: value for name, value in raw_values(row).items()}
            body, added = b"{", kept | added
        self.stream.write(body + json.dumps(added, ensure_ascii=False).encode("utf-8")[1:] + b"\n")

    def close(self) -> None:
        pass


def open_jsonl(path: Path, question_field: str | None, id_field: str | None) -> JsonlReader:
    """Open a JSON lines file.

    Raises:
        UsageError: if it is a JSON array or UTF-16, or lacks the fields.
    """
    found: dict[str, None] = {}
    for index, (raw, _) in zip(range(_PEEKED_ROWS), _lines(path), strict=False):
        if index == 0:
            refuse_utf16(path, raw)
        if index == 0 and raw.strip().startswith(b"["):
            raise UsageError(f"{path}: a JSON array, not JSON lines; convert it with `jq -c '.[]' {path}`")
        value, _ = _parse(raw)
        found.update(dict.fromkeys(value or ()))
    question, row_id = choose_fields(path, list(found), question_field, id_field)
    return JsonlReader(path, question, row_id)


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield each line with its line end, and whether it is whole: of one that is too long, only the start."""
    with path.open("rb") as stream:
        first = True
        while raw := stream.readline(MAX_RECORD_BYTES + 1):
            whole = len(raw) <= MAX_RECORD_BYTES or raw.endswith(b"\n")
            rest = raw
            while not whole and rest and not rest.endswith(b"\n"):
                rest = stream.readline(2**20)
            yield raw.removeprefix(BOM) if first else raw, whole
            first = False


def _parse(raw: bytes) -> tuple[dict[str, Any] | None, str]:
    """Return the object of a line, or None and what is wrong with the line."""
    if not raw.strip():
        return None, "the line is empty; delete it"
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return None, f"invalid UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8"
    except RecursionError:
        return None, "the JSON is nested too deeply; flatten it"
    except ValueError as error:
        if b"\0" in raw:
            return None, f"a NUL byte at byte {raw.index(0) + 1} of the line; remove it"
        reason = (
            f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        )
        return None, f"not JSON ({reason}); write one JSON object a line"
    if not isinstance(value, dict):
        return None, f"a JSON {type(value).__name__}, not an object; write one JSON object a line"
    if not value:
        return None, "the object has no fields; fill it in or delete the line"
    return cast("dict[str, Any]", value), ""
