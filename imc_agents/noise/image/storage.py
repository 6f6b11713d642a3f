"""Noise of storage and transfer: JPEG compression and low resolution."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["jpeg", "jpeg_compression", "pixelate"]


def jpeg(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Compress with JPEG of quality ``strength`` and decode again; [H, W] or [H, W, 3]."""
    import numpy as np
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=int(strength))
    with Image.open(stored) as decoded:
        return np.asarray(decoded)


def pixelate(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Reduce to the share ``strength`` of the resolution and enlarge again, both as boxes; [H, W] or [H, W, 3]."""
    import numpy as np
    from PIL import Image

    height, width = image.shape[:2]
    small = (max(1, int(width * strength)), max(1, int(height * strength)))
    picture = Image.fromarray(image)
    if width % small[0] == 0 and height % small[1] == 0:
        # The same mean, rounded once instead of once a direction, and twice as quick.
        picture = picture.reduce((width // small[0], height // small[1]))
    else:
        picture = picture.resize(small, Image.Resampling.BOX)
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST))


def jpeg_compression(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Compress with JPEG of quality ``strength`` and decode again, in memory; [H, W] or [H, W, 3]."""
    import cv2

    grey = image.ndim == 2
    stored = image if grey else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    packed = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, int(strength)])[1]
    return cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB)  # pyright: ignore[reportReturnType]
