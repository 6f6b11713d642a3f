"""Questions as Hugging Face keeps them: ``hf:owner/name``, a folder of ``save_to_disk``, or Parquet files of splits.

Parquet files are read with pyarrow. The other two need the library ``datasets``, which is not installed with imc; it
looks into its cache, then at the hub, and runs no code of a data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from imc_agents.data.rows import ID_NAMES
from imc_agents.data.sets.entries import Entry, Fields, data_set
from imc_agents.data.sets.formats import QuestionFormat, choose
from imc_agents.data.sets.parquet import parquet_entries, parquet_shards, unpack_image
from imc_agents.data.sets.records import DataSet
from imc_agents.errors import UsageError

__all__ = ["FORMAT", "HUB_PREFIX"]

HUB_PREFIX = "hf:"
"""What a path begins with that is a name on the hub."""

_NAME = "hub"
_SAVED = ("dataset_dict.json", "state.json")
_IDS = (*ID_NAMES, "question_id")


def _splits(path: Path) -> tuple[str, ...]:
    if _online(path) is None and not _saved(path):
        return tuple(parquet_shards(path))
    return tuple(_loaded(path))


def _open(path: Path, split: str | None, unpack: Path | None) -> DataSet:
    name = _online(path)
    if name is None and not _saved(path):
        shards = parquet_shards(path)
        split = choose("split", split, tuple(shards), path, default="test")
        rows: Iterator[Entry] = parquet_entries(shards[split], unpack)
    else:
        loaded = _loaded(path)
        split = choose("split", split, tuple(loaded), path, default="test")
        rows = _library_entries(loaded[split], split, unpack)
    first = next(rows, None)
    if first is None:
        raise UsageError(f"{path}: the split {split!r} has no rows; get it again")
    entries: Iterable[Entry] = chain([first], rows)
    called = name.rsplit("/", 1)[-1] if name else path.resolve().name
    return data_set(called, _NAME, path, split, entries, _fields(first.value), images=unpack)


def _fields(row: dict[str, Any]) -> Fields:
    own = next((name for name in _IDS if name in row), None)
    return Fields(id=own, image="image", kind="answer_type", group="location", language="q_lang")


def _online(path: Path) -> str | None:
    text = str(path)
    return text.removeprefix(HUB_PREFIX) if text.startswith(HUB_PREFIX) else None


def _saved(path: Path) -> bool:
    return any((path / name).is_file() for name in _SAVED)


def _loaded(path: Path) -> dict[str, Any]:
    """The splits by name, images undecoded."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            f"{path}: reading this needs the library datasets; `pip install datasets`, or name Parquet files"
        ) from None
    library: Any = datasets
    name = _online(path)
    try:
        found = library.load_dataset(name) if name else library.load_from_disk(str(path))
    except Exception as error:  # the library raises what its storage, parsers and HTTP client raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{path}: cannot be loaded ({reason}); check name, cache and network") from error
    splits: dict[str, Any] = (
        dict(found) if isinstance(found, library.DatasetDict) else {str(found.split or "all"): found}
    )
    plain = library.Image(decode=False)
    return {
        split: rows.cast_column("image", plain)
        if isinstance(rows.features.get("image"), library.Image)
        else rows
        for split, rows in splits.items()
    }


def _library_entries(rows: Any, split: str, unpack: Path | None) -> Iterator[Entry]:
    for number, row in enumerate(rows, 1):
        image: dict[str, Any] = row["image"] if isinstance(row.get("image"), dict) else {}
        content, file = image.get("bytes"), image.get("path")
        if content is None and file and unpack is not None:
            content = Path(file).read_bytes()
        name = unpack_image(content, unpack) if content is not None and unpack is not None else None
        yield Entry(f"{split}:{number}", {**row, "image": name})


def _recognises(path: Path) -> bool:
    return _online(path) is not None or _saved(path) or bool(parquet_shards(path))


FORMAT = QuestionFormat(
    _NAME, "hf:owner/name, a folder of save_to_disk, or {split}-*.parquet", _recognises, _splits, _open
)
