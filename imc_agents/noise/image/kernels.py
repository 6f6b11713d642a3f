"""Blur kernels, and their correlation with an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["correlate", "disk", "line"]


def line(radius: float, sigma: float, angle: float) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The one-sided line of ImageMagick's motion blur, which MedMNIST-C and ImageNet-C use.

    Weights exp(-i^2 / (2 sigma^2)) for i = 0..2 radius, each at the pixel nearest to i steps along the line.

    Args:
        radius: In pixels.
        sigma: In pixels.
        angle: In degrees from the horizontal.

    Returns:
        The kernel, which sums to 1, and its anchor (x, y).
    """
    import numpy as np

    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    x = np.ceil(steps * np.cos(np.deg2rad(angle)) - 0.5).astype(int)
    y = np.ceil(steps * np.sin(np.deg2rad(angle)) - 0.5).astype(int)
    kernel = np.zeros((int(np.ptp(y)) + 1, int(np.ptp(x)) + 1), np.float32)
    np.add.at(kernel, (y - y.min(), x - x.min()), weights / weights.sum())
    return kernel, (-int(x.min()), -int(y.min()))


def disk(radius: float, alias: float, samples: int = 1) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The disk of ImageNet-C's defocus blur, its rim softened by a Gaussian of 3 pixels, or 5 for radii above 8.

    As published, a disk that touches the border of its grid of 17 x 17, or as large as itself, is softened with the
    grid reflected there: it sums to a little more than 1, and brightens by as much (1 % for a radius of 8).

    Args:
        radius: In pixels.
        alias: Standard deviation of the Gaussian in pixels.
        samples: Points of each pixel along either axis that are looked up in the disk; 1 as published.

    Returns:
        The kernel and its anchor (x, y).
    """
    import cv2
    import numpy as np

    reach = math.ceil(radius) + (samples > 1)
    grid, rim = (8, 1) if radius <= 8 else (reach, 2)
    side = 2 * grid + 1
    place = (np.arange(side * samples) - (side * samples - 1) / 2) / samples
    points = (place**2 + place[:, None] ** 2 <= radius**2).astype(np.float32)
    inside = points.reshape(side, samples, side, samples).mean(axis=(1, 3))
    inside /= inside.sum()
    cv2.GaussianBlur(inside, (2 * rim + 1, 2 * rim + 1), alias, dst=inside)
    used = min(grid, reach + rim)
    kept = slice(grid - used, grid + used + 1)
    return inside[kept, kept], (used, used)


def correlate(
    image: NDArray[np.uint8] | NDArray[np.float32],
    kernel: NDArray[np.float32],
    anchor: tuple[int, int],
    border: int,
) -> NDArray[np.float32]:
    """Sum of the kernel's taps times the pixels under them.

    Args:
        image: Levels [H, W] or [H, W, C].
        kernel: Taps [h, w].
        anchor: Place (x, y) in the kernel of the pixel that the sum is for.
        border: How OpenCV continues the image, e.g. ``cv2.BORDER_REPLICATE``.

    Returns:
        Levels, float32, of the image's shape.
    """
    import cv2
    import numpy as np

    # Of float32, OpenCV sums small kernels directly and transforms large ones; of uint8 it does neither well.
    levels = image.astype(np.float32, copy=False)
    return cv2.filter2D(levels, -1, kernel, anchor=anchor, borderType=border)  # pyright: ignore[reportReturnType]
