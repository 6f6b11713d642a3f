"""Noisy copies of image stacks in the npz layouts of MedMNIST, MedMNIST-C and MediMeta-C, a few images at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

from imc_agents.data.sets.arrays import image_shape
from imc_agents.data.sets.npz import Member, load_member, members
from imc_agents.errors import UsageError, nearest
from imc_agents.noise.output import written
from imc_agents.noise.pool import Workers
from imc_agents.noise.recipe import Recipe, Step, corrupt
from imc_agents.noise.registry import SEVERITIES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Stack", "apply_to_stack", "choose_splits", "most_workers", "open_stack"]

_IMAGES, _LABELS = "_images", "_labels"
_CHUNK_BYTES, _CHUNK_IMAGES = 2**20, 100  # how much of a stack one worker is given at most
_MOST_PIXELS = 64 * 2**20
_DATE = (1980, 1, 1, 0, 0, 0)  # equal data makes equal files


@dataclass(frozen=True, slots=True)
class Stack:
    """An npz file with images.

    Attributes:
        path: The file.
        arrays: All arrays by key, in the order of the file; those that end in ``_images`` are uint8 [N, H, W] or
            [N, H, W, 3].
        splits: Such as ``train``, ``val``, ``test``: those with images.
    """

    path: Path
    arrays: Mapping[str, Member]
    splits: tuple[str, ...]

    def images(self, split: str) -> int:
        """How many images a split has."""
        return self.arrays[split + _IMAGES].shape[0]


@dataclass(frozen=True, slots=True)
class _Entry:
    """An array to write: that of ``source``, once for each step one behind the other; without steps as it is."""

    key: str
    source: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    entries: tuple[_Entry, ...]


def open_stack(path: Path) -> Stack:
    """Look at the arrays of a file without loading them.

    Raises:
        UsageError: no npz file, damaged, without an array ``*_images``, or one of those holds no images.
    """
    arrays = members(path)
    splits = tuple(key.removesuffix(_IMAGES) for key in arrays if key.endswith(_IMAGES))
    if not splits:
        raise UsageError(
            f"{path}: no array is called *_images, as in MedMNIST; it holds {', '.join(arrays) or 'none at all'}"
        )
    for key in (split + _IMAGES for split in splits):
        array = arrays[key]
        image_shape(f"{path}: {key}", array.shape, array.dtype)
        if array.fortran:
            raise UsageError(f"{path}: {key} is in Fortran order; save numpy.ascontiguousarray of it")
        if array.shape[1] * array.shape[2] > _MOST_PIXELS:
            raise UsageError(
                f"{path}: {key} has images of more than {_MOST_PIXELS:,} pixels; make them smaller"
            )
    return Stack(path, arrays, splits)


def choose_splits(stack: Stack, recipe: Recipe, wanted: str | None) -> tuple[str, ...]:
    """Return the splits whose images become noisy.

    Args:
        stack: The file.
        recipe: The published files of its suite hold the test split; others may hold all.
        wanted: Names by commas; None chooses.

    Raises:
        UsageError: the file has no such split, or MedMNIST-C files were asked for that lack severities.
    """
    if recipe.suite == "medmnist-c" and {step.severity for step in recipe.steps} != set(SEVERITIES):
        raise UsageError("--severity: files of medmnist-c hold all five severities; leave it out")
    names = tuple(dict.fromkeys(wanted.split(","))) if wanted is not None else stack.splits
    if wanted is None and recipe.suite in _PUBLISHED:
        names = ("test",)
    for split in names:
        if split not in stack.splits:
            hint = nearest(split, stack.splits)
            raise UsageError(f"{stack.path} has no split {split!r}{hint}; it has {', '.join(stack.splits)}")
    return names


def most_workers(stack: Stack, splits: tuple[str, ...]) -> int:
    """How many workers can have something to do at once."""
    arrays = [stack.arrays[split + _IMAGES] for split in splits]
    return max(ceil(array.shape[0] / _chunk_images(array)) for array in arrays)


def apply_to_stack(
    stack: Stack,
    output: Path,
    recipe: Recipe,
    splits: tuple[str, ...],
    workers: Workers,
    advance: Callable[[int], None],
) -> None:
    """Write noisy copies; the id of an image is ``split/index``, such as ``test/0``.

    A noise gives files with the keys of the input: splits that are not chosen and labels are carried through. The
    suite ``medmnist-c`` gives its published layout, ``NOISE.npz`` with ``test_images`` (all severities one behind the
    other, the mildest first) and ``test_labels`` (as often); ``medimeta-c`` gives ``SPLIT/NOISE_severity_S.npz`` with
    ``images`` and ``labels``. Arrays are compressed where they were.

    Args:
        stack: From ``open_stack``.
        output: A file where the recipe has one step, else a folder.
        recipe: The steps.
        splits: Those whose images become noisy.
        workers: Share the images.
        advance: Told how many images have been finished.

    Raises:
        UsageError: the file is damaged, lacks labels that a published layout needs, or the output cannot be written.
    """
    for file in _PUBLISHED.get(recipe.suite, _as_it_was)(stack, output, recipe, splits):
        with (
            written(file.path) as stream,
            _archive(stack.path) as source,
            zipfile.ZipFile(stream, "w") as target,
        ):
            for entry in file.entries:
                _write(entry, stack, source, target, recipe, workers, advance)


def _as_it_was(stack: Stack, output: Path, recipe: Recipe, splits: tuple[str, ...]) -> Iterator[_File]:
    noisy = {split + _IMAGES for split in splits}
    for step in recipe.steps:
        path = output / step.folder / stack.path.name if step.folder else output
        yield _File(path, tuple(_Entry(key, key, (step,) if key in noisy else ()) for key in stack.arrays))


def _medmnist_c(stack: Stack, output: Path, recipe: Recipe, splits: tuple[str, ...]) -> Iterator[_File]:
    keys = [_present(stack, split + kind) for split in splits for kind in (_IMAGES, _LABELS)]
    for name in dict.fromkeys(step.name for step in recipe.steps):
        steps = tuple(step for step in recipe.steps if step.name == name)
        yield _File(output / f"{name}.npz", tuple(_Entry(key, key, steps) for key in keys))


def _medimeta_c(stack: Stack, output: Path, recipe: Recipe, splits: tuple[str, ...]) -> Iterator[_File]:
    for split in splits:
        labels = _Entry("labels", _present(stack, split + _LABELS))
        for step in recipe.steps:
            path = output / split / f"{step.name}_severity_{step.severity}.npz"
            yield _File(path, (_Entry("images", split + _IMAGES, (step,)), labels))


_PUBLISHED = {"medmnist-c": _medmnist_c, "medimeta-c": _medimeta_c}


def _present(stack: Stack, key: str) -> str:
    if key not in stack.arrays:
        raise UsageError(
            f"{stack.path}: no array {key}, which the published layout needs; add it to the file"
        )
    return key


def _write(
    entry: _Entry,
    stack: Stack,
    source: zipfile.ZipFile,
    target: zipfile.ZipFile,
    recipe: Recipe,
    workers: Workers,
    advance: Callable[[int], None],
) -> None:
    import numpy as np

    stored = source.getinfo(_member_name(entry.source))
    described = zipfile.ZipInfo(_member_name(entry.key), _DATE)
    described.compress_type = stored.compress_type
    array = stack.arrays[entry.source]
    with target.open(described, "w", force_zip64=True) as out:
        if not entry.steps:
            with source.open(stored) as stream:
                while block := stream.read(_CHUNK_BYTES):
                    out.write(block)
        elif entry.source.endswith(_IMAGES):
            count, *size = array.shape
            header = {"descr": "|u1", "fortran_order": False, "shape": (count * len(entry.steps), *size)}
            np.lib.format.write_array_header_1_0(out, header)
            split = entry.source.removesuffix(_IMAGES)
            for step in entry.steps:
                work = partial(_corrupt_chunk, recipe=recipe, step=step, split=split)
                for noisy in workers.in_order(work, _chunks(stack.path, source, array)):
                    out.write(noisy.tobytes())
                    advance(len(noisy))
        else:
            labels = load_member(stack.path, array)
            np.lib.format.write_array(out, np.concatenate([labels] * len(entry.steps)), allow_pickle=False)


def _corrupt_chunk(
    chunk: tuple[int, NDArray[np.uint8]], recipe: Recipe, step: Step, split: str
) -> NDArray[np.uint8]:
    import numpy as np

    first, images = chunk
    ids = (f"{split}/{first + row}" for row in range(len(images)))
    return np.stack([corrupt(recipe, step, image, name) for image, name in zip(images, ids, strict=True)])


def _chunks(path: Path, archive: zipfile.ZipFile, array: Member) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The images of an array, a few at a time: (index of the first, uint8 [n, H, W] or [n, H, W, 3])."""
    import numpy as np

    stored = archive.getinfo(_member_name(array.name))
    count, *size = array.shape
    each, many = prod(size), _chunk_images(array)
    with archive.open(stored) as stream:
        stream.read(stored.file_size - count * each)  # the header
        for first in range(0, count, many):
            rows = min(many, count - first)
            block = stream.read(rows * each)
            if len(block) < rows * each:
                raise UsageError(f"{path}: {array.name} is cut short; get the file again")
            yield first, np.frombuffer(block, np.uint8).reshape(rows, *size)


def _chunk_images(array: Member) -> int:
    return max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // prod(array.shape[1:])))


def _member_name(key: str) -> str:
    return f"{key}.npy"


@contextmanager
def _archive(path: Path) -> Generator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UsageError(f"{path}: the npz file is damaged ({error}); get it again") from error
