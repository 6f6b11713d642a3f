"""A new question in a record of JSON lines or CSV: everything else keeps its bytes."""

from __future__ import annotations

import csv
import io
import json
import re

__all__ = ["csv_with", "json_with"]

_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def json_with(raw: bytes, field: str, text: str) -> bytes:
    """Return the JSON object with this text as the value of a field.

    Args:
        raw: A valid JSON object in UTF-8.
        field: One of its fields, whose value is a string.
        text: Written with ASCII alone where the object is.
    """
    line = raw.decode("utf-8")
    start, end = _value_span(line, field)
    value = json.dumps(text, ensure_ascii=raw.isascii())
    return (line[:start] + value + line[end:]).encode("utf-8")


def csv_with(raw: bytes, position: int, text: str, delimiter: str) -> bytes:
    """Return the record of RFC 4180 with this text in a cell, which is quoted if it was or has to be.

    Args:
        raw: A valid record in UTF-8 without its line end.
        position: Of the cell, from 0.
        text: The new text.
        delimiter: One character.
    """
    record = raw.decode("utf-8")
    cell = re.compile(rf'"(?:[^"]|"")*"|[^{re.escape(delimiter)}]*')
    start = 0
    for _ in range(position):
        found = cell.match(record, start)
        assert found is not None  # matches the empty cell too
        start = found.end() + 1
    found = cell.match(record, start)
    assert found is not None
    if found[0].startswith('"'):
        written = '"' + text.replace('"', '""') + '"'
    else:
        buffer = io.StringIO()
        # The second cell: a lone empty one would be quoted.
        csv.writer(buffer, delimiter=delimiter, lineterminator="").writerow(["", text])
        written = buffer.getvalue()[1:]
    return (record[:start] + written + record[found.end() :]).encode("utf-8")


def _value_span(line: str, field: str) -> tuple[int, int]:
    """Where the value of a field stands; of the same field twice the last counts, as for every JSON reader."""
    span = (0, 0)
    at = _skip_blank(line, line.index("{") + 1)
    while line[at] != "}":
        name, at = _DECODER.raw_decode(line, at)
        start = _skip_blank(line, _skip_blank(line, at) + 1)  # behind the colon
        _, end = _DECODER.raw_decode(line, start)
        if name == field:
            span = (start, end)
        at = _skip_blank(line, end)
        if line[at] == ",":
            at = _skip_blank(line, at + 1)
    return span


def _skip_blank(line: str, at: int) -> int:
    found = _BLANK.match(line, at)
    assert found is not None  # matches nothing too
    return found.end()
