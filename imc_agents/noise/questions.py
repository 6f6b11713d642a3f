"""Noisy copies of question files: the question of every row changes, and nothing else does."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from imc_agents.data.registry import format_of
from imc_agents.data.rows import BOM, Reader, Row, Tabular
from imc_agents.errors import UsageError
from imc_agents.noise.apply import Done
from imc_agents.noise.output import written
from imc_agents.noise.pool import Workers
from imc_agents.noise.recipe import Recipe, Step, corrupt
from imc_agents.noise.records import csv_with, json_with

__all__ = ["CHUNK_ROWS", "apply_to_questions", "check_format"]

CHUNK_ROWS = 200
"""How many rows a worker is given at a time."""

_DELIMITERS = {"csv": ",", "tsv": "\t"}


def check_format(reader: Reader, output: Path | None) -> None:
    """Check that the format can be written, and under this name.

    Args:
        reader: The input.
        output: The file to write; None where it is named like the input.

    Raises:
        UsageError: a format of another package, or a name that promises another format.
    """
    if reader.format not in ("jsonl", "parquet", *_DELIMITERS):
        raise UsageError(
            f"{reader.path}: noise is put on jsonl, csv, tsv and parquet, and not on the format {reader.format}"
        )
    if output is not None and format_of(output) != reader.format:
        raise UsageError(f"{output}: the output is {reader.format} like the input; give it such an ending")


def apply_to_questions(
    reader: Reader, output: Path, recipe: Recipe, workers: Workers, advance: Callable[[int], None]
) -> Done:
    """Write the file with noisy questions, once for each step; the id of a row is the file's own.

    Rows without a usable question are written as they came, and named.

    Args:
        reader: The file, whose format ``check_format`` has passed.
        output: A file where the recipe has one step, else a folder.
        recipe: The steps.
        workers: Share the rows.
        advance: Told how many rows have been finished at a step.

    Raises:
        UsageError: the output cannot be written.
    """
    problems: list[str] = []
    for number, step in enumerate(recipe.steps):
        work = partial(_corrupt_chunk, recipe=recipe, step=step)
        noisy = _counted(workers.in_order(work, _chunks(reader.rows())), advance)
        # The file is read twice side by side, so that workers may be ahead and no more than a few rows are kept.
        rows = _noted(reader.rows(), problems if number == 0 else [])
        with written(output / step.folder / reader.path.name if step.folder else output) as stream:
            write = _write_parquet if reader.format == "parquet" else _write_lines
            write(reader, stream, zip(rows, noisy, strict=True))
    return Done(reader.count() - len(problems), tuple(problems))


def _chunks(rows: Iterable[Row]) -> Iterator[list[tuple[str, str | None]]]:
    """The id and the question of some rows at a time; None for a question that is not usable."""
    pairs = ((row.id, row.question if row.error is None else None) for row in rows)
    while chunk := list(islice(pairs, CHUNK_ROWS)):
        yield chunk


def _corrupt_chunk(chunk: list[tuple[str, str | None]], recipe: Recipe, step: Step) -> list[str | None]:
    return [None if text is None else corrupt(recipe, step, text, sample_id) for sample_id, text in chunk]


def _counted(chunks: Iterable[list[str | None]], advance: Callable[[int], None]) -> Iterator[str | None]:
    for chunk in chunks:
        advance(len(chunk))
        yield from chunk


def _noted(rows: Iterable[Row], problems: list[str]) -> Iterator[Row]:
    for row in rows:
        if row.error is not None:
            problems.append(row.error)
        yield row


def _write_lines(reader: Reader, stream: BinaryIO, pairs: Iterable[tuple[Row, str | None]]) -> None:
    delimiter = _DELIMITERS.get(reader.format, "")
    head, line_end = _start(reader.path, delimiter)
    stream.write(head)
    position = reader.columns.index(reader.question_field) if isinstance(reader, Tabular) else 0
    for row, text in pairs:
        if text is None:
            line = row.raw
        elif delimiter:
            line = csv_with(row.raw, position, text, delimiter)
        else:
            line = json_with(row.raw, reader.question_field, text)
        stream.write(line + line_end)


def _start(path: Path, delimiter: str) -> tuple[bytes, bytes]:
    """What precedes the first row, byte for byte, and the line end of the file."""
    with path.open("rb") as stream:
        lines: list[bytes] = []

        def decoded() -> Iterator[str]:
            for line in stream:
                lines.append(line)
                yield line.decode("utf-8-sig")

        if delimiter:
            next(csv.reader(decoded(), delimiter=delimiter, strict=True))
            head = b"".join(lines)
        else:
            lines.append(stream.readline())
            head = BOM if lines[0].startswith(BOM) else b""
    line_end = b"\r\n" if lines[-1].endswith(b"\r\n") else b"\n"
    if delimiter and not head.endswith(b"\n"):
        head += line_end  # a header and nothing else
    return head, line_end


def _write_parquet(reader: Reader, stream: BinaryIO, pairs: Iterable[tuple[Row, str | None]]) -> None:
    """Copy the file a row group at a time with another question column; a null stands for a row that stays."""
    pa, pc, pq = _arrow()
    texts = (text for _, text in pairs)
    with pq.ParquetFile(reader.path, pre_buffer=False) as source:
        schema = source.schema_arrow
        place = schema.get_field_index(reader.question_field)
        field = schema.field(place)
        with pq.ParquetWriter(stream, schema) as target:
            for group in range(source.num_row_groups):
                table = source.read_row_group(group)
                noisy = pa.array(islice(texts, table.num_rows), pa.string())
                column = pc.coalesce(noisy, table.column(place).cast(pa.string())).cast(field.type)
                target.write_table(table.set_column(place, field, column))


def _arrow() -> tuple[Any, Any, Any]:
    """Import pyarrow, which takes a while and ships no complete types, where it is needed."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    return pa, pc, pq
