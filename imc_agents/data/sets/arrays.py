"""A pair of arrays, images and labels, checked and made ``Images``: what the MedMNIST-like formats share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.data.sets.npz import load_member, members
from imc_agents.data.sets.published import Published
from imc_agents.data.sets.records import Images, Problem, Task
from imc_agents.errors import UsageError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["check_labels", "image_shape", "read_pair"]

_LISTED = 5


def read_pair(
    path: Path,
    keys: tuple[str, str],
    *,
    name: str,
    format: str,
    split: str,
    known: Published | None,
    corruption: str = "",
    severity: int | None = None,
) -> Images:
    """Read images and labels of an ``.npz`` file.

    Args:
        path: The file.
        keys: Keys of the images and of the labels.
        name: Name of the data set.
        format: Name of the format.
        split: The split.
        known: What is published about the set, if anything.
        corruption: The corruption that all images carry.
        severity: Its severity, the same for all.

    Raises:
        UsageError: a key is missing, an array has another dtype or shape, the lengths differ, or the file is damaged.
    """
    import numpy as np

    held = members(path)
    for key in keys:
        if key not in held:
            hint = nearest(key, list(held)) or f"; it has: {', '.join(sorted(held)[:10]) or 'nothing'}"
            raise UsageError(f"{path}: no array {key!r}{hint}; save it under that key")
    image_member, label_member = held[keys[0]], held[keys[1]]
    where = f"{path}: {keys[0]}"
    image_shape(where, image_member.shape, image_member.dtype)
    labels = load_member(path, label_member)
    if labels.dtype.kind not in "biu":
        raise UsageError(f"{path}: {keys[1]} are {labels.dtype}, not whole numbers; save them as uint8")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != image_member.shape[0]:
        raise UsageError(
            f"{path}: {image_member.shape[0]:,} {keys[0]} but {keys[1]} of shape {list(label_member.shape)}; "
            "each image needs one row of labels"
        )
    images = load_member(path, image_member)
    whole = np.asarray(labels, np.int64)
    task, classes, problems = check_labels(f"{path.name}: {keys[1]}", whole, known)
    severities = None if severity is None else np.full(len(whole), severity, np.int64)
    return Images(name, format, split, images, whole, classes, task, corruption, severities, problems)


def image_shape(where: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Check that an array holds images.

    Raises:
        UsageError: it is not uint8 [N, H, W] or [N, H, W, 3], or is empty.
    """
    if str(dtype) != "uint8":
        pickled = " (pickled Python objects, never loaded)" if dtype.hasobject else ""
        raise UsageError(f"{where} are {dtype}{pickled}, not uint8; scale them to 0..255 and save as uint8")
    if len(shape) == 4 and shape[3] not in (1, 3) and len(set(shape[1:])) == 1:
        raise UsageError(
            f"{where} of shape {list(shape)} are volumes; only images, as the 2-D sets have, are read"
        )
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
        raise UsageError(f"{where} have shape {list(shape)}; make it [N, H, W] or [N, H, W, 3]")
    if not all(shape):
        raise UsageError(f"{where} are empty (shape {list(shape)}); get the file again")


def check_labels(
    where: str, labels: NDArray[Any], known: Published | None
) -> tuple[Task, tuple[str, ...], tuple[Problem, ...]]:
    """Tell what labels mean, and which cannot be right.

    Args:
        where: File and key, for messages.
        labels: int64 [N] or [N, L].
        known: What is published about the set; without it, classes are counted by the largest label.

    Returns:
        The task, the names of the classes, and the problems.
    """
    import numpy as np

    several = labels.ndim == 2
    if known is None:
        task: Task = "multi-class" if labels.max(initial=0) > 1 else "binary-class"
        task = "multi-label, binary-class" if several else task
        top, classes = (2 if several else int(labels.max(initial=0)) + 1), ()
    else:
        task, classes, top = known.task, known.classes, 2 if several else len(known.classes)
    if known is not None and several != task.startswith("multi-label"):
        shape = "one label an image" if several else f"{len(classes)} labels an image"
        return task, classes, (Problem(where, f"shape {list(labels.shape)}, published with {shape}"),)
    if known is not None and several and labels.shape[1] != len(classes):
        wrong = f"{labels.shape[1]} labels an image, {len(classes)} are published; get the file again"
        return task, classes, (Problem(where, wrong),)
    outside = (labels < 0) | (labels >= top)
    rows = np.flatnonzero(outside.any(1) if several else outside)
    if not len(rows):
        return task, classes, ()
    listed = ", ".join(str(row) for row in rows[:_LISTED]) + (", ..." if len(rows) > _LISTED else "")
    count = f"{len(rows):,} labels are" if len(rows) > 1 else "1 label is"
    problem = f"{count} outside 0..{top - 1} (rows {listed}, from 0); correct them or get the file again"
    return task, classes, (Problem(where, problem),)
