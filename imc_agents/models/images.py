"""Image files on their way to a server."""

from __future__ import annotations

import base64
from pathlib import Path

from imc_agents.vision.reading import content_of

__all__ = ["data_url"]


def data_url(path: Path) -> str:
    """Return an image file as a ``data:`` URL that shows exactly what ``read_image`` reads.

    Raises:
        DataError: as ``read_image``.
    """
    content, kind = content_of(path)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
