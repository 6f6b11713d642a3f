"""The blurs of published benchmarks: defocus, motion, zoom, Gaussian and frosted glass.

All take a uint8 image [H, W] or [H, W, 3], the strength of a severity and the generator of the image, and return an
image of that shape. Pixels are those of a shorter side of 224: other images are blurred by as much of their size, and
by no less than about a pixel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from imc_agents.noise.image.draws import words
from imc_agents.noise.image.kernels import correlate, disk, line
from imc_agents.noise.image.pixels import scale, truncated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["defocus_blur", "gaussian_blur", "glass_blur", "motion_blur", "zoom_blur"]


def defocus_blur(image: NDArray[np.uint8], strength: tuple[float, float], *_: Any) -> NDArray[np.uint8]:
    """Blur with a disk; ``strength`` is its radius and the standard deviation of its rim in pixels."""
    import cv2

    radius, alias = strength
    factor = scale(image)
    if factor == 1:
        kernel = disk(radius, alias)
    else:
        # Of radii in parts of a pixel a disk of whole ones would jump, and shrink to nothing.
        kernel = disk(max(0.75, radius * factor), max(0.1, alias * factor), samples=4)
    return truncated(correlate(image, *kernel, cv2.BORDER_REFLECT_101))


def motion_blur(
    image: NDArray[np.uint8], strength: tuple[float, float], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Blur along a line within 45 degrees of the horizontal; ``strength`` is its radius and sigma in pixels."""
    import cv2

    angle, factor = random.uniform(-45, 45), scale(image)
    radius, sigma = max(1.0, strength[0] * factor), max(0.5, strength[1] * factor)
    return truncated(correlate(image, *line(radius, sigma, angle), cv2.BORDER_REPLICATE))


def zoom_blur(image: NDArray[np.uint8], strength: tuple[float, float], *_: Any) -> NDArray[np.uint8]:
    """Mean of the image and of its enlargements about the centre.

    Args:
        image: The image.
        strength: The largest factor, exclusive, and the step from 1 to it.
    """
    import cv2
    import numpy as np

    factors = np.arange(1, *strength).tolist()
    height, width = image.shape[:2]
    levels = image.astype(np.float32)
    total = levels.copy()
    for factor in factors:
        rows, columns = _centre(height, height / factor), _centre(width, width / factor)
        shape = [round((part.stop - part.start) * factor) for part in (columns, rows)]
        enlarged = cv2.resize(levels[rows, columns], shape, interpolation=cv2.INTER_LINEAR)
        total += enlarged[_centre(shape[1], height), _centre(shape[0], width)]
    total /= len(factors) + 1
    return truncated(total)


def _centre(side: int, part: float) -> slice:
    """The middle pixels of a side, as many as ``part`` rounded up."""
    count = math.ceil(part)
    start = (side - count) // 2
    return slice(start, start + count)


def gaussian_blur(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Blur with a Gaussian that is cut to ``strength`` pixels and has sigma 0.15 strength + 0.35."""
    import cv2

    factor = scale(image)
    reach = max(1, round((strength - 1) / 2 * factor))
    sigma = max(0.5, (0.15 * strength + 0.35) * factor)
    size = (2 * reach + 1, 2 * reach + 1)
    return cv2.GaussianBlur(image, size, sigma, borderType=cv2.BORDER_REFLECT_101)  # pyright: ignore[reportReturnType]


def glass_blur(
    image: NDArray[np.uint8], strength: tuple[float, float, float], random: np.random.Generator
) -> NDArray[np.uint8]:
    """See through frosted glass: a Gaussian, pixels replaced by ones near them, and the Gaussian again.

    The published loop means to swap pixels, and copies them, since it swaps views of rows. From the last pixel to the
    first, each is replaced by one that may have been replaced before; such chains are followed here at once.

    Args:
        image: The image.
        strength: Sigma of the Gaussian and the largest shift in pixels, and the rounds of replacement.
        random: Draws the shifts.
    """
    import numpy as np

    sigma, shift, rounds = strength
    factor = scale(image)
    sigma, reach = max(0.5, sigma * factor), max(1, round(shift * factor))
    height, width = image.shape[:2]
    glass = _gaussian(image.astype(np.float32), sigma).astype(np.uint8)
    flat = glass.reshape(height * width, -1)
    for _ in range(int(rounds)):
        down, across = words(random, (2, height, width))
        flat = flat.take(_sources(down, across, reach), axis=0)
    return truncated(_gaussian(flat.reshape(image.shape).astype(np.float32), sigma))


def _sources(down: NDArray[np.uint16], across: NDArray[np.uint16], reach: int) -> NDArray[np.int32]:
    """Which pixel each one shows after a round, flat [H * W]; draws [H, W] are for shifts -reach..reach - 1."""
    import numpy as np

    height, width = down.shape
    own = np.arange(height * width, dtype=np.int32).reshape(height, width)
    source = own.copy()
    inner = (slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1))
    shifts = [((draw[inner].astype(np.int32) * (2 * reach)) >> 16) - reach for draw in (down, across)]
    source[inner] += shifts[0] * width + shifts[1]
    source, own = source.ravel(), own.ravel()
    # A pixel after this one in reading order was replaced before it: what it showed by then is copied.
    shown = source.copy()
    chained = np.flatnonzero(source > own)
    while chained.size:
        through = shown[chained]
        shown[chained] = source[through]
        chained = chained[shown[chained] > through]
    return shown


def _gaussian(levels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    import cv2

    size = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(levels, (size, size), sigma, borderType=cv2.BORDER_REPLICATE)  # pyright: ignore[reportReturnType]
