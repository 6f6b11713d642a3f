"""SLAKE (Liu et al. 2021): ``train.json``, ``validate.json``, ``test.json`` in English and Chinese, and ``imgs/``."""

from __future__ import annotations

from pathlib import Path

from imc_agents.data.sets.entries import Fields, data_set, read_entries
from imc_agents.data.sets.formats import QuestionFormat, choose
from imc_agents.data.sets.records import DataSet

__all__ = ["FORMAT"]

_NAME = "slake"
_SPLITS = ("train", "validate", "test")
_FIELDS = Fields(id="qid", image="img_name", kind="answer_type", group="location", language="q_lang")
_PEEKED = 4096


def _splits(path: Path) -> tuple[str, ...]:
    return tuple(split for split in _SPLITS if (path / f"{split}.json").is_file())


def _open(path: Path, split: str | None, unpack: Path | None) -> DataSet:  # noqa: ARG001
    split = choose("split", split, _splits(path), path, default="test")
    entries, problems = read_entries(path / f"{split}.json")
    images = path / "imgs"
    return data_set(
        _NAME,
        _NAME,
        path,
        split,
        entries,
        _FIELDS,
        images=images if images.is_dir() else None,
        found=problems,
    )


def _recognises(path: Path) -> bool:
    """Many data sets have a ``train.json``; that of SLAKE names images in its first entry as no other does."""
    for split in _splits(path):
        with (path / f"{split}.json").open("rb") as stream:
            if b'"img_name"' in stream.read(_PEEKED):
                return True
    return False


FORMAT = QuestionFormat(
    _NAME, "train.json, validate.json and test.json beside imgs/", _recognises, _splits, _open
)
