"""The weather of ImageNet-C (Hendrycks & Dietterich 2019): snow, frost and fog.

All take a uint8 image [H, W] or [H, W, 3], the strength of a severity and the generator of the image, and return an
image of that shape. Snow and frost are made for a shorter side of 224 and enlarged or reduced with the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imc_agents.noise.image.draws import normal
from imc_agents.noise.image.kernels import correlate, line
from imc_agents.noise.image.pixels import scale, truncated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["fog", "frost", "snow"]

_LUMINANCE = (0.299, 0.587, 0.114)

# Mean colour, spread within a picture and spread between its parts of the five pictures of frost that ImageNet-C
# draws from (two of them are the same), measured on 60 crops of 224 x 224 each.
_FROSTS = (
    ((77.7, 149.1, 165.7), (22.4, 13.1, 12.4), 11.0),
    ((200.8, 205.4, 214.5), (17.7, 18.2, 19.0), 7.6),
    ((200.8, 205.4, 214.5), (17.7, 18.2, 19.0), 7.6),
    ((137.6, 152.8, 165.2), (23.3, 23.4, 24.8), 7.2),
    ((112.4, 123.4, 134.8), (32.6, 32.1, 31.3), 13.7),
)


def snow(
    image: NDArray[np.uint8], strength: tuple[float, ...], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Whiten the image and let flakes fall through it, twice: once turned by 180 degrees.

    Args:
        image: The image.
        strength: Mean and standard deviation of the noise that flakes are cut from, their size, the threshold above
            which noise is a flake, radius and sigma of their motion, and the share of the image that is not whitened.
        random: Draws the noise and the direction of the flakes.
    """
    import cv2
    import numpy as np

    mean, spread, size, threshold, radius, sigma, kept = strength
    angle = random.uniform(-135, -45)
    height, width = _reference(image)
    flakes = _enlarged(normal(random, (height, width)), size) * np.float32(spread) + np.float32(mean)
    flakes[flakes < threshold] = 0
    levels = (np.clip(flakes, 0, 1) * 255).astype(np.float32)
    fallen = np.rint(correlate(levels, *line(radius, sigma, angle), cv2.BORDER_REPLICATE))  # pyright: ignore[reportArgumentType]
    fallen = fallen + fallen[::-1, ::-1]
    if fallen.shape != image.shape[:2]:
        fallen = np.asarray(cv2.resize(fallen, image.shape[1::-1]), np.float32)
    grey: Any = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    whitened = grey * np.float32(1.5) + np.float32(127.5)
    layers: Any = cv2.split(image) if image.ndim == 3 else [image]
    made = [
        truncated(kept * layer.astype(np.float32) + (1 - kept) * np.maximum(layer, whitened) + fallen)
        for layer in layers
    ]
    return cv2.merge(made)  # pyright: ignore[reportReturnType]


def _enlarged(noise: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The centre of [H, W], enlarged linearly to [H, W], corners on corners."""
    import cv2
    import numpy as np

    height, width = noise.shape
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    down = (rows - 1) / max(1, round(rows * factor) - 1)
    across = (columns - 1) / max(1, round(columns * factor) - 1)
    matrix = np.array([[across, 0, left], [0, down, top]], np.float64)
    return cv2.warpAffine(  # pyright: ignore[reportReturnType]
        noise,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def frost(
    image: NDArray[np.uint8], strength: tuple[float, float], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Lay frost over the image; ``strength`` is the weight of the image and that of the frost.

    ImageNet-C lays photographs of frost over it. Ours is drawn: crystals as the ridges of noise along three directions
    60 degrees apart, over clouds, in the colours and the contrast of those photographs.
    """
    import cv2
    import numpy as np

    height, width = _reference(image)
    colour, spread, between = _FROSTS[int(random.integers(len(_FROSTS)))]
    offset = between * float(random.standard_normal())
    turn = float(random.uniform(0, 60))
    noise = normal(random, (height, width))
    ridges = noise
    for angle in (turn, turn + 60, turn + 120):
        along = correlate(noise, *line(6, 5, angle), cv2.BORDER_REPLICATE)  # pyright: ignore[reportArgumentType]
        ridges = np.maximum(ridges, along)
    coarse = normal(random, (max(2, height // 32), max(2, width // 32)))
    clouds = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    crystals = (ridges - ridges.mean()) / ridges.std() + np.float32(0.6) * clouds
    crystals = (crystals - crystals.mean()) / crystals.std()
    if crystals.shape != image.shape[:2]:
        crystals = np.asarray(cv2.resize(crystals, image.shape[1::-1]), np.float32)
    weight, share = strength
    layers: Any = cv2.split(image) if image.ndim == 3 else [image]
    tones = list(zip(colour, spread, strict=True))
    if image.ndim == 2:
        tones = [tuple(float(np.dot(_LUMINANCE, part)) for part in (colour, spread))]
    made: list[NDArray[np.uint8]] = []
    for layer, (mean, deviation) in zip(layers, tones, strict=True):
        ice = np.clip(crystals * np.float32(deviation) + np.float32(mean + offset), 0, 255)
        made.append(truncated(weight * layer.astype(np.float32) + share * ice))
    return cv2.merge(made)  # pyright: ignore[reportReturnType]


def _reference(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width of the image if its shorter side were 224."""
    factor = scale(image)
    return round(image.shape[0] / factor), round(image.shape[1] / factor)


def fog(
    image: NDArray[np.uint8], strength: tuple[float, float], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Add fog and keep the brightest level; ``strength`` is its density and how fast its detail fades."""
    import numpy as np

    density, decay = strength
    size = 1 << (max(image.shape[:2]) - 1).bit_length()
    height, width = image.shape[:2]
    mist = _plasma(max(2, size), decay, random)[:height, :width] * np.float32(255 * density)
    most = int(image.max()) / 255
    share = np.float32(most / (most + density))
    levels = (image + (mist if image.ndim == 2 else mist[..., None])) * share
    return truncated(levels)


def _plasma(size: int, decay: float, random: np.random.Generator) -> NDArray[np.float32]:
    """A height map [size, size] of 0..1 by the diamond-square algorithm, periodic at its edges.

    Args:
        size: A power of two.
        decay: The amplitude of each level over that of the next finer one.
        random: Draws the same for every decay.
    """
    import numpy as np

    heights = np.zeros((size, size), np.float32)
    step, wobble = size, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = _wobbled(pairs + np.roll(pairs, -1, 1), wobble, random)
        centres = heights[half::step, half::step]
        across = centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1)
        heights[::step, half::step] = _wobbled(across, wobble, random)
        down = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0)
        heights[half::step, ::step] = _wobbled(down, wobble, random)
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return heights / max(float(heights.max()), 1e-6)


def _wobbled(total: NDArray[np.floating], wobble: float, random: np.random.Generator) -> NDArray[np.float32]:
    """The mean of four neighbours, from their sum, and a uniform draw that fades with the square of the level."""
    import numpy as np

    drawn = random.random(total.shape, dtype=np.float32)
    drawn -= np.float32(0.5)
    drawn *= np.float32(2 * wobble * wobble)
    drawn += total / 4
    return drawn
