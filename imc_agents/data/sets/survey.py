"""What a part of a copy holds, counted: questions with their images looked at, or arrays of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from imc_agents.data.sets.formats import Selection
from imc_agents.data.sets.records import DataSet, Images, Problem
from imc_agents.errors import DataError

__all__ = ["ImagePart", "QuestionPart", "survey_images", "survey_questions"]

_CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class QuestionPart:
    """One split of questions.

    Attributes:
        split: The split.
        questions: Usable questions.
        closed: Those that are closed.
        open: Those that are open.
        languages: Questions by language, where the source tells it.
        groups: Questions by group, the largest first.
        repeated: Questions that are asked about the same image once more; None without images, as it is not known.
        images: Images that are named, each once; 0 where the copy has none.
        missing: Those of them that are not there.
        unreadable: Those that are there but cannot be read.
        keys: What an image is known by in other splits; not shown.
    """

    split: str
    questions: int
    closed: int
    open: int
    languages: Mapping[str, int]
    groups: Mapping[str, int]
    repeated: int | None
    images: int
    missing: int
    unreadable: int
    keys: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One array of images with labels.

    Attributes:
        split: The split.
        corruption: The corruption, or empty.
        severity: Its severity; None for clean images, or where all five are in one file.
        labels: Name of the kind of labels, where a copy has several.
        task: What the labels mean.
        images: Images.
        shape: Of one image.
        dtype: Of the array.
        lowest: Smallest value.
        highest: Largest value.
        mean: Mean value.
        classes: Images by class or label, by its name where that is published.
        repeated: Images that are the same as an earlier one, pixel by pixel.
        keys: Digests of clean images; not shown.
    """

    split: str
    corruption: str
    severity: int | None
    labels: str
    task: str
    images: int
    shape: tuple[int, ...]
    dtype: str
    lowest: int
    highest: int
    mean: float
    classes: Mapping[str, int]
    repeated: int
    keys: frozenset[bytes] = field(repr=False)


def survey_questions(
    data: DataSet, advance: Callable[[int, int], None]
) -> tuple[QuestionPart, tuple[Problem, ...]]:
    """Count the questions of a split and read every image that they name.

    Args:
        data: The split.
        advance: Told how many images are done, and of how many.

    Returns:
        The counts, and a problem for each image that is missing or cannot be read.
    """
    samples = data.samples
    named = Counter(sample.image for sample in samples if sample.image is not None)
    asked = {(sample.question, sample.image) for sample in samples if sample.image is not None}
    problems: list[Problem] = []
    listed: dict[Path, dict[str, str]] = {}
    missing = unreadable = 0
    for number, (name, count) in enumerate(sorted(named.items()), 1):
        problem, absent = _look(data, name, count, listed)
        if problem is not None:
            problems.append(problem)
            missing, unreadable = missing + absent, unreadable + (not absent)
        advance(number, len(named))
    part = QuestionPart(
        split=data.split,
        questions=len(samples),
        closed=sum(sample.kind == "closed" for sample in samples),
        open=sum(sample.kind == "open" for sample in samples),
        languages=_counted(sample.language for sample in samples),
        groups=_counted(sample.group for sample in samples),
        repeated=sum(named.values()) - len(asked) if named else None,
        images=len(named),
        missing=missing,
        unreadable=unreadable,
        keys=frozenset(named),
    )
    return part, tuple(problems)


def survey_images(data: Images, selection: Selection, advance: Callable[[int, int], None]) -> ImagePart:
    """Count the images and labels of a part, a few images in memory at a time.

    Args:
        data: The part.
        selection: How it was chosen.
        advance: Told how many images are done, and of how many.
    """
    import numpy as np

    images = data.images
    step = max(1, _CHUNK_BYTES // max(1, images[0].nbytes))
    lowest, highest, total = 255, 0, 0
    digests: list[bytes] = []
    for start in range(0, len(images), step):
        chunk = np.ascontiguousarray(images[start : start + step])
        lowest, highest = min(lowest, int(chunk.min())), max(highest, int(chunk.max()))
        total += int(chunk.sum(dtype=np.int64))
        digests += [blake2b(image.data, digest_size=16).digest() for image in chunk]
        advance(min(start + step, len(images)), len(images))
    return ImagePart(
        split=data.split,
        corruption=data.corruption,
        severity=selection.severity,
        labels=selection.task or "",
        task=data.task,
        images=len(images),
        shape=tuple(images.shape[1:]),
        dtype=str(images.dtype),
        lowest=lowest,
        highest=highest,
        mean=round(total / images.size, 2),
        classes=_classes(data),
        repeated=len(digests) - len(set(digests)),
        keys=frozenset() if data.corruption else frozenset(digests),
    )


def _look(
    data: DataSet, name: str, count: int, listed: dict[Path, dict[str, str]]
) -> tuple[Problem | None, bool]:
    """What is wrong with an image, and whether it is missing; ``listed`` keeps folders that were listed for it."""
    from imc_agents.vision.reading import inside, read_image

    assert data.images is not None, "samples name images only where there is a folder"
    used = f"{count} question{'s name' if count > 1 else ' names'} it"
    try:
        path = inside(data.images, name)
        if not path.exists():
            other = _alike(path, listed)
            cure = f"{other!r} is there, rename one" if other else "get it again"
            return Problem(name, f"the image is missing, {used}; {cure}"), True
        read_image(path)
    except DataError as error:
        return Problem(name, f"{str(error).split(': ', 1)[-1]} ({used})"), False
    return None, False


def _alike(path: Path, listed: dict[Path, dict[str, str]]) -> str:
    """The file beside a missing one that is called as it is but for its case or suffix, if there is one."""
    folder = path.parent
    if folder not in listed:
        files = folder.iterdir() if folder.is_dir() else ()
        listed[folder] = {file.stem.casefold(): file.name for file in files}
    return listed[folder].get(path.stem.casefold(), "")


def _counted(values: Any) -> dict[str, int]:
    return dict(Counter(value for value in values if value).most_common())


def _classes(data: Images) -> dict[str, int]:
    import numpy as np

    if data.labels.ndim == 2:
        counts: Any = (data.labels == 1).sum(0)
        numbers = range(data.labels.shape[1])
    else:
        found, counts = np.unique(data.labels, return_counts=True)
        numbers = [int(number) for number in found]
        if data.classes:  # classes without an image are worth seeing too
            by_number = dict(zip(numbers, counts.tolist(), strict=True))
            numbers = sorted({*numbers, *range(len(data.classes))})
            counts = np.array([by_number.get(number, 0) for number in numbers])
    names = [data.classes[n] if 0 <= n < len(data.classes) else str(n) for n in numbers]
    return dict(zip(names, (int(count) for count in counts), strict=True))
