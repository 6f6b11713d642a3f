"""VQA-RAD (Lau et al. 2018): ``trainset.json``, ``testset.json`` and ``images/``, or the single file as on OSF."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from imc_agents.data.sets.entries import Entry, Fields, data_set, read_entries
from imc_agents.data.sets.formats import QuestionFormat, choose
from imc_agents.data.sets.records import DataSet
from imc_agents.errors import UsageError

__all__ = ["FORMAT"]

_NAME = "vqa-rad"
_FILES = {"train": "trainset.json", "test": "testset.json"}
_WHOLE = "VQA_RAD Dataset Public.json"
_IMAGES = ("images", "VQA_RAD Image Folder")
_FIELDS = Fields(id="qid", image="image_name", kind="answer_type", group="image_organ")


def _splits(path: Path) -> tuple[str, ...]:
    if (path / _WHOLE).is_file():
        return tuple(_FILES)
    return tuple(split for split, file in _FILES.items() if (path / file).is_file())


def _open(path: Path, split: str | None, unpack: Path | None) -> DataSet:  # noqa: ARG001
    split = choose("split", split, _available(path), path, default="test")
    whole = path / _WHOLE
    if whole.is_file():
        entries, problems = read_entries(whole)
        entries = [entry for entry in entries if _is_test(entry) == (split == "test")]
    else:
        entries, problems = read_entries(path / _FILES[split])
    images = next((path / name for name in _IMAGES if (path / name).is_dir()), None)
    return data_set(_NAME, _NAME, path, split, entries, _FIELDS, images=images, found=problems)


def _available(path: Path) -> tuple[str, ...]:
    found = _splits(path)
    if not found:
        raise UsageError(
            f"{path}: none of {', '.join(_FILES.values())} or {_WHOLE!r} is here; name their folder"
        )
    return found


def _is_test(entry: Entry) -> bool:
    """The single file marks the questions of the test split by the type of their phrasing, e.g. ``test_para``."""
    row = cast("dict[str, Any]", entry.value) if isinstance(entry.value, dict) else {}
    phrase = row.get("phrase_type")
    return isinstance(phrase, str) and phrase.strip().startswith("test")


FORMAT = QuestionFormat(
    _NAME,
    "trainset.json and testset.json, or 'VQA_RAD Dataset Public.json', beside images/",
    lambda path: bool(_splits(path)),
    _splits,
    _open,
)
