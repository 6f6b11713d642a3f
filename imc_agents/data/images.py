"""Which field of a row names its image, and what may stand there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from imc_agents.data.rows import Reader, Row
from imc_agents.errors import UsageError, nearest

__all__ = ["IMAGE_NAMES", "choose_image_field", "with_images"]

IMAGE_NAMES = ("image", "image_path", "image_name", "img_name")
"""Fields that are taken for the image when none is named, in this order: our own, and those of VQA-RAD and SLAKE."""

_PEEKED_ROWS = 100


def choose_image_field(reader: Reader, wanted: str | None) -> str | None:
    """Return the field that names the image, by a look at the first rows.

    Args:
        reader: The input.
        wanted: The user's choice; None chooses among ``IMAGE_NAMES``, or nothing.

    Raises:
        UsageError: no row has the field that was chosen.
    """
    found: dict[str, None] = {}
    for row in islice(reader.rows(), _PEEKED_ROWS):
        found.update(dict.fromkeys(row.fields))
    if wanted is None:
        return next((name for name in IMAGE_NAMES if name in found), None)
    if wanted not in found:
        hint = nearest(wanted, tuple(found)) or f"; it has: {', '.join(islice(found, 20))}"
        raise UsageError(f"{reader.path}: --image-field {wanted!r} is no field of the file{hint}")
    return wanted


def with_images(rows: Iterable[Row], path: Path, field: str) -> Iterator[Row]:
    """Yield the rows with the image that they name; one without an image is a row of text.

    Args:
        rows: The rows.
        path: Their file, for messages.
        field: The field with the path of the image.
    """
    for row in rows:
        value = row.fields.get(field)
        if row.error is not None or value is None or value == "":
            yield row
        elif isinstance(value, str):
            yield replace(row, image=value)
        else:
            kind = type(value).__name__
            problem = f"field {field!r} is of type {kind}, not the path of an image; save images as files"
            yield replace(row, error=f"{path.name}:{row.line}: {problem}")
