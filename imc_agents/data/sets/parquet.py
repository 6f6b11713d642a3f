"""Parquet files of questions as Hugging Face publishes them: ``{split}-00000-of-00003.parquet`` with images inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from imc_agents.data.sets.entries import Entry
from imc_agents.errors import UsageError

__all__ = ["parquet_entries", "parquet_shards", "unpack_image"]

_BATCH_ROWS = 64
_SUFFIXES = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"RIFF", ".webp"),
)


def parquet_shards(folder: Path) -> Mapping[str, tuple[Path, ...]]:
    """Return the Parquet files of each split, by their names, from the folder or its ``data/``."""
    found: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):
        for file in sorted(place.glob("*.parquet")):
            found.setdefault(file.stem.split("-")[0], []).append(file)
    return {split: tuple(files) for split, files in found.items()}


def parquet_entries(files: tuple[Path, ...], unpack: Path | None) -> Iterator[Entry]:
    """Yield the rows of the files, few of them in memory at a time.

    Args:
        files: The shards of one split, in order.
        unpack: Folder that images inside the file are written to; without it ``image`` is None.

    Raises:
        UsageError: a file is damaged, or is no Parquet.
    """
    import pyarrow
    from pyarrow import parquet

    pa: Any = pyarrow
    pq: Any = parquet
    for file in files:
        number = 0
        try:
            with pq.ParquetFile(file) as reader:
                for batch in reader.iter_batches(batch_size=_BATCH_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield Entry(f"{file.name}:{number}", row | _image(row.get("image"), unpack))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"{file}: damaged behind row {number}, or no Parquet ({reason}); get it again"
            ) from error


def unpack_image(content: bytes, folder: Path) -> str:
    """Write an image under a name made of its content, once, and return the name."""
    suffix = next((suffix for start, suffix in _SUFFIXES if content.startswith(start)), ".img")
    name = sha256(content).hexdigest()[:24] + suffix
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
    return name


def _image(value: Any, unpack: Path | None) -> dict[str, Any]:
    """The field ``image`` as a sample can take it: images inside the file become names of files."""
    if value is None or isinstance(value, str):
        return {}
    held = cast("dict[str, Any]", value) if isinstance(value, dict) else {"bytes": value}
    content = held.get("bytes")
    if unpack is None or not isinstance(content, bytes):
        return {"image": None}
    return {"image": unpack_image(content, unpack)}
