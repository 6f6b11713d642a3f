"""A copy of a data set, looked through: what it holds, split by split, and all that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

from imc_agents.data.sets.formats import ImageFormat, QuestionFormat, Selection, choose
from imc_agents.data.sets.records import Problem
from imc_agents.data.sets.registry import format_at
from imc_agents.data.sets.survey import ImagePart, QuestionPart, survey_images, survey_questions
from imc_agents.errors import UsageError

__all__ = ["Advance", "Checked", "check_copy"]

Advance = Callable[[str, int, int], None]
"""Told which part is looked at, and how many of how many images are done."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in a copy.

    Attributes:
        path: As it was named.
        format: The format that it was read as.
        name: Name of the data set.
        parts: What it holds.
        problems: What is wrong.
        notes: What reading made up for, and what is worth knowing.
    """

    path: Path
    format: str
    name: str
    parts: tuple[QuestionPart | ImagePart, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


def check_copy(
    path: Path,
    format: str | None = None,
    split: str | None = None,
    *,
    advance: Advance | None = None,
) -> Checked:
    """Look through a copy of a data set, every image of it.

    Args:
        path: The copy.
        format: Name of its format; None goes by what is there.
        split: Look at this split only.
        advance: Told of the progress.

    Raises:
        UsageError: the format or the split is not known, or no part of the copy can be used.
    """
    found = format_at(path, format)
    tell = advance or _silent
    if isinstance(found, QuestionFormat):
        name, parts, problems = _questions(path, found, split, tell)
    else:
        name, parts, problems = _arrays(path, found, split, tell)
    # A damaged image is found once with each kind of labels.
    ordered = dict.fromkeys((*problems, *_shared(parts)))
    return Checked(
        path,
        found.name,
        name,
        tuple(parts),
        tuple(problem for problem in ordered if not problem.harmless),
        tuple(problem for problem in ordered if problem.harmless),
    )


def _silent(part: str, done: int, total: int) -> None:
    """Tell nobody of the progress."""


def _questions(
    path: Path, format: QuestionFormat, split: str | None, advance: Advance
) -> tuple[str, list[QuestionPart], list[Problem]]:
    held = format.splits(path)
    # Without any split, opening the copy tells what is wrong with it.
    wanted: Sequence[str | None] = held or (None,)
    if split is not None and held:
        wanted = (choose("split", split, held, path),)
    name, parts, problems = "", list[QuestionPart](), list[Problem]()
    errors: list[UsageError] = []
    for part in wanted:
        with TemporaryDirectory(prefix="imc-check-") as unpacked:
            try:
                data = format.open(path, part, Path(unpacked))
            except UsageError as error:
                errors.append(error)
                continue
            name = data.name
            counted, wrong = survey_questions(
                data, lambda done, total, now=data.split: advance(now, done, total)
            )
        problems += [*data.problems, *wrong]
        if data.samples:
            parts.append(counted)
        if data.images is None and not any(problem.where == "images" for problem in problems):
            problems.append(Problem("images", "none are here; questions are read without", True))
    return name, parts, _with_errors(path, parts, problems, errors)


def _arrays(
    path: Path, format: ImageFormat, split: str | None, advance: Advance
) -> tuple[str, list[ImagePart], list[Problem]]:
    held = format.parts(path)
    wanted: Sequence[Selection] = held or (Selection(split),)
    if split is not None and held:
        splits = tuple(dict.fromkeys(part.split for part in held if part.split is not None))
        chosen = choose("split", split, splits, path)
        wanted = [part for part in held if part.split == chosen]
    name, parts, problems = "", list[ImagePart](), list[Problem]()
    errors: list[UsageError] = []
    for part in wanted:
        label = " ".join(
            str(value) for value in (part.split, part.corruption, part.severity, part.task) if value
        )
        try:
            data = format.open(path, part)
        except UsageError as error:
            errors.append(error)
            continue
        name = data.name
        parts.append(survey_images(data, part, lambda done, total, now=label: advance(now, done, total)))
        problems += data.problems
    return name, parts, _with_errors(path, parts, problems, errors)


def _with_errors(
    path: Path,
    parts: Sequence[QuestionPart | ImagePart],
    problems: list[Problem],
    errors: Sequence[UsageError],
) -> list[Problem]:
    """Parts that cannot be used are problems; where nothing can, the copy is unusable."""
    if not parts:
        if errors:
            raise errors[0]
        first = problems[0] if problems else Problem(str(path), "no questions; get the copy again")
        raise UsageError(f"{path}: nothing here can be used; {first.where}: {first.what}")
    told = [str(error).removeprefix(f"{path}/").split(": ", 1) for error in errors]
    return [*(Problem(place[0], place[-1]) for place in told), *problems]


def _shared(parts: Sequence[QuestionPart | ImagePart]) -> list[Problem]:
    """Images that are in two splits: whoever trains on one of them knows part of the other."""
    by_split = {part.split: part for part in parts if isinstance(part, QuestionPart) or not part.corruption}
    found: list[Problem] = []
    for one, other in combinations(by_split.values(), 2):
        both = len({*one.keys} & {*other.keys})
        if both:
            what = f"{both:,} images are in both splits; divide by image when you train"
            found.append(Problem(f"{one.split}, {other.split}", what, True))
    return found
