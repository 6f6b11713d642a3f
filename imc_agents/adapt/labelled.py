"""Images with one label each, clean, for adaptation and evaluation: a published set, or a table of image files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imc_agents.adapt.table import SPLIT_NAMES, TableRow, read_table, table_at
from imc_agents.data.sets.formats import ImageFormat, Selection
from imc_agents.data.sets.records import Images
from imc_agents.data.sets.registry import format_at, formats
from imc_agents.errors import UsageError, nearest
from imc_agents.noise.registry import noises
from imc_agents.vision.reading import read_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["SPLITS", "LabelledImages", "digest_of", "open_labelled", "splits_of"]

SPLITS = ("train", "val", "test")
"""The splits that a source may have, in the order in which they are told."""

_CLEAN = (None, "", "clean")
_MOST_CLASSES = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images of one split, each with one label.

    Attributes:
        name: Name of the data set, for seeds and tables.
        split: ``train``, ``val`` or ``test``.
        classes: Names of the classes by number: those of the whole source, so that all of its splits agree, whether or
            not this one has images of each.
        labels: int64 [N], numbers of the classes.
        ids: N ids, unique within the source: ``split/row`` in arrays, the path of the image in tables.
        load: Returns the image of a row as Pillow RGB; raises ``DataError`` where its file cannot be used. Safe to call
            from several threads.
        table: Name of the MedMNIST set whose MedMNIST-C severities are its own; empty where there is none.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    load: Callable[[int], Image.Image]
    table: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> LabelledImages:
        """Return the images of these rows, in this order, with the same classes.

        Args:
            indices: [M] rows, 0..N-1.

        Raises:
            IndexError: there is no such row.
        """
        import numpy as np

        rows = tuple(int(row) for row in indices)
        ids = tuple(self.ids[row] for row in rows)
        labels = self.labels[np.array(rows, np.int64)]
        return replace(self, labels=labels, ids=ids, load=partial(_load_row, self.load, rows))


def open_labelled(path: Path, split: str) -> LabelledImages:
    """Open one split of clean images with one label each.

    Where nobody published names of the classes, they are called by their numbers, ``0`` and up.

    Args:
        path: A copy of a published set that ``open_images`` opens; a CSV, TSV or JSONL table with the columns
            ``image``, ``label`` and ``split``; or a folder with such a table called ``labels``. Images of tables are
            named relative to the folder of the table. Without the column ``split`` all images are ``test``.
        split: ``train``, ``val`` or ``test``; other common names are understood.

    Raises:
        UsageError: there is no such path or split, the copy or the table is faulty, or its images have several labels
            each, are corrupted, or are all of one class.
    """
    table = table_at(path)
    if table is not None:
        return _of_table(table, split)
    format, parts = _parts(path)
    wanted = _choose(path, split, tuple(parts))
    opened = format.open(path, parts.pop(wanted))
    classes = opened.classes or _numbered(path, format, parts.values(), opened)
    _check(path, opened, classes)
    ids = tuple(f"{wanted}/{row}" for row in range(len(opened.labels)))
    load = partial(_load_array, opened.images)
    return LabelledImages(
        opened.name,
        wanted,
        classes,
        opened.labels,
        ids,
        load,
        opened.name if opened.name in _tables() else "",
    )


def splits_of(path: Path) -> tuple[str, ...]:
    """Return the splits that ``open_labelled`` can open: some of ``train``, ``val`` and ``test``.

    Raises:
        UsageError: there is no such path, or it is no source of labelled images.
    """
    table = table_at(path)
    held = {row.split for row in read_table(table)} if table is not None else set(_parts(path)[1])
    return tuple(split for split in SPLITS if split in held)


def digest_of(images: LabelledImages) -> str:
    """Digest of ids, labels, and the first and the last image, 16 hexadecimal digits.

    Two sizes or versions of a set have the same ids and labels, so these do not tell which images they are.

    Raises:
        DataError: one of these images cannot be used.
    """
    rows = [[name, int(label)] for name, label in zip(images.ids, images.labels, strict=True)]
    digest = hashlib.sha256(json.dumps(rows).encode())
    for row in (0, len(images) - 1):
        image = images.load(row)
        digest.update(f"{image.size}".encode() + image.tobytes())
    return digest.hexdigest()[:16]


def _of_table(path: Path, split: str) -> LabelledImages:
    import numpy as np

    rows = read_table(path)
    classes = tuple(sorted({row.label for row in rows}))
    _several(path, classes)
    held = {row.split for row in rows}
    wanted = _choose(path, split, tuple(known for known in SPLITS if known in held))
    chosen = [row for row in rows if row.split == wanted]
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[row.label] for row in chosen], np.int64)
    # Any folder may have a table of that name, so the folder's own says more.
    name = path.parent.resolve().name if path.stem == "labels" else path.stem
    ids = tuple(row.image for row in chosen)
    table = name if name in _tables() else ""
    return LabelledImages(name, wanted, classes, labels, ids, partial(_load_file, tuple(chosen)), table)


def _parts(path: Path) -> tuple[ImageFormat, dict[str, Selection]]:
    """The format of a copy, and its clean parts by split."""
    if path.exists() and not any(format.recognises(path) for format in formats().values()):
        raise UsageError(
            f"{path}: no table and no data set of images that is known; "
            "write labels.csv with the columns image, label and split into the folder of the images"
        )
    format = format_at(path)
    if not isinstance(format, ImageFormat):
        raise UsageError(
            f"{path}: {format.name} holds questions about images, no labels; "
            "write a table of its images with the columns image, label and split"
        )
    parts: dict[str, Selection] = {}
    held = format.parts(path)
    for part in held:
        split = SPLIT_NAMES.get(part.split or "test", "")
        # Of several kinds of labels, the first is the one that a set is known for.
        if split and part.corruption in _CLEAN and part.severity is None:
            parts.setdefault(split, part)
    if not parts:
        if any(part.corruption not in _CLEAN for part in held):
            raise UsageError(f"{path}: {format.name} holds corrupted images only; name the clean data set")
        raise UsageError(f"{path}: holds no split train, val or test; name another copy")
    return format, parts


def _choose(path: Path, split: str, held: tuple[str, ...]) -> str:
    wanted = SPLIT_NAMES.get(split.lower(), split)
    if wanted in held:
        return wanted
    if wanted in SPLITS:
        raise UsageError(f"{path}: has no images of the split {wanted}; it has: {', '.join(held)}")
    raise UsageError(f"unknown split {split!r}{nearest(split, SPLITS) or '; there are train, val and test'}")


def _numbered(
    path: Path, format: ImageFormat, others: Iterable[Selection], opened: Images
) -> tuple[str, ...]:
    """Classes of a set that nobody published, up to the highest label of all splits."""
    top = int(opened.labels.max(initial=0))
    for part in others:
        top = max(top, int(format.open(path, part).labels.max(initial=0)))
    if top >= _MOST_CLASSES:
        raise UsageError(f"{path}: labels go up to {top:,}, which are no classes; number them from 0 on")
    return tuple(map(str, range(top + 1)))


def _check(path: Path, opened: Images, classes: tuple[str, ...]) -> None:
    if opened.labels.ndim != 1 or opened.task.startswith("multi-label"):
        raise UsageError(
            f"{path}: each image of {opened.name} has several labels; name a set with one an image"
        )
    faults = [problem for problem in opened.problems if not problem.harmless]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UsageError(f"{path}: the copy is faulty: {faults[0].where}: {faults[0].what}{more}")
    _several(path, classes)


def _several(path: Path, classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise UsageError(
            f"{path}: all images are of the class {''.join(classes)!r}; add images of another one"
        )


def _tables() -> frozenset[str]:
    return frozenset(table for spec in noises("image", "medmnist-c") for table in spec.tables)


def _load_array(images: NDArray[np.uint8], row: int) -> Image.Image:
    from PIL import Image

    return Image.fromarray(images[row]).convert("RGB")


def _load_file(rows: tuple[TableRow, ...], row: int) -> Image.Image:
    return read_image(rows[row].file)


def _load_row(load: Callable[[int], Image.Image], rows: tuple[int, ...], row: int) -> Image.Image:
    return load(rows[row])
