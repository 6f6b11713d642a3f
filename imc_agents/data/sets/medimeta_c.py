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


def _files(path: Path) -> dict[tuple[str, str, int], Path]:
    """All files by split, corruption and severity; clean images have severity 0."""
    if path.is_file():
        files = [path]
    elif path.is_dir() and any(_named(file) for file in path.glob("*.npz")):
        files = sorted(path.glob("*.npz"))  # the folder of one split
    else:
        folder = choose_folder(
            path,
            lambda inner: any(_named(file) for file in inner.glob("*/*.npz")),
            "{split}/{corruption}_severity_{s}.npz",
        )
        files = sorted(folder.glob("*/*.npz"))
    return {(file.resolve().parent.name, *named): file for file in files if (named := _named(file))}


def _named(file: Path) -> tuple[str, int] | None:
    """Corruption and severity that the name of a file tells."""
    match = _FILE.fullmatch(file.stem)
    if match:
        return match["corruption"], int(match["severity"])
    return (_CLEAN, 0) if file.stem == _CLEAN else None


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
    name = file.resolve().parent.parent.name
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
    files = [
        *([path] if path.is_file() else []),
        *sorted(path.glob("*/*.npz"))[:1],
        *sorted(path.glob("*.npz"))[:1],
        *sorted(path.glob("*/*/*.npz"))[:1],
    ]
    return any(npz_keys(file) == frozenset(_KEYS) for file in files)


FORMAT = ImageFormat(
    _NAME, "MediMeta-C: {dataset}/{split}/{corruption}_severity_{s}.npz", _recognises, _parts, _open
)
