"""The questions of a text benchmark: distinct, in an order that depends on nothing but their text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from imc_agents.bench.errata import errata
from imc_agents.errors import UsageError, nearest

__all__ = ["DATASETS", "Question", "default_data", "load_questions", "parse_data"]

DATASETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "vqa-rad": ("vqa_rad", ("testset.json", "trainset.json")),
    "slake": ("slake", ("validate.json", "train.json")),
}
"""Data set -> folder, and its files; later files only add questions when the earlier ones have too few."""


@dataclass(frozen=True, slots=True)
class Question:
    """One published question.

    Attributes:
        dataset: Name of the data set.
        id: First sixteen hex digits of the SHA-256 of its text, so that it survives any reordering of the files.
        text: The question, byte for byte as published.
        erratum: Whether it contains a slip of its own.
    """

    dataset: str
    id: str
    text: str
    erratum: bool


def default_data() -> dict[str, Path]:
    """Return the data folders below ``$IMC_SHARED/data`` (default ``../shared/data``) that are there."""
    root = Path(os.environ.get("IMC_SHARED", "../shared")) / "data"
    places = {name: root / folder for name, (folder, _) in DATASETS.items()}
    return {name: place for name, place in places.items() if place.is_dir()}


def parse_data(arguments: Iterable[str]) -> dict[str, Path]:
    """Read ``name=PATH`` arguments; a path is a folder of the published files, or one file.

    Raises:
        UsageError: for a form, a data set or a path that cannot be used.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        name, equals, place = argument.partition("=")
        if not equals or not place:
            raise UsageError(f"--data {argument!r}: write it as name=PATH, e.g. vqa-rad=data/vqa_rad")
        if name not in DATASETS:
            hint = nearest(name, list(DATASETS)) or f"; known: {', '.join(DATASETS)}"
            raise UsageError(f"--data {argument!r}: unknown data set {name!r}{hint}")
        found[name] = Path(place)
        if not found[name].exists():
            raise UsageError(f"--data {argument!r}: {place} does not exist")
    return found


def load_questions(dataset: str, place: Path, limit: int | None = None) -> list[Question]:
    """Return distinct English questions of a data set.

    Questions that differ in case or white space only count as one. Each file is ordered by the hash of the
    questions, so a limit takes a sample that is fixed for good.

    Raises:
        UsageError: if no file is there or one is not what the data set publishes.
    """
    files = [place] if place.is_file() else [place / name for name in DATASETS[dataset][1]]
    files = [file for file in files if file.is_file()]
    if not files:
        raise UsageError(
            f"no questions of {dataset} in {place}: expected {' or '.join(DATASETS[dataset][1])}"
        )
    slips = errata(dataset)
    chosen: list[Question] = []
    seen: set[str] = set()
    for file in files:
        fresh: list[Question] = []
        for text in _questions(file):
            key = " ".join(text.casefold().split())
            if key and key not in seen:
                seen.add(key)
                identity = sha256(text.encode()).hexdigest()[:16]
                fresh.append(Question(dataset, identity, text, slips.holds(text)))
        chosen += sorted(fresh, key=lambda question: question.id)
    return chosen if limit is None else chosen[:limit]


def _questions(file: Path) -> Iterator[str]:
    try:
        rows: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(rows, list):
        raise UsageError(f"{file}: expected a JSON list of questions, found {type(rows).__name__}")
    for number, row in enumerate(cast(list[Any], rows), start=1):
        fields = cast(dict[str, Any], row) if isinstance(row, dict) else {}
        question = fields.get("question")
        if not isinstance(question, str):
            raise UsageError(f"{file}: entry {number} has no text in 'question'")
        if fields.get("q_lang", "en") == "en":
            yield question
