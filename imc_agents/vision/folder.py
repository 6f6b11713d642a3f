"""The images of a folder, for banks: found, checked before anything is encoded, read when needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from imc_agents.errors import DataError, UsageError
from imc_agents.vision.build import Sample
from imc_agents.vision.reading import read_image

__all__ = ["SUFFIXES", "find_images", "folder_samples"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".dcm", ".gif"})


def find_images(folder: Path) -> list[Path]:
    """All files below a folder whose suffix is that of an image, in the order of their names.

    Raises:
        UsageError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name one with clean images")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UsageError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return found


def folder_samples(
    folder: Path, limit: int | None, skipped: Callable[[DataError], None]
) -> tuple[Sample, ...]:
    """The readable images of a folder as samples for a bank, named by their paths within it.

    Args:
        folder: Searched with its subfolders.
        limit: Take so many, evenly spread over the names; None takes all.
        skipped: Told of each image that cannot be read.

    Raises:
        UsageError: no such folder, or no image in it.
    """
    paths = find_images(folder)
    if limit is not None and limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    samples: list[Sample] = []
    for path in paths:
        try:
            read_image(path)
        except DataError as error:
            skipped(error)
            continue
        samples.append(Sample(path.relative_to(folder).as_posix(), _loader(path)))
    return tuple(samples)


def _loader(path: Path) -> Callable[[], Any]:
    def load() -> Any:
        return read_image(path)

    return load
