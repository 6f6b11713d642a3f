"""What all image noises share: the check of an image, grey images in colour, and sizes in pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imc_agents.errors import UsageError
from imc_agents.noise.registry import check_severity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["REFERENCE", "check_image", "grey_once", "scale", "truncated"]

REFERENCE = 224
"""The shorter side in pixels that published radii and widths are given for."""


def check_image(image: NDArray[np.uint8], severity: int, seed: int) -> None:
    """Check what every image noise is called with.

    Raises:
        UsageError: for a severity outside 1..5, a negative seed, or an array that is no uint8 [H, W] or [H, W, 3].
    """
    check_severity(severity)
    if seed < 0:
        raise UsageError(f"seed {seed} is negative; give 0 or more")
    if image.dtype.name != "uint8" or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise UsageError(
            f"an image of dtype {image.dtype} and shape {image.shape}; noise is put on uint8 [H, W] or [H, W, 3]"
        )
    if not image.size:
        raise UsageError(f"an image of shape {image.shape} has no pixels")


def grey_once(
    image: NDArray[np.uint8], function: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Apply a function to [H, W] or [H, W, 3]; of a grey image in colour to one channel, so that it stays grey."""
    import cv2

    # A few rows tell most pictures in colour without a look at all of them.
    if image.ndim == 3 and _equal(image[:: 1 + image.shape[0] // 8]) and _equal(image):
        grey: Any = function(image[..., 0].copy())
        return cv2.merge([grey, grey, grey])  # pyright: ignore[reportReturnType]
    return function(image)


def _equal(image: NDArray[np.uint8]) -> bool:
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return bool((red == green).all() and (green == blue).all())


def scale(image: NDArray[Any]) -> float:
    """Pixels of this image for one pixel of an image whose shorter side is 224."""
    return min(image.shape[:2]) / REFERENCE


def truncated(levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Grey levels 0..255 without their fractions, as the published corruptions store them; clips in place."""
    import numpy as np

    return np.clip(levels, 0, 255, out=levels).astype(np.uint8)
