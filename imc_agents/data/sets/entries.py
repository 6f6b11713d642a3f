"""Files of questions and answers: read whole, and each entry made a sample or a problem, never both, never neither."""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, cast

from imc_agents.data.rows import encodable
from imc_agents.data.sets.records import DataSet, Kind, Problem, Sample
from imc_agents.errors import UsageError

__all__ = ["Entry", "Fields", "data_set", "decode_text", "kind_of", "read_entries"]

_MOST_BYTES = 512 * 2**20
_CURE_UTF16 = "convert it with `iconv -f UTF-16 -t UTF-8`"


@dataclass(frozen=True, slots=True)
class Entry:
    """One published row: where it stands, and what is there, of whatever type."""

    where: str
    value: Any


@dataclass(frozen=True, slots=True)
class Fields:
    """How a source calls what a sample needs; None where it has no such field.

    Attributes:
        id: The field with the id.
        question: The question.
        answer: The gold answer.
        image: The name of the image.
        kind: Whether the question is closed.
        group: What the question is about.
        language: Its language.
        without_image: Whether a row without an image is as it should be.
    """

    id: str | None = None
    question: str = "question"
    answer: str = "answer"
    image: str | None = None
    kind: str | None = None
    group: str | None = None
    language: str | None = None
    without_image: bool = False


def decode_text(path: Path) -> tuple[str, tuple[Problem, ...]]:
    """Return a text file in UTF-8, with or without a byte order mark.

    Returns:
        The text, and a harmless problem where there is a mark.

    Raises:
        UsageError: the file cannot be read, is empty, larger than 512 MiB, UTF-16 or not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{path}: larger than {_MOST_BYTES >> 20} MiB; split it")
    if not content.strip():
        raise UsageError(f"{path}: the file is empty; get it again")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:2]:
        raise UsageError(f"{path}: the file is UTF-16; {_CURE_UTF16}")
    problems: tuple[Problem, ...] = ()
    if content.startswith(codecs.BOM_UTF8):
        content = content.removeprefix(codecs.BOM_UTF8)
        problems = (
            Problem(path.name, "begins with a byte order mark, which is skipped; save as plain UTF-8", True),
        )
    try:
        return content.decode("utf-8"), problems
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from error


def read_entries(path: Path) -> tuple[list[Entry], tuple[Problem, ...]]:
    """Return the entries of a JSON file that holds one list, numbered from 1.

    Raises:
        UsageError: the file cannot be read, or is not a JSON list.
    """
    text, problems = decode_text(path)
    try:
        rows: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}:{error.lineno}: no JSON ({error.msg}); get the file again, or correct it there"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: no JSON that can be read ({error}); get the file again") from error
    if not isinstance(rows, list):
        held = "an object" if isinstance(rows, dict) else f"a {type(rows).__name__}"
        raise UsageError(f"{path}: holds {held}, not a list of questions; make it a JSON list")
    entries = cast("list[Any]", rows)
    return [Entry(f"{path.name}:{number}", value) for number, value in enumerate(entries, 1)], problems


def data_set(
    name: str,
    format: str,
    folder: Path,
    split: str,
    entries: Iterable[Entry],
    fields: Fields,
    *,
    images: Path | None,
    found: Iterable[Problem] = (),
) -> DataSet:
    """Make the samples of one split.

    Args:
        name: Name of the data set.
        format: Name of the format.
        folder: Where the copy lies.
        split: Its split; part of ids that have to be made.
        entries: The rows of the split.
        fields: How the source calls its fields.
        images: Folder of the images, or None: the samples then name none.
        found: Problems found before.
    """
    samples: list[Sample] = []
    problems = list(found)
    taken: Counter[str] = Counter()
    numbers: list[str] = []
    for index, entry in enumerate(entries):
        sample = _sample(entry, fields, f"{split}-{index:06d}", images is not None)
        if isinstance(sample, Problem):
            problems.append(sample)
            continue
        if not isinstance(_of(entry, fields.answer), str):
            numbers.append(entry.where)
        if fields.id is not None and not _own_id(entry, fields):
            told = f"no id in {fields.id!r}; known as {sample.id!r} by its place, add one"
            problems.append(Problem(entry.where, told))
        if sample.image is None and images is not None and fields.image and not fields.without_image:
            problems.append(Problem(entry.where, f"names no image in {fields.image!r}; correct the entry"))
        samples.append(_renamed(sample, entry, taken, problems))
    if numbers:
        count = f"{len(numbers)} answer{'s are numbers' if len(numbers) > 1 else ' is a number'}"
        problems.append(Problem(numbers[0], f"{count}, read as text; the first is here", True))
    return DataSet(name, format, folder, split, tuple(samples), images, tuple(problems))


def kind_of(published: object, answer: str) -> Kind:
    """Whether a question is closed: as published, else by an answer of yes or no."""
    named = published.strip().lower() if isinstance(published, str) else ""
    if named in ("closed", "open"):
        return "closed" if named == "closed" else "open"
    return "closed" if answer.strip().strip(".").lower() in ("yes", "no") else "open"


def _of(entry: Entry, name: str | None) -> Any:
    return entry.value.get(name) if name is not None else None


def _sample(entry: Entry, fields: Fields, made: str, with_images: bool) -> Sample | Problem:
    if not isinstance(entry.value, dict):
        return Problem(entry.where, f"no object but {_shown(entry.value)}, left out; correct the entry")
    for name in (fields.question, fields.answer):
        problem = _unusable(_of(entry, name), number=name == fields.answer)
        if problem:
            if name not in entry.value:
                listed = ", ".join(_shown(key) for key in list(cast("dict[Any, Any]", entry.value))[:10])
                problem = f"is missing; it has: {listed or 'nothing'}"
            return Problem(entry.where, f"{name!r} {problem}; left out, correct the entry")
    image = _of(entry, fields.image) if with_images else None
    if image is not None and not _inside(image):
        return Problem(
            entry.where, f"image {_shown(image)} is no path inside the image folder; left out, correct it"
        )
    answer = str(_of(entry, fields.answer))
    return Sample(
        id=_own_id(entry, fields) or made,
        question=_of(entry, fields.question),
        answer=answer,
        kind=kind_of(_of(entry, fields.kind), answer),
        image=image,
        group=_text(_of(entry, fields.group)),
        language=_text(_of(entry, fields.language)),
    )


def _own_id(entry: Entry, fields: Fields) -> str:
    """The id of the source as text; empty where there is none that can be one."""
    value = _of(entry, fields.id)
    return _text(str(value)) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _renamed(sample: Sample, entry: Entry, taken: Counter[str], problems: list[Problem]) -> Sample:
    """The sample under an id that no earlier one has."""
    taken[sample.id] += 1
    if taken[sample.id] == 1:
        return sample
    while (unique := f"{sample.id}#{taken[sample.id]}") in taken:
        taken[sample.id] += 1
    taken[unique] += 1
    problems.append(
        Problem(entry.where, f"id {sample.id!r} is there already; known as {unique!r}, make ids unique")
    )
    return replace(sample, id=unique)


def _unusable(value: object, *, number: bool) -> str:
    if isinstance(value, str):
        if not value.strip():
            return "is empty"
        return "" if encodable(value) else "holds half of a surrogate pair"
    if number and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return ""
    return f"is {_shown(value)}, no text"


def _inside(name: object) -> bool:
    if not isinstance(name, str) or not name.strip() or "\0" in name or not encodable(name):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) and encodable(value) else ""


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value)[:80]
