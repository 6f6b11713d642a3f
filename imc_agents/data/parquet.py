"""Parquet: read and written a batch of rows at a time, the original columns as Arrow data that is never converted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from imc_agents.data.rows import Layout, Row, Writer, check_row, choose_fields
from imc_agents.errors import UsageError

__all__ = ["ParquetReader", "open_parquet"]

_BATCH_ROWS = 256
_GROUP_ROWS = 16_384
_GROUP_BYTES = 32 * 2**20


class _ArrowRow(Mapping[str, Any]):
    """One row of an Arrow batch as a mapping; a field is converted to Python only when it is asked for."""

    def __init__(self, batch: Any, offset: int) -> None:
        self.batch = batch
        self.offset = offset

    def __getitem__(self, name: str) -> Any:
        position = self.batch.schema.get_field_index(name)
        if position < 0:
            raise KeyError(name)
        cell = self.batch.column(position)[self.offset]
        try:
            return cell.as_py()
        except UnicodeDecodeError:
            # Arrow does not check text on reading; a lone surrogate makes `check_row` report the field.
            return cell.cast("binary").as_py().decode("utf-8", "surrogateescape")
        except (ValueError, OverflowError):
            # Some dates and times have no Python counterpart; the scalar itself is neither an id nor a question.
            return cell

    def __iter__(self) -> Iterator[str]:
        return iter(self.batch.schema.names)

    def __len__(self) -> int:
        return self.batch.num_columns


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """Reads and writes Parquet."""

    path: Path
    question_field: str
    id_field: str | None
    columns: tuple[str, ...]
    format: str = "parquet"

    def rows(self) -> Iterator[Row]:
        """Yield every row.

        Raises:
            UsageError: if a row group is damaged.
        """
        pa, _ = _arrow()
        index = 0
        with _file(self.path) as file:
            try:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    for offset in range(batch.num_rows):
                        fields = _ArrowRow(batch, offset)
                        yield check_row(
                            self.path, index, index + 1, fields, self.question_field, self.id_field
                        )
                        index += 1
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UsageError(
                    f"{self.path}: damaged behind row {index} ({reason}); write it again"
                ) from error

    def count(self) -> int:
        """Return the number of rows."""
        with _file(self.path) as file:
            return int(file.metadata.num_rows)

    def writer(self, stream: BinaryIO, layout: Layout) -> Writer:
        """Return a writer with the columns and the metadata of the file that is read."""
        pa, pq = _arrow()
        types = {
            "changed": pa.bool_(),
            "flags": pa.list_(pa.string()),
            "confidence": pa.float64(),
            "image_severity": pa.int64(),
            "image_probability": pa.float64(),
        }
        with _file(self.path) as file:
            schema = file.schema_arrow
            for name, column in layout.names.items():
                schema = schema.append(pa.field(column, types.get(name, pa.string())))
        return _ParquetWriter(schema, tuple(layout.names), pq.ParquetWriter(stream, schema))


@dataclass(slots=True)
class _ParquetWriter:
    schema: Any
    added: tuple[str, ...]
    target: Any
    batches: list[Any] = field(default_factory=list[Any])
    waiting: list[tuple[_ArrowRow, Mapping[str, Any]]] = field(
        default_factory=list[tuple[_ArrowRow, Mapping[str, Any]]]
    )

    def write(self, row: Row, result: Mapping[str, Any]) -> None:
        assert isinstance(row.fields, _ArrowRow)
        if self.waiting and self.waiting[0][0].batch is not row.fields.batch:
            self._join()
        self.waiting.append((row.fields, result))

    def close(self) -> None:
        self._join()
        self._flush()
        self.target.close()

    def _join(self) -> None:
        """Put the waiting rows, which come from one batch, together with their results."""
        pa, _ = _arrow()
        if not self.waiting:
            return
        offsets = pa.array([fields.offset for fields, _ in self.waiting])
        kept = self.waiting[0][0].batch.take(offsets)
        added = [
            pa.array([result[name] for _, result in self.waiting], type=self.schema.field(position).type)
            for position, name in enumerate(self.added, start=kept.num_columns)
        ]
        self.batches.append(pa.RecordBatch.from_arrays([*kept.columns, *added], schema=self.schema))
        self.waiting.clear()
        rows = sum(batch.num_rows for batch in self.batches)
        if rows >= _GROUP_ROWS or sum(batch.nbytes for batch in self.batches) >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        pa, _ = _arrow()
        if self.batches:
            self.target.write_table(pa.Table.from_batches(self.batches))
            self.batches.clear()


def open_parquet(path: Path, question_field: str | None, id_field: str | None) -> ParquetReader:
    """Open a Parquet file.

    Raises:
        UsageError: if it is no Parquet file, is truncated, or lacks the fields.
    """
    with _file(path) as file:
        names = list(file.schema_arrow.names)
    question, row_id = choose_fields(path, names, question_field, id_field)
    return ParquetReader(path, question, row_id, tuple(names))


def _file(path: Path) -> Any:
    pa, pq = _arrow()
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: not a whole Parquet file ({reason}); write it again") from error


def _arrow() -> tuple[Any, Any]:
    """Import pyarrow, which takes a while and ships no complete types, where it is needed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa, pq
