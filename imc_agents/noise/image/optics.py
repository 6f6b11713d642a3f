"""Noise of the way to the detector: motion of the patient and exposure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["exposure", "motion"]

_REFERENCE = 224  # the shorter side in pixels that radius and sigma are given for


def motion(
    image: NDArray[np.uint8], strength: float, random: np.random.Generator, *, sigma: float
) -> NDArray[np.uint8]:
    """Blur along a line at a random angle within 45 degrees of the horizontal; [H, W] or [H, W, 3].

    The motion blur of ImageNet-C (Hendrycks & Dietterich 2019): weights exp(-i^2 / (2 sigma^2)) for i = 0..2 radius
    along the line. Radius and sigma are scaled by the shorter side over 224, so that any size is blurred alike.

    Args:
        image: The image.
        strength: Radius in pixels of a shorter side of 224.
        random: Draws the angle.
        sigma: In pixels of a shorter side of 224.
    """
    import cv2
    import numpy as np

    angle = np.deg2rad(random.uniform(-45, 45))
    scale = min(image.shape[:2]) / _REFERENCE
    radius, sigma = max(1.0, strength * scale), max(0.5, sigma * scale)
    reach = int(np.ceil(2 * radius))
    steps = np.linspace(0, 2 * radius, 4 * reach + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    kernel = np.zeros((2 * reach + 3, 2 * reach + 3), np.float32)
    # Each point of the line is shared between the four pixels around it.
    x, y = reach + 1 + steps * np.cos(angle), reach + 1 + steps * np.sin(angle)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for right, below in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.abs(1 - right - (x - left)) * np.abs(1 - below - (y - top))
        np.add.at(kernel, (top + below, left + right), weights * share)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)  # pyright: ignore[reportReturnType]


def exposure(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Raise intensities 0..1 to the power ``strength``: above 1 darker, below 1 brighter; any shape."""
    import numpy as np

    return ((np.arange(256) / 255) ** strength * 255 + 0.5).astype(np.uint8)[image]
