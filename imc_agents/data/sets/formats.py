"""The seam of formats: what a reader of questions or of images offers, and how parts of a copy are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imc_agents.data.sets.records import DataSet, Images
from imc_agents.errors import UsageError, nearest

__all__ = ["ImageFormat", "QuestionFormat", "Selection", "choose", "choose_folder", "choose_severity"]

_ALIKE = (("test", "testing"), ("val", "validate", "validation", "valid", "dev"), ("train", "training"))


@dataclass(frozen=True, slots=True)
class QuestionFormat:
    """A layout of questions about images.

    Attributes:
        name: What users type.
        layout: One line that tells it.
        recognises: Whether a path looks like it, by names and the first bytes alone.
        splits: The splits that a copy holds; empty where it holds none.
        open: ``(path, split, unpack) -> DataSet``. ``split`` is one of the splits, or None for the one that results
            are published on. ``unpack`` is the folder for images that the copy holds inside other files.
    """

    name: str
    layout: str
    recognises: Callable[[Path], bool]
    splits: Callable[[Path], tuple[str, ...]]
    open: Callable[[Path, str | None, Path | None], DataSet]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which part of a copy of images is meant; None takes the usual one, or all severities.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        corruption: Name of a corruption, or ``clean`` where the layout has it.
        severity: 1 to 5.
        task: Name of one of several kinds of labels.
    """

    split: str | None = None
    corruption: str | None = None
    severity: int | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A layout of images with labels.

    Attributes:
        name: What users type.
        layout: One line that tells it.
        recognises: Whether a path looks like it, by names and headers alone.
        parts: Everything that a copy holds, each as a selection that ``open`` takes.
        open: ``(path, selection) -> Images``.
    """

    name: str
    layout: str
    recognises: Callable[[Path], bool]
    parts: Callable[[Path], tuple[Selection, ...]]
    open: Callable[[Path, Selection], Images]


def choose(
    what: str, wanted: str | None, available: Sequence[str], where: Path, *, default: str | None = None
) -> str:
    """Return which of several parts is meant.

    Args:
        what: What they are, e.g. ``split``.
        wanted: The user's choice; other common names of a split are understood. None takes the default, else a
            validation split, else the only one.
        available: Those that the copy holds.
        where: The copy, for messages.
        default: Taken where nothing is wanted and it is there.

    Raises:
        UsageError: there is no such part, or several and none is named.
    """
    if not available:
        raise UsageError(f"{where}: holds no {what} that this format knows; check the path and --format")
    asked = wanted or default or ""
    alike = next((names for names in _ALIKE if asked in names), ())
    found = next((name for name in (asked, *alike) if name in available), None)
    if found is None and wanted is None:
        found = next((name for name in _ALIKE[1] if name in available), None)
        if found is None and len(available) > 1:
            raise UsageError(f"{where}: name the {what}, one of: {', '.join(available)}")
        found = found or available[0]
    if found is not None:
        return found
    hint = nearest(asked, tuple(available)) or f"; it has: {', '.join(available)}"
    raise UsageError(f"{where}: no {what} {asked!r}{hint}")


def choose_severity(wanted: int | None, available: Sequence[int], where: Path) -> int | None:
    """Return the severity that is meant, None for all.

    Raises:
        UsageError: there is no such severity.
    """
    if wanted is not None and wanted not in available:
        listed = ", ".join(map(str, available)) or "none"
        raise UsageError(f"{where}: no severity {wanted}; it has: {listed}")
    return wanted


def choose_folder(path: Path, holds: Callable[[Path], bool], what: str) -> Path:
    """Return the folder of one data set: the path itself, or the only one right below it.

    Args:
        path: What the user named.
        holds: Whether a folder is one.
        what: What it holds, for messages.

    Raises:
        UsageError: there is none, or there are several.
    """
    if not path.is_dir():
        problem = "no folder" if path.exists() else "there is no such folder"
        raise UsageError(f"{path}: {problem}; name the one with {what}")
    if holds(path):
        return path
    found = [inner for inner in sorted(path.iterdir()) if inner.is_dir() and holds(inner)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"{path}: no {what} here; name the folder that holds them")
    listed = ", ".join(inner.name for inner in found[:12])
    raise UsageError(f"{path}: holds {len(found)} data sets; name the folder of one: {listed}")
