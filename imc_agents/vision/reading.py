"""Image files as upright 8-bit RGB pictures: bounded before they are decoded, and never silently something else."""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.errors import DataError
from imc_agents.vision.dicom import check_shape, is_dicom, read_dicom

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MOST_PIXELS", "content_of", "inside", "read_image"]

MOST_PIXELS = 64 * 2**20
_MOST_BYTES = 32 * 2**20
_MOST_DICOM_BYTES = 512 * 2**20
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_PLAIN = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "BMP": "bmp"}
_ALPHA = ("RGBA", "LA", "PA", "RGBa")
_CONVERTED = ("RGB", "L", "P", "1", "CMYK", "YCbCr", "RGBX")
_WHITE = (255, 255, 255)  # what vLLM puts behind transparent images
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 0x0102, 0x0106, 0x0153
# The filters of warnings belong to the whole process: threads that change them at once would leave them changed.
_FILTERS = threading.Lock()


def read_image(path: Path, *, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """Read an image file as a Pillow image in mode RGB.

    EXIF orientation is applied and transparency put on white. Grey values of 16 bits are brought to 8 by the range of
    their bit depth, so 65,535 is white whatever the image uses; signed, 32-bit and floating-point ones go from the
    minimum to the maximum of the image. DICOM is shown through its window (``read_dicom``). Of a JPEG with further
    pictures inside (MPO), the one that every viewer shows is read. Colour profiles are not applied.

    Args:
        path: PNG, JPEG, WebP, GIF, BMP, TIFF or DICOM, with one frame.
        max_pixels: Refused above it, from the header alone; ``MOST_PIXELS`` at most.

    Raises:
        DataError: the file cannot be read, is larger than 32 MiB (DICOM: 512 MiB), damaged, no image, or has more
            pixels than allowed, a side 200 times the other, or more than one frame.
    """
    content = _content(path)
    with _quiet():
        return _decoded(path, content, min(max_pixels, MOST_PIXELS)).image


def content_of(path: Path) -> tuple[bytes, str]:
    """Return an image file for a program that decodes it itself, which then sees what ``read_image`` reads.

    Everything that programs show differently (DICOM, 16 bits, transparency, palettes, a rotation in EXIF) is decoded
    and written as PNG.

    Returns:
        The content, and its MIME subtype. A plain 8-bit picture is returned as it is.

    Raises:
        DataError: as ``read_image``.
    """
    content = _content(path)
    with _quiet():
        decoded = _decoded(path, content, MOST_PIXELS)
        if decoded.plain:
            return content, decoded.plain
        written = io.BytesIO()
        decoded.image.save(written, "PNG", compress_level=1)
        return written.getvalue(), "png"


def inside(folder: Path, name: str) -> Path:
    """Return the resolved path of an image that a row of data names, which need not exist.

    Args:
        folder: The folder of the data.
        name: Path relative to it.

    Raises:
        DataError: the path is absolute, or leaves the folder through ``..`` or a link.
    """
    try:
        root = folder.resolve()
        found = (root / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise DataError(f"image {name!r}: no path of a file ({error}); correct it") from error
    if Path(name).is_absolute() or not found.is_relative_to(root):
        raise DataError(
            f"image {name!r} leads out of {root}; keep images inside it, name them relative to it"
        )
    if found == root:
        raise DataError(f"image {name!r} names no file in {root}; correct it")
    return found


@dataclass(frozen=True, slots=True)
class _Decoded:
    image: Image.Image
    plain: str = ""  # the MIME subtype, where every program decodes the file to the same picture


def _content(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK a named pipe would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise DataError(f"{path}: no regular file; name an image file")
            content = stream.read(_MOST_BYTES + 1)
            dicom = is_dicom(path, content)
            if dicom and len(content) > _MOST_BYTES:
                content += stream.read(_MOST_DICOM_BYTES - _MOST_BYTES)
    except IsADirectoryError as error:
        raise DataError(f"{path}: a folder; name an image file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: the image cannot be read ({reason}); check the path") from error
    most = _MOST_DICOM_BYTES if dicom else _MOST_BYTES
    if len(content) > most:
        raise DataError(f"{path}: the image is larger than {most >> 20} MiB; make it smaller")
    if not content:
        raise DataError(f"{path}: the image file is empty; write it again")
    return content


@contextmanager
def _quiet() -> Generator[None]:
    """No warnings: Pillow and pydicom warn of metadata that is not used, and of sizes that are checked here."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _decoded(path: Path, content: bytes, max_pixels: int) -> _Decoded:
    if is_dicom(path, content):
        return _Decoded(read_dicom(path, content, max_pixels))

    from PIL import Image, UnidentifiedImageError

    too_large = f"{path}: the image has more than {max_pixels:,} pixels; make it smaller"
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        if image.width * image.height > max_pixels:
            raise DataError(too_large)
        check_shape(path, *image.size)
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1 and image.format != "MPO":
            raise DataError(f"{path}: the image has {frames} frames; extract the one that is meant")
        if image.format == "PNG":
            image.verify()  # the checksums, which decoding skips
            image = Image.open(io.BytesIO(content), formats=("PNG",))
        image.load()
        return _converted(path, image, content[24] if image.format == "PNG" else 0)
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(too_large) from None
    except UnidentifiedImageError as error:
        problem = "no image of a kind that can be read, or its header is damaged; convert it to PNG or JPEG"
        raise DataError(f"{path}: {problem}") from error
    except Exception as error:  # what decoders raise at damaged files is not bounded
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: the image is damaged ({reason}); write it again") from error


def _converted(path: Path, image: Image.Image, png_depth: int) -> _Decoded:
    """Bring a decoded image of any mode to upright 8-bit RGB.

    Args:
        path: For errors.
        image: Decoded.
        png_depth: Bits per sample in the file of a PNG, else 0.
    """
    from PIL import ImageOps

    try:
        orientation: Any = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # an unreadable EXIF block says nothing; programs show such images as they are
        orientation = None
    transparent = image.mode in _ALPHA or "transparency" in image.info
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        rgb = _grey(path, image)
    elif transparent:
        rgb = _on_white(path, image, png_depth)
    elif image.mode in _CONVERTED:
        rgb = image.convert("RGB")
    else:
        raise DataError(f"{path}: colours of the kind {image.mode} are not supported; convert it to RGB")
    rgb.info.clear()  # no metadata travels on
    if orientation not in (1, None):
        rgb.getexif()[_ORIENTATION] = orientation
        rgb = ImageOps.exif_transpose(rgb)
    plain = image.mode in ("RGB", "L") and orientation == 1 and not transparent and png_depth in (0, 8)
    return _Decoded(rgb, _PLAIN.get(image.format or "", "") if plain else "")


def _grey(path: Path, image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    tags: Any = getattr(image, "tag_v2", {})
    values: Any = np.asarray(image)
    if image.mode == "I" and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
        values = values.view("uint32")  # Pillow keeps unsigned values in signed ones
    low, high = 0.0, 2.0 ** tags.get(_BITS, (16,))[0] - 1
    if image.mode in ("I", "F"):
        if not np.isfinite(values).all():
            raise DataError(f"{path}: the image holds values that are not finite; replace them")
        low, high = float(values.min()), float(values.max())
    scaled = (values.astype("float64") - low) / ((high - low) or 1)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds up to 8 bits only
        scaled = 1 - scaled
    scaled = np.rint(scaled * 255).astype("uint8")
    if "transparency" in image.info:
        scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(scaled).convert("RGB")


def _on_white(path: Path, image: Image.Image, png_depth: int) -> Image.Image:
    from PIL import Image

    if png_depth == 16 and image.mode == "RGB":
        raise DataError(f"{path}: 16-bit colours of which one is transparent; save it with 8 bits")
    if png_depth in (2, 4) and image.mode == "L":
        # The grey value that is transparent is in the file's depth, the pixels are in 8 bits.
        image.info["transparency"] = image.info["transparency"] * 255 // (2**png_depth - 1)
    image = image.convert("RGBA")
    shown = Image.new("RGB", image.size, _WHITE)
    shown.paste(image, mask=image.getchannel("A"))
    return shown
