"""Blur kernels, and their correlation with an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["correlate", "disk", "line"]

# OpenCV sums the taps of kernels up to 11 x 11 directly and transforms larger ones, which costs ten times as much.
_TILE = 11
_MOST_TILES = 16


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

    steps = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    x = np.ceil(steps * np.cos(np.deg2rad(angle)) - 0.5).astype(int)
    y = np.ceil(steps * np.sin(np.deg2rad(angle)) - 0.5).astype(int)
    kernel = np.zeros((int(np.ptp(y)) + 1, int(np.ptp(x)) + 1), np.float32)
    np.add.at(kernel, (y - y.min(), x - x.min()), weights / weights.sum())
    return kernel, (-int(x.min()), -int(y.min()))


def disk(radius: float, alias: float) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The disk of ImageNet-C's defocus blur, its rim softened by a Gaussian of 3 pixels, or 5 for radii above 8.

    Args:
        radius: In pixels.
        alias: Standard deviation of the Gaussian in pixels.

    Returns:
        The kernel, which sums to 1, and its anchor (x, y).
    """
    import cv2
    import numpy as np

    rim = 1 if radius <= 8 else 2
    reach = int(np.ceil(radius)) + rim
    place = np.arange(-reach, reach + 1)
    inside = (place**2 + place[:, None] ** 2 <= radius**2).astype(np.float32)
    inside /= inside.sum()
    cv2.GaussianBlur(inside, (2 * rim + 1, 2 * rim + 1), alias, dst=inside)
    return inside, (reach, reach)


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

    levels = image.astype(np.float32, copy=False)
    tiles = [
        (top, left)
        for top in range(0, kernel.shape[0], _TILE)
        for left in range(0, kernel.shape[1], _TILE)
        if kernel[top : top + _TILE, left : left + _TILE].any()
    ]
    if len(tiles) > _MOST_TILES:
        return cv2.filter2D(levels, -1, kernel, anchor=anchor, borderType=border)  # pyright: ignore[reportReturnType]
    height, width = image.shape[:2]
    below, right = kernel.shape[0] - 1 - anchor[1], kernel.shape[1] - 1 - anchor[0]
    around: Any = cv2.copyMakeBorder(levels, anchor[1], below, anchor[0], right, border)
    total = np.zeros_like(levels)
    for top, left in tiles:
        tile = kernel[top : top + _TILE, left : left + _TILE]
        under = around[top : top + height + tile.shape[0] - 1, left : left + width + tile.shape[1] - 1]
        # The rows and columns that OpenCV makes up beyond `under` are the ones cut off.
        part = cv2.filter2D(under, -1, tile, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
        total += part[:height, :width]
    return total
