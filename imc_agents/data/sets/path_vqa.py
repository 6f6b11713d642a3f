"""PathVQA (He et al. 2020): Parquet with the images inside, or ``qas/`` as JSON beside ``images/{split}/``.

The authors publish the questions as pickles. Loading one runs what it holds, so those are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from imc_agents.data.sets.entries import Entry, Fields, data_set, read_entries
from imc_agents.data.sets.formats import QuestionFormat, choose
from imc_agents.data.sets.parquet import parquet_entries, parquet_shards
from imc_agents.data.sets.records import DataSet
from imc_agents.errors import UsageError

__all__ = ["FORMAT"]

_NAME = "path-vqa"
_SPLITS = ("train", "val", "test")
_FIELDS = Fields(image="image")
_CONVERT = (
    "import json, pickle; json.dump(pickle.load(open('{split}_qa.pkl', 'rb')), open('{split}_qa.json', 'w'))"
)


def _json(path: Path, split: str) -> Path | None:
    names = (f"{split}/{split}_qa.json", f"{split}_qa.json", f"{split}.json")
    return next((file for name in names if (file := path / "qas" / name).is_file()), None)


def _pickles(path: Path) -> list[Path]:
    return sorted((path / "qas").glob("**/*_qa.pkl")) if (path / "qas").is_dir() else []


def _splits(path: Path) -> tuple[str, ...]:
    return tuple(parquet_shards(path)) or tuple(split for split in _SPLITS if _json(path, split))


def _open(path: Path, split: str | None, unpack: Path | None) -> DataSet:
    available = _splits(path)
    if not available and (found := _pickles(path)):
        code = _CONVERT.format(split=found[0].stem.removesuffix("_qa"))
        raise UsageError(
            f"{found[0]}: a Python pickle, which can run code and is never loaded; where you trust it, convert it: "
            f'python -c "{code}"'
        )
    split = choose("split", split, available, path, default="test")
    shards = parquet_shards(path).get(split)
    if shards:
        entries: Iterable[Entry] = parquet_entries(shards, unpack)
        return data_set(_NAME, _NAME, path, split, entries, _FIELDS, images=unpack)
    file = _json(path, split)
    assert file is not None, "choose returns one of the splits that have a file"
    rows, problems = read_entries(file)
    images = path / "images"
    held = _by_stem(images) if images.is_dir() else None
    entries = rows if held is None else _with_files(rows, held, split)
    return data_set(
        _NAME, _NAME, path, split, entries, _FIELDS, images=None if held is None else images, found=problems
    )


def _by_stem(images: Path) -> dict[str, str]:
    """Paths below the folder by their names without suffix: the questions name images without one."""
    return {
        file.with_suffix("").relative_to(images).as_posix(): file.relative_to(images).as_posix()
        for file in sorted(images.glob("**/*"))
        if file.is_file()
    }


def _with_files(rows: Iterable[Entry], held: dict[str, str], split: str) -> Iterator[Entry]:
    for row in rows:
        fields = cast("dict[str, Any]", row.value) if isinstance(row.value, dict) else {}
        name = fields.get("image")
        if not isinstance(name, str):
            yield row
            continue
        names = (f"{split}/{name}", name, f"{split}/{Path(name).stem}", Path(name).stem)
        file = next((held[stem] for stem in names if stem in held), f"{split}/{name}")
        yield replace(row, value={**fields, "image": file})


def _recognises(path: Path) -> bool:
    return bool(_pickles(path)) or any(_json(path, split) for split in _SPLITS)


FORMAT = QuestionFormat(
    _NAME,
    "data/{split}-*.parquet, or qas/{split}/{split}_qa.json beside images/{split}/",
    _recognises,
    _splits,
    _open,
)
