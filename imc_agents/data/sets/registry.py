"""The formats of data sets by name, those of other packages among them, and the way to open a copy.

Packages add formats under the entry-point group ``imc_agents.datasets``; each entry point loads a ``QuestionFormat``
or an ``ImageFormat``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from imc_agents.data.sets import (
    hub,
    jsonl,
    medimeta,
    medimeta_c,
    medmnist,
    medmnist_c,
    path_vqa,
    slake,
    vqa_rad,
)
from imc_agents.data.sets.formats import ImageFormat, QuestionFormat, Selection
from imc_agents.data.sets.records import DataSet, Images
from imc_agents.errors import ConfigError, UsageError, nearest

__all__ = [
    "ENTRY_POINT_GROUP",
    "FORMATS",
    "Format",
    "format_at",
    "formats",
    "get_format",
    "open_dataset",
    "open_images",
]

ENTRY_POINT_GROUP = "imc_agents.datasets"

Format = QuestionFormat | ImageFormat

FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        vqa_rad.FORMAT,
        slake.FORMAT,
        path_vqa.FORMAT,
        jsonl.FORMAT,
        hub.FORMAT,
        medmnist.FORMAT,
        medmnist_c.FORMAT,
        medimeta.FORMAT,
        medimeta_c.FORMAT,
    )
}
"""The formats that come with imc, by name."""


@cache
def formats() -> Mapping[str, Format]:
    """Return all formats by name, built-in ones first.

    Raises:
        ConfigError: an installed entry point is no format, or takes a name twice.
    """
    found = dict(FORMATS)
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        format = point.load()
        if not isinstance(format, (QuestionFormat, ImageFormat)):
            raise ConfigError(
                f"entry point {point.name!r} ({point.value}) is no QuestionFormat or ImageFormat; fix or uninstall it"
            )
        if format.name in found:
            raise ConfigError(
                f"entry point {point.name!r} ({point.value}): a format {format.name!r} exists already; rename it"
            )
        found[format.name] = format
    return found


def get_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    known = formats()
    if name not in known:
        hint = nearest(name, list(known)) or f"; known: {', '.join(known)}"
        raise UsageError(f"unknown format of a data set {name!r}{hint}")
    return known[name]


def format_at(path: Path, name: str | None = None) -> Format:
    """Return the format to read a copy as: the one that is named, or the one that it looks like.

    Args:
        path: The copy.
        name: Name of a format; None goes by names and headers of what is there.

    Raises:
        UsageError: there is no such format or path, or the copy looks like none or like several.
    """
    named = get_format(name) if name is not None else None
    if not path.exists() and not str(path).startswith(hub.HUB_PREFIX):
        raise UsageError(f"{path}: there is no such file or folder; check the path")
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise UsageError(f"{path}: neither a folder nor a regular file; name a copy of a data set")
    if named is not None:
        return named
    found = [format for format in formats().values() if format.recognises(path)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(format.name for format in found)
        raise UsageError(f"{path}: looks like several formats; give --format, one of: {listed}")
    raise UsageError(f"{path}: looks like no data set; give --format, one of: {', '.join(formats())}")


def open_dataset(
    path: Path | str,
    format: str | None = None,
    *,
    split: str | None = None,
    language: str | None = None,
    name: str | None = None,
    unpack: Path | None = None,
) -> DataSet:
    """Open one split of questions about images.

    Args:
        path: The copy: a folder, a file, or ``hf:owner/name``.
        format: Name of the format; None goes by what is there.
        split: The split; None takes ``test``, else the validation split.
        language: Keep questions in this language only, e.g. ``en``; questions whose language is not told stay.
        name: Name for tables and seeds; None takes that of the format or of the folder.
        unpack: Folder for images that lie inside other files; without it such samples name no image.

    Raises:
        UsageError: the format is unknown or holds no questions, the split is not there, the copy cannot be read, or
            nothing is left.
    """
    place = Path(path)
    found = format_at(place, format)
    if isinstance(found, ImageFormat):
        raise UsageError(
            f"{place}: {found.name} holds images with labels, no questions; ask about them (imc_agents.data.sets.ask)"
        )
    opened = found.open(place, split, unpack)
    if not opened.samples:
        first = next(
            (f"; {problem.where}: {problem.what}" for problem in opened.problems), "; get the copy again"
        )
        raise UsageError(f"{place}: no usable question in the split {opened.split!r}{first}")
    samples = opened.samples
    if language is not None:
        samples = tuple(sample for sample in samples if sample.language in ("", language))
        if not samples:
            held = tuple(sorted({sample.language for sample in opened.samples}))
            hint = nearest(language, held) or f"; it has: {', '.join(held)}"
            raise UsageError(f"{place}: no questions in the language {language!r}{hint}")
    return replace(opened, samples=samples, name=name or opened.name)


def open_images(
    path: Path | str,
    format: str | None = None,
    split: str | None = None,
    *,
    corruption: str | None = None,
    severity: int | None = None,
    task: str | None = None,
) -> Images:
    """Open one split of images with labels.

    Args:
        path: The copy: a folder or a file.
        format: Name of the format; None goes by what is there.
        split: The split; None takes ``test``, else the validation split.
        corruption: Which corruption, where the copy holds several.
        severity: 1 to 5; None takes all where they lie in one file.
        task: Which kind of labels, where there are several; None takes the first.

    Raises:
        UsageError: the format is unknown or holds no images with labels, the part is not there, or the copy cannot be
            used.
    """
    place = Path(path)
    found = format_at(place, format)
    if isinstance(found, QuestionFormat):
        raise UsageError(f"{place}: {found.name} holds questions about images; open it with open_dataset")
    return found.open(place, Selection(split, corruption, severity, task))
