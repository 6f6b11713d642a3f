"""Questions about images with labels: every image becomes a sample, and a PNG only when somebody wants it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imc_agents.data.sets.records import DataSet, Images, Sample
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ask", "write_images"]


def ask(
    images: Images,
    question: str,
    answers: Sequence[str] = (),
    *,
    folder: Path,
    label: int | None = None,
) -> DataSet:
    """Ask the same question about every image.

    The id of a sample is ``split/row``, so that an image has the same id clean and under every corruption. Questions
    are closed: all answers are known. No image is written; ``write_images`` does that for the samples that are used.

    Args:
        images: Images of one severity.
        question: E.g. ``Does this chest x-ray show pneumonia?``.
        answers: The answer by number of the class, e.g. ``("no", "yes")``; none takes the published names.
        folder: Where the images will be; the returned samples name them relative to it.
        label: Number of the label that is asked about, where each image has several.

    Raises:
        UsageError: there are fewer answers than classes, several severities, or no label is named of several.
    """
    if images.severities is not None and len(set(images.severities.tolist())) > 1:
        raise UsageError(f"{images.name}: holds several severities; open one of them to ask about")
    labels = _asked(images, label)
    named = tuple(answers) or (("no", "yes") if label is not None else images.classes)
    top = int(labels.max(initial=0))
    if int(labels.min(initial=0)) < 0 or top >= len(named):
        raise UsageError(
            f"{images.name}: labels go from {int(labels.min(initial=0))} to {top}, but answers are given for "
            f"{len(named)}; give one for each class, from class 0 on"
        )
    samples = tuple(
        Sample(
            id=f"{images.split}/{row}",
            question=question,
            answer=named[value],
            kind="closed",
            image=_file(images, row),
            group=images.classes[value] if label is None and value < len(images.classes) else "",
        )
        for row, value in enumerate(int(label) for label in labels)
    )
    return DataSet(images.name, images.format, folder, images.split, samples, folder, images.problems)


def write_images(images: Images, samples: Iterable[Sample], folder: Path) -> int:
    """Write the images of these samples as PNG, those that are not there yet, and return how many.

    Args:
        images: What ``ask`` was given.
        samples: Some or all of what it returned.
        folder: What it was given.

    Raises:
        UsageError: a sample is not of these images, or a file cannot be written.
    """
    from PIL import Image

    written = 0
    for sample in samples:
        split, _, row = sample.id.rpartition("/")
        known = split == images.split and row.isdigit() and int(row) < len(images.images)
        file = _file(images, int(row)) if known else ""
        if not file or sample.image != file:
            raise UsageError(
                f"{sample.id!r} is no question about {images.name}; pass the samples that ask made"
            )
        target = folder / file
        if target.exists():
            continue
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.images[int(row)]).save(part, "PNG", compress_level=1)
            part.replace(target)
        except OSError as error:
            raise UsageError(f"{target}: cannot be written ({error.strerror}); check the folder") from error
        written += 1
    return written


def _asked(images: Images, label: int | None) -> NDArray[np.int64]:
    if images.labels.ndim == 1:
        if label is not None:
            raise UsageError(f"{images.name}: each image has one label; leave out label={label}")
        return images.labels
    count = images.labels.shape[1]
    if label is None or not 0 <= label < count:
        raise UsageError(
            f"{images.name}: each image has {count} labels; name one to ask about, 0..{count - 1}"
        )
    return images.labels[:, label]


def _file(images: Images, row: int) -> str:
    """A path that no other image of any set, size, corruption or severity has, so that folders can be shared."""
    height, width = images.images.shape[1:3]
    kind = images.split
    if images.corruption:
        severity = 0 if images.severities is None else int(images.severities[row])
        kind += f"-{images.corruption}-{severity}"
    return f"{images.name}-{width}x{height}/{kind}/{row:06d}.png"
