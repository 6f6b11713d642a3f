"""Noisy copies of image files: one, or all of a folder with its structure and names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.errors import DataError, UsageError
from imc_agents.noise.output import written
from imc_agents.noise.pool import Workers, unwanted
from imc_agents.noise.recipe import Recipe, corrupt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Done", "Images", "apply_to_folder", "apply_to_image", "find_images", "image_suffix"]

# Lossless, but for JPEG: at quality 100 without subsampling of colours it costs 0.1 grey levels on average.
_ENCODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"compress_level": 1}),
    ".jpg": ("JPEG", {"quality": 100, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 100, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}
_GREY_MODES = frozenset({"1", "L", "LA", "I", "F"})


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it.

    Attributes:
        samples: How many samples became noisy, each at every step.
        problems: One line for each that could not.
    """

    samples: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Images:
    """What a folder holds, in the order of names; paths are relative and POSIX.

    Attributes:
        folder: The folder.
        names: Its images.
        others: All other files.
    """

    folder: Path
    names: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    source: Path
    sample_id: str
    targets: tuple[Path, ...]  # one for each step


def find_images(folder: Path, suffixes: frozenset[str]) -> Images:
    """Look through a folder and all below it.

    Args:
        folder: Exists.
        suffixes: Of images, in lower case, with the dot.

    Raises:
        UsageError: it holds no image, or two images would have one name in the output.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = tuple(name for name in files if Path(name).suffix.lower() in suffixes)
    if not names:
        raise UsageError(f"{folder} holds no images ({', '.join(sorted(suffixes))})")
    stored: dict[str, str] = {}
    for name in names:
        other = stored.setdefault(_stored_name(name), name)
        if other != name:
            raise UsageError(
                f"{folder}: {other} and {name} would both become {_stored_name(name)}; rename one"
            )
    chosen = set(names)
    return Images(folder, names, tuple(name for name in files if name not in chosen))


def image_suffix(target: Path) -> None:
    """Check that an image can be written under this name.

    Raises:
        UsageError: its ending is that of no format that is written.
    """
    if target.suffix.lower() not in _ENCODINGS:
        raise UsageError(f"{target}: images are written as {', '.join(_ENCODINGS)}; give it such an ending")


def apply_to_folder(
    images: Images,
    output: Path,
    recipe: Recipe,
    read: Callable[[Path], Any],
    workers: Workers,
    advance: Callable[[int], None],
) -> Done:
    """Write a noisy copy of every image; the id of an image is its path in the folder, such as ``ward/a.png``.

    Copies keep their names. Formats that are not written (DICOM, GIF) become PNG, with ``.png`` behind the name.
    An image that is stored with a single channel stays so.

    Args:
        images: From ``find_images``.
        output: Folder.
        recipe: The steps.
        read: Reads an image file as a Pillow image in RGB, or raises ``DataError``; picklable.
        workers: Share the images.
        advance: Told of each image that is finished.

    Raises:
        UsageError: the output cannot be written.
    """

    def jobs() -> Iterator[_Job]:
        for name in images.names:
            targets = tuple(output / step.folder / _stored_name(name) for step in recipe.steps)
            yield _Job(images.folder / name, _printable(name), targets)

    problems: list[str] = []
    for problem in workers.in_order(partial(_corrupt_file, recipe=recipe, read=read), jobs()):
        problems += [problem] if problem else []
        advance(1)
    return Done(len(images.names) - len(problems), tuple(problems))


def apply_to_image(source: Path, output: Path, recipe: Recipe, read: Callable[[Path], Any]) -> None:
    """Write the noisy copies of one image, whose id is its file name.

    Args:
        source: The image.
        output: File of the copy where the recipe has one step, else the folder of all copies.
        recipe: The steps.
        read: As for ``apply_to_folder``.

    Raises:
        DataError: the image cannot be read.
        UsageError: the output cannot be written.
    """
    single = len(recipe.steps) == 1 and not recipe.steps[0].folder
    targets = tuple(
        output if single else output / step.folder / _stored_name(source.name) for step in recipe.steps
    )
    problem = _corrupt_file(_Job(source, _printable(source.name), targets), recipe, read)
    if problem:
        raise DataError(problem)


def _stored_name(name: str) -> str:
    return name if Path(name).suffix.lower() in _ENCODINGS else f"{name}.png"


def _printable(name: str) -> str:
    """The name as text; bytes of a file name that are not UTF-8 stand as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _corrupt_file(job: _Job, recipe: Recipe, read: Callable[[Path], Any]) -> str:
    """Write all copies of an image; return why that is impossible, or nothing."""
    import numpy as np
    from PIL import Image

    try:
        image: NDArray[np.uint8] = np.asarray(read(job.source))
    except DataError as error:
        return str(error)
    if _single_channel(job.source, image):
        image = image[..., 0]
    for step, target in zip(recipe.steps, job.targets, strict=True):
        if unwanted():
            break
        noisy = Image.fromarray(corrupt(recipe, step, image, job.sample_id))
        format, options = _ENCODINGS[target.suffix.lower()]
        with written(target) as stream:
            noisy.save(stream, format, **options)
    return ""


def _single_channel(source: Path, image: NDArray[np.uint8]) -> bool:
    """Whether the file stores grey values, and not colours that happen to be grey; DICOM goes by its pixels."""
    from PIL import Image

    if (image != image[..., :1]).any():
        return False
    with source.open("rb") as stream:
        if stream.read(132)[128:] == b"DICM":
            return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that is not used
        with Image.open(source) as stored:
            return stored.mode in _GREY_MODES or stored.mode.startswith("I;16")
