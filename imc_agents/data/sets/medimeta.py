"""MedIMeta (Woerner et al. 2025): ``info.yaml``, ``images/``, ``splits/`` and labels of one or more tasks.

Labels stand in ``task_labels/{task}.npy``, row by row of ``images/{row:06d}.tiff``, and in the columns ``tasks/{task}``
of ``annotations.csv`` beside ``filepath``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.data.sets.arrays import check_labels
from imc_agents.data.sets.entries import decode_text
from imc_agents.data.sets.formats import ImageFormat, Selection, choose, choose_folder
from imc_agents.data.sets.npz import MOST_BYTES
from imc_agents.data.sets.published import Published
from imc_agents.data.sets.records import Images, Problem, Task
from imc_agents.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FORMAT"]

_NAME = "medimeta"
_SPLITS = ("train", "val", "test")
_TASKS: dict[str, Task] = {
    "BINARY_CLASSIFICATION": "binary-class",
    "MULTICLASS_CLASSIFICATION": "multi-class",
    "MULTILABEL_CLASSIFICATION": "multi-label, binary-class",
    "ORDINAL_REGRESSION": "ordinal-regression",
}


@dataclass(frozen=True, slots=True)
class _Info:
    """What ``info.yaml`` says: the name, whether images are grey, and the tasks."""

    name: str
    grey: bool
    tasks: dict[str, Published]


def _folder(path: Path) -> Path:
    return choose_folder(
        path,
        lambda inner: (inner / "annotations.csv").is_file() or (inner / "info.yaml").is_file(),
        "info.yaml",
    )


def _info(folder: Path) -> _Info:
    import yaml

    file = folder / "info.yaml"
    text, _ = decode_text(file)
    try:
        table: Any = yaml.safe_load(text)
        tasks = {
            str(task["task_name"]): Published(
                _TASKS[task["task_target"]], tuple(str(name) for _, name in sorted(task["labels"].items()))
            )
            for task in table["tasks"]
        }
        return _Info(str(table.get("id") or folder.name), int(table["input_size"][0]) == 1, tasks)
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{file}: not as published, with id, input_size and tasks ({reason}); get it again"
        ) from error


def _splits(folder: Path) -> tuple[str, ...]:
    return tuple(split for split in _SPLITS if (folder / "splits" / f"{split}.txt").is_file())


def _parts(path: Path) -> tuple[Selection, ...]:
    folder = _folder(path)
    return tuple(Selection(split, task=task) for split in _splits(folder) for task in _info(folder).tasks)


def _open(path: Path, selection: Selection) -> Images:
    import numpy as np

    folder = _folder(path)
    info = _info(folder)
    split = choose("split", selection.split, _splits(folder), folder, default="test")
    # The first task is the one that a set is known for.
    task = choose("task", selection.task, tuple(info.tasks), folder, default=next(iter(info.tasks), None))
    names = decode_text(folder / "splits" / f"{split}.txt")[0].split("\n")
    labels = _labels(folder, task)
    rows: list[int] = []
    problems: list[Problem] = []
    for number, name in enumerate(map(str.strip, names), 1):
        if not name:
            continue
        row = int(Path(name).stem) if Path(name).stem.isdigit() else -1
        if 0 <= row < len(labels):
            rows.append(row)
        else:
            what = f"{name!r} has no label among {len(labels):,}; left out, get the copy again"
            problems.append(Problem(f"{split}.txt:{number}", what))
    images, kept = _images(folder, rows, info.grey, problems)
    chosen = np.asarray(labels, np.int64)[kept]
    kind, classes, wrong = check_labels(f"{task} of {split}", chosen, info.tasks[task])
    return Images(info.name, _NAME, split, images, chosen, classes, kind, problems=(*problems, *wrong))


def _labels(folder: Path, task: str) -> NDArray[Any]:
    import numpy as np

    file = folder / "task_labels" / f"{task}.npy"
    if not file.is_file():
        return _annotated(folder / "annotations.csv", f"tasks/{task}")
    try:
        held: Any = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file}: cannot be read as a plain array ({error}); get it again") from error
    labels: NDArray[Any] = np.asarray(held)
    if labels.dtype.kind not in "biu" or labels.ndim not in (1, 2):
        raise UsageError(f"{file}: no array with a row of whole numbers for each image; get it again")
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _annotated(file: Path, column: str) -> NDArray[Any]:
    """The labels of a column, by the number in ``filepath``; several labels stand there as a list."""
    import numpy as np

    text, _ = decode_text(file)
    found: dict[int, Any] = {}
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if column not in (rows.fieldnames or ()):
            raise UsageError(f"{file}: no column {column!r}; get the file, or task_labels/, again")
        for row in rows:
            found[int(Path(row["filepath"]).stem)] = json.loads(row[column])
        # Labels of unequal length, or that are no numbers, are refused by NumPy.
        labels: Any = np.asarray([found[number] for number in range(len(found))])
    except (csv.Error, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{file}:{rows.line_num}: not as published, with 'filepath' and labels as numbers ({reason}); get it again"
        ) from error
    if labels.dtype.kind not in "biu":
        raise UsageError(f"{file}: {column!r} holds {labels.dtype}, not whole numbers; get it again")
    return labels


def _images(
    folder: Path, rows: list[int], grey: bool, problems: list[Problem]
) -> tuple[NDArray[Any], list[int]]:
    """The images of these rows as one array, and the rows that could be read."""
    import numpy as np

    if not (folder / "images").is_dir() and (folder / "images.hdf5").is_file():
        return _from_hdf5(folder / "images.hdf5", rows)
    images: NDArray[Any] | None = None
    kept: list[int] = []
    for row, image in _pictures(folder / "images", rows, grey, problems):
        if images is None:
            if len(rows) * image.nbytes > MOST_BYTES:
                raise UsageError(
                    f"{folder}: more than {MOST_BYTES >> 30} GiB of images; choose a smaller split"
                )
            images = np.empty((len(rows), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            what = f"{image.shape[1]}x{image.shape[0]} pixels among {images.shape[2]}x{images.shape[1]}"
            problems.append(Problem(f"images/{row:06d}.tiff", f"{what}; left out, get it again"))
            continue
        images[len(kept)] = image
        kept.append(row)
    if images is None:
        raise UsageError(f"{folder / 'images'}: no image of this split can be read; get the folder again")
    return images[: len(kept)], kept


def _pictures(
    folder: Path, rows: list[int], grey: bool, problems: list[Problem]
) -> Iterator[tuple[int, NDArray[Any]]]:
    import numpy as np

    from imc_agents.vision.reading import read_image

    for row in rows:
        file = folder / f"{row:06d}.tiff"
        try:
            image = read_image(file)
        except DataError as error:
            problems.append(
                Problem(f"images/{file.name}", f"{str(error).removeprefix(f'{file}: ')}; left out")
            )
            continue
        yield row, np.asarray(image.convert("L") if grey else image)


def _from_hdf5(file: Path, rows: list[int]) -> tuple[NDArray[Any], list[int]]:
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            f"{file}: reading HDF5 needs the library h5py; `pip install h5py`, or unpack images/ beside it"
        ) from None
    import numpy as np

    library: Any = h5py
    try:
        with library.File(file, "r") as held:
            stored = held["images"]
            if max(rows, default=0) >= len(stored):
                raise UsageError(f"{file}: {len(stored):,} images, fewer than labels; get it again")
            if stored.dtype != np.uint8 or len(rows) * stored[0].nbytes > MOST_BYTES:
                raise UsageError(f"{file}: images are not uint8, or more than {MOST_BYTES >> 30} GiB")
            order = np.argsort(rows)
            images = np.empty((len(rows), *stored.shape[1:]), np.uint8)
            images[order] = stored[np.asarray(rows)[order]]
    except (OSError, KeyError) as error:
        raise UsageError(f"{file}: damaged, or without 'images' ({error}); get it again") from error
    return images[..., 0] if images.shape[-1] == 1 else images, rows


def _recognises(path: Path) -> bool:
    folders = [file.parent for name in ("info.yaml", "*/info.yaml") for file in sorted(path.glob(name))[:1]]
    return any((folder / "images").is_dir() or (folder / "images.hdf5").is_file() for folder in folders)


FORMAT = ImageFormat(
    _NAME,
    "MedIMeta: info.yaml, images/, splits/, task_labels/ or annotations.csv",
    _recognises,
    _parts,
    _open,
)
