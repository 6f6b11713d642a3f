"""MedMNIST-C: ``{dataset}/{corruption}.npz`` with the test images of all five severities, mild ones first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from imc_agents.data.sets.arrays import read_pair
from imc_agents.data.sets.formats import ImageFormat, Selection, choose, choose_folder, choose_severity
from imc_agents.data.sets.npz import npz_keys
from imc_agents.data.sets.published import published
from imc_agents.data.sets.records import Images
from imc_agents.errors import UsageError

__all__ = ["FORMAT"]

_NAME = "medmnist-c"
_KEYS = ("test_images", "test_labels")
_SEVERITIES = 5


def _files(path: Path) -> dict[str, Path]:
    if path.suffix == ".npz" or path.is_file():
        return {path.stem: path}
    folder = choose_folder(path, lambda inner: any(inner.glob("*.npz")), "corrupted sets, {corruption}.npz")
    return {file.stem: file for file in sorted(folder.glob("*.npz"))}


def _parts(path: Path) -> tuple[Selection, ...]:
    return tuple(Selection("test", corruption) for corruption in _files(path))


def _open(path: Path, selection: Selection) -> Images:
    import numpy as np

    files = _files(path)
    choose("split", selection.split, ("test",), path, default="test")
    corruption = choose("corruption", selection.corruption, tuple(files), path)
    file = files[corruption]
    name = file.resolve().parent.name.split("_")[0]
    known = published("medmnist").get(name)
    found = read_pair(file, _KEYS, name=name, format=_NAME, split="test", known=known, corruption=corruption)
    count, left = divmod(len(found.images), _SEVERITIES)
    if left:
        raise UsageError(
            f"{file}: {len(found.images):,} images are not five times as many as were corrupted; get it again"
        )
    severity = choose_severity(selection.severity, tuple(range(1, _SEVERITIES + 1)), file)
    if severity is None:
        return replace(found, severities=np.repeat(np.arange(1, _SEVERITIES + 1), count))
    rows = slice((severity - 1) * count, severity * count)
    severities = np.full(count, severity, np.int64)
    return replace(found, images=found.images[rows], labels=found.labels[rows], severities=severities)


def _recognises(path: Path) -> bool:
    files = [path] if path.is_file() else [*sorted(path.glob("*.npz"))[:1], *sorted(path.glob("*/*.npz"))[:1]]
    # A file that is called as a set of MedMNIST is one, of which only the test split was kept.
    return any(
        npz_keys(file) == frozenset(_KEYS) and file.stem.split("_")[0] not in published("medmnist")
        for file in files
    )


FORMAT = ImageFormat(_NAME, "MedMNIST-C: {dataset}/{corruption}.npz", _recognises, _parts, _open)
