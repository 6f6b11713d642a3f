"""Image files on their way to a server."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import Any

from imc_agents.errors import DataError

__all__ = ["data_url", "read_image"]

_MOST_BYTES = 32 * 2**20
_MOST_PIXELS = 64 * 2**20
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"BM": "bmp"}


def data_url(path: Path) -> str:
    """Return an image file as a ``data:`` URL.

    Raises:
        DataError: the file cannot be read, is larger than 32 MiB, or is no PNG, JPEG, WebP, GIF or BMP.
    """
    content, kind = _content(path)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def read_image(path: Path) -> Any:
    """Return an image file as a Pillow image in RGB.

    Raises:
        DataError: as ``data_url``; also where the image is damaged or has more than 67 million pixels.
    """
    from PIL import Image

    content, _ = _content(path)
    too_large = DataError(f"{path}: the image has more than {_MOST_PIXELS:,} pixels; make it smaller")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise too_large
                return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the image is damaged ({error})") from error


def _content(path: Path) -> tuple[bytes, str]:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: the image cannot be read ({error.strerror})") from error
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path}: the image is larger than {_MOST_BYTES >> 20} MiB; make it smaller")
    kind = next((kind for mark, kind in _KINDS.items() if content.startswith(mark)), None)
    if kind is None and content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "webp"
    if kind is None:
        raise DataError(f"{path}: no image that models read; convert it to PNG or JPEG")
    return content, kind
