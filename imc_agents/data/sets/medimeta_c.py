"""MediMeta-C, and MedMNIST-C in its layout: ``{dataset}/{split}/{corruption}_severity_{s}.npz`` and ``clean.npz``."""

from __future__ import annotations

import re
from pathlib import Path

from imc_agents.data.sets.arrays import read_pair
from imc_agents.data.sets.formats import ImageFormat, Selection, choose, choose_folder, choose_severity
from imc_agents.data.sets.npz import npz_keys
from imc_agents.data.sets.published import published
from imc_agents.data.sets.records import Images
from imc_agents.errors import UsageError

__all__ = ["FORMAT"]

_NAME = "medimeta-c"
_KEYS = ("images", "labels")
_CLEAN = "clean"
_FILE = re.compile(r"(?P<corruption>.+)_severity_(?P<severity>[1-5])")


def _has_files(folder: Path) -> bool:
    return any(
        file.stem == _CLEAN or _FILE.fullmatch(file.stem) for file in folder.glob("*/*.npz") if file.is_file()
    )


def _folder(path: Path) -> Path:
    # The folder of a split will do: the data set is the folder above it.
    if path.is_dir() and any(_FILE.fullmatch(file.stem) for file in path.glob("*.npz")):
        return path.parent
    return choose_folder(path, _has_files, "{split}/{corruption}_severity_{s}.npz")


def _files(path: Path) -> dict[tuple[str, str, int], Path]:
    """All files by split, corruption and severity; clean images have severity 0."""
    found: dict[tuple[str, str, int], Path] = {}
    for file in sorted(_folder(path).glob("*/*.npz")):
        match = _FILE.fullmatch(file.stem)
        if match:
            found[file.parent.name, match["corruption"], int(match["severity"])] = file
        elif file.stem == _CLEAN:
            found[file.parent.name, _CLEAN, 0] = file
    inside = path.resolve().name if _folder(path) == path.parent else None
    return {key: file for key, file in found.items() if inside in (None, key[0])}


def _parts(path: Path) -> tuple[Selection, ...]:
    return tuple(
        Selection(split, corruption, severity or None) for split, corruption, severity in _files(path)
    )


def _open(path: Path, selection: Selection) -> Images:
    files = _files(path)
    splits = tuple(dict.fromkeys(split for split, _, _ in files))
    split = choose("split", selection.split, splits, path, default="test")
    corruptions = tuple(dict.fromkeys(name for inner, name, _ in files if inner == split))
    corruption = choose("corruption", selection.corruption, corruptions, path)
    held = tuple(level for inner, name, level in files if (inner, name) == (split, corruption))
    severity = 0 if corruption == _CLEAN else choose_severity(selection.severity, held, path)
    if severity is None:
        listed = ", ".join(map(str, held))
        raise UsageError(f"{path}: name the severity of {corruption}, each is a file; it has: {listed}")
    file = files[split, corruption, severity]
    name = file.parent.parent.name
    known = published("medimeta-c").get(name) or published("medmnist").get(name)
    return read_pair(
        file,
        _KEYS,
        name=name,
        format=_NAME,
        split=split,
        known=known,
        corruption="" if corruption == _CLEAN else corruption,
        severity=severity or None,
    )


def _recognises(path: Path) -> bool:
    if not path.is_dir():
        return False
    files = [
        *sorted(path.glob("*/*.npz"))[:1],
        *sorted(path.glob("*.npz"))[:1],
        *sorted(path.glob("*/*/*.npz"))[:1],
    ]
    return any(npz_keys(file) == frozenset(_KEYS) for file in files)


FORMAT = ImageFormat(
    _NAME, "MediMeta-C: {dataset}/{split}/{corruption}_severity_{s}.npz", _recognises, _parts, _open
)
