"""What every reader of a data set returns: questions about images, or arrays of images with labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DataSet", "Images", "Kind", "Problem", "Sample", "Task"]

Kind = Literal["closed", "open"]
"""Whether a question has a short list of answers, such as yes and no."""

Task = Literal["binary-class", "multi-class", "multi-label, binary-class", "ordinal-regression"]
"""What the labels of an array mean, in the words of MedMNIST."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about an image.

    Attributes:
        id: Unique within the data set; the source's own id where it has one, so that it survives reordering.
        question: The question, as published.
        answer: The gold answer, as published; a number as text.
        kind: By the published type of the answer; where there is none, closed when the answer is yes or no.
        image: Path below ``DataSet.images``; None where the copy holds no image file for it.
        group: E.g. organ, modality or type of question; empty where the source has none.
        language: Code such as ``en`` where the source tells it, else empty.
    """

    id: str
    question: str
    answer: str
    kind: Kind
    image: str | None
    group: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a copy.

    Attributes:
        where: The file, and the entry where it is about one, e.g. ``testset.json:12``.
        what: One line with the cure.
        harmless: Whether reading made up for it, so that nothing is lost.
    """

    where: str
    what: str
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class DataSet:
    """One split of a data set of questions.

    Attributes:
        name: Name for tables and seeds, e.g. ``vqa-rad``.
        format: The format that it was read as.
        folder: Where the copy lies.
        split: The split.
        samples: Its questions; every published row is here or among the problems.
        images: Folder that ``Sample.image`` is relative to; None where the copy has no images.
        problems: Rows that could not be used, and other faults of the copy.
    """

    name: str
    format: str
    folder: Path
    split: str
    samples: tuple[Sample, ...]
    images: Path | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """One split of a data set of images with labels.

    Attributes:
        name: Name of the data set, e.g. ``pneumoniamnist``.
        format: The format that it was read as.
        split: The split.
        images: uint8 [N, H, W] or [N, H, W, 3]; memory-mapped where the file allows it.
        labels: int64 [N], or [N, L] of 0 and 1 where each image has several.
        classes: Names of the classes or labels by number; empty where nobody published them.
        task: What the labels mean.
        corruption: Name of the corruption that the images carry, else empty.
        severities: int64 [N] of 1..5 for corrupted images, else None.
        problems: Faults of the copy that leave the arrays usable.
    """

    name: str
    format: str
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    task: Task
    corruption: str = ""
    severities: NDArray[np.int64] | None = None
    problems: tuple[Problem, ...] = ()
