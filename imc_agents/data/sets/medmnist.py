"""MedMNIST and MedMNIST+ (2-D): one ``.npz`` a set with ``{split}_images`` and ``{split}_labels``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from imc_agents.data.sets.arrays import read_pair
from imc_agents.data.sets.formats import ImageFormat, Selection, choose
from imc_agents.data.sets.npz import members, npz_keys
from imc_agents.data.sets.published import published
from imc_agents.data.sets.records import Images, Problem
from imc_agents.errors import UsageError

__all__ = ["FORMAT"]

_NAME = "medmnist"
_SPLITS = ("train", "val", "test")
_CORRUPTED = (frozenset(("test_images", "test_labels")), frozenset(("images", "labels")))
_SIZED = re.compile(r"(?P<name>.+?)_(?P<size>64|128|224)")


def _file(path: Path) -> Path:
    if path.suffix == ".npz" or not path.is_dir():
        return path
    found = sorted(path.glob("*.npz"))
    if len(found) != 1:
        listed = ", ".join(file.name for file in found[:10]) or "none"
        raise UsageError(f"{path}: name one .npz file of MedMNIST; the folder has: {listed}")
    return found[0]


def _named(file: Path) -> tuple[str, int | None]:
    """Name of the set and the size that follows it, as in ``pathmnist_224.npz``."""
    sized = _SIZED.fullmatch(file.stem)
    return (sized["name"], int(sized["size"])) if sized else (file.stem, None)


def _splits(keys: Collection[str]) -> tuple[str, ...]:
    return tuple(split for split in _SPLITS if f"{split}_images" in keys or f"{split}_labels" in keys)


def _parts(path: Path) -> tuple[Selection, ...]:
    # A file without any split is opened all the same, which tells what is wrong with it.
    return tuple(Selection(split) for split in _splits(npz_keys(_file(path))) or ("test",))


def _open(path: Path, selection: Selection) -> Images:
    file = _file(path)
    splits = _splits(members(file)) or ("test",)
    split = choose("split", selection.split, splits, file, default="test")
    name, size = _named(file)
    known = published("medmnist").get(name)
    keys = (f"{split}_images", f"{split}_labels")
    images = read_pair(file, keys, name=name, format=_NAME, split=split, known=known)
    problems = list(images.problems)
    if size and images.images.shape[1:3] != (size, size):
        side = "x".join(map(str, images.images.shape[1:3]))
        problems.append(Problem(f"{file.name}: {keys[0]}", f"{side} pixels in a file of {size}"))
    total = known.samples[split] if known else len(images.images)
    if len(images.images) != total:
        told = f"{len(images.images):,} images, {total:,} are published: a part of the set"
        problems.append(Problem(f"{file.name}: {keys[0]}", told, True))
    return replace(images, problems=tuple(problems))


def _recognises(path: Path) -> bool:
    files = sorted(path.glob("*.npz"))[:1] if path.is_dir() else [path]
    if any(
        {"train_images", "val_images"} & npz_keys(file)
        or (file.suffix == ".npz" and _named(file)[0] in published("medmnist"))
        for file in files
    ):
        return True
    # A file of no known layout is opened as this one, which tells what its arrays are called.
    return path.is_file() and path.suffix == ".npz" and npz_keys(path) not in _CORRUPTED


FORMAT = ImageFormat(_NAME, "MedMNIST and MedMNIST+: one .npz a set", _recognises, _parts, _open)
