"""Which images are trained on: a share of each class, drawn by digests, so that nothing depends on order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING

from imc_agents.adapt.labelled import LabelledImages
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["at_most", "few_shots", "hold_out"]


def few_shots(images: LabelledImages, fraction: float, seed: int) -> NDArray[np.int64]:
    """Draw a share of the images of each class.

    Of n images, ``fraction * n`` are drawn, rounded half up: those whose SHA-256 of name, id and seed is smallest.
    So an image is drawn or not whatever the order of the others, and smaller shares are part of larger ones.

    Args:
        images: One split.
        fraction: Above 0, up to 1.
        seed: Another one draws others.

    Returns:
        int64 [M] rows, ascending.

    Raises:
        UsageError: the fraction is out of bounds, there is one class only, or a class gets no image.
    """
    if not 0 < fraction <= 1:
        raise UsageError(
            f"a fraction of {fraction:g} of the images cannot be drawn; give one above 0, up to 1"
        )
    return _drawn(images, fraction, lambda image: json.dumps([images.name, image, seed]))


def hold_out(
    images: LabelledImages, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Set a share of the images of each class aside, for sources without a validation split.

    Args:
        images: One split.
        fraction: Of each class, rounded half up; between 0 and 1.
        seed: Another one holds others out.

    Returns:
        int64 [N - M] rows to train on and int64 [M] rows that are held out, both ascending, together all of them.

    Raises:
        UsageError: the fraction is out of bounds, there is one class only, or a class gets no image on either side.
    """
    import numpy as np

    if not 0 < fraction < 1:
        raise UsageError(
            f"a fraction of {fraction:g} of the images cannot be held out; give one between 0 and 1"
        )
    # Another digest than that of the shots, so that the two draws are independent.
    held = _drawn(images, fraction, lambda image: json.dumps(["held out", images.name, image, seed]))
    rest = np.setdiff1d(np.arange(len(images)), held)
    for number, name in enumerate(images.classes):
        count = int((images.labels == number).sum())
        if not (images.labels[rest] == number).any():
            cure = "take a smaller fraction" if count > 1 else "add images of it"
            raise UsageError(
                f"{_place(images)}: holding {fraction:g} out leaves none of the class {name!r}, which has "
                f"{_counted(count)}, to train on; {cure}"
            )
    return rest, held


def at_most(images: LabelledImages, count: int) -> LabelledImages:
    """Draw as many images by a digest of their ids, whatever their classes; smaller draws are part of larger ones."""
    if count >= len(images):
        return images
    drawn = sorted(
        range(len(images)),
        key=lambda row: hashlib.sha256(f"{images.name} {images.ids[row]}".encode()).digest(),
    )
    return images.subset(sorted(drawn[:count]))


def _drawn(images: LabelledImages, fraction: float, key: Callable[[str], str]) -> NDArray[np.int64]:
    import numpy as np

    if len(images.classes) < 2:
        raise UsageError(
            f"{_place(images)}: there is one class only, {''.join(images.classes)!r}; classes are told apart by two"
        )
    # As it is written: 0.29 of 50 is 14.5, which the nearest binary number is not.
    share = Fraction(repr(float(fraction)))
    chosen: list[int] = []
    for number, name in enumerate(images.classes):
        rows = [int(row) for row in np.flatnonzero(images.labels == number)]
        count = floor(share * len(rows) + Fraction(1, 2))
        if not count:
            raise UsageError(f"{_place(images)}: {_none_of(name, len(rows), fraction)}")
        digests = {row: hashlib.sha256(key(images.ids[row]).encode()).digest() for row in rows}
        chosen += sorted(rows, key=lambda row, digests=digests: digests[row])[:count]
    return np.array(sorted(chosen), np.int64)


def _none_of(name: str, count: int, fraction: float) -> str:
    if not count:
        return f"no image of the class {name!r}; add some, or take another split"
    # Rounded up to three digits, so that the fraction that is named does.
    enough, unit = Fraction(1, 2 * count), 1000
    while enough * unit < 100:
        unit *= 10
    needed = float(Fraction(ceil(enough * unit), unit))
    return (
        f"a fraction of {fraction:g} draws none of the class {name!r}, which has {_counted(count)}; "
        f"the smallest that does is {needed:g}"
    )


def _counted(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _place(images: LabelledImages) -> str:
    return f"{images.name}, split {images.split}"
