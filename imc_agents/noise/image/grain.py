"""Noise of each value by itself, as published benchmarks have it: Gaussian, speckle, impulse and shot noise.

All take a uint8 image [H, W] or [H, W, 3], the strength of a severity and the generator of the image, and return an
image of that shape. Colour channels draw independently. The draws do not depend on the strength.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from imc_agents.noise.image.draws import normal, words
from imc_agents.noise.image.pixels import truncated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"]

_SHOT_BITS = 12


def gaussian_noise(
    image: NDArray[np.uint8], strength: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Add normal noise of standard deviation ``strength`` (intensities 0..1)."""
    noisy = normal(random, image.shape)
    noisy *= 255 * strength
    noisy += image
    return truncated(noisy)


def speckle_noise(
    image: NDArray[np.uint8], strength: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Multiply by 1 plus normal noise of standard deviation ``strength``, as interference does in ultrasound."""
    noisy = normal(random, image.shape)
    noisy *= strength
    noisy += 1
    noisy *= image
    return truncated(noisy)


def impulse_noise(
    image: NDArray[np.uint8], strength: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Turn the share ``strength`` of all values to black or white, half of them each (salt and pepper)."""
    import numpy as np

    drawn = words(random, image.shape)
    half = round(strength / 2 * (1 << 16))
    noisy = image.copy()
    np.putmask(noisy, drawn < half, 0)
    np.putmask(noisy, drawn >= (1 << 16) - half, 255)
    return noisy


def shot_noise(image: NDArray[np.uint8], strength: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Count photons: Poisson(x * strength) / strength for intensity x in 0..1.

    Each value has one uniform draw of 12 bits, whose quantile is taken, so that severities share their draws.
    """
    import numpy as np

    index = (words(random, image.shape) >> (16 - _SHOT_BITS)).astype(np.int32)
    index += image.astype(np.int32) << _SHOT_BITS
    return _shot_levels(strength).take(index)


@lru_cache(maxsize=32)
def _shot_levels(photons: float) -> NDArray[np.uint8]:
    """Grey level for each of 256 intensities and 4,096 draws, one after the other."""
    import numpy as np

    most = int(photons + 10 * photons**0.5 + 10)
    counts = np.arange(most + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    draws = (np.arange(1 << _SHOT_BITS) + 0.5) / (1 << _SHOT_BITS)
    levels = np.zeros((256, 1 << _SHOT_BITS), np.uint8)
    for intensity in range(1, 256):
        rate = intensity / 255 * photons
        cumulative = np.cumsum(np.exp(counts * np.log(rate) - rate - log_factorial))
        levels[intensity] = np.minimum(np.searchsorted(cumulative, draws) / photons, 1) * 255
    return levels.ravel()
