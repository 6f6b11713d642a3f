"""Noise of the sensor: Gaussian read-out noise and shot noise of a low dose."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["gaussian", "shot"]

_START_BITS = 10


def gaussian(image: NDArray[np.uint8], strength: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Add normal noise of standard deviation ``strength`` (intensities 0..1); [H, W] or [H, W, 3]."""
    import numpy as np

    draws = random.standard_normal(image.shape, dtype=np.float32)
    return _to_bytes(image / np.float32(255) + np.float32(strength) * draws)


def shot(image: NDArray[np.uint8], strength: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Count photons: Poisson(x * strength) / strength for intensity x in 0..1; [H, W] or [H, W, 3].

    Each pixel has one uniform draw, whose quantile is taken, so that severities share their draws.
    """
    import numpy as np

    uniform = random.random(image.shape, dtype=np.float32)
    counts = _poisson_quantile(uniform, image, strength)
    return _to_bytes(counts / np.float32(strength))


def _poisson_quantile(
    uniform: NDArray[np.float32], image: NDArray[np.uint8], photons: float
) -> NDArray[np.float32]:
    """The smallest count whose cumulative Poisson probability reaches the draw."""
    import numpy as np

    line, starts = _poisson_line(photons)
    wanted = (np.minimum(uniform, 1 - 1e-7).astype(np.float64) + image).ravel()
    found = starts[
        (image.ravel().astype(np.int32) << _START_BITS) + (uniform.ravel() * (1 << _START_BITS)).astype(int)
    ]
    below = np.flatnonzero(line[found] < wanted)
    while below.size:
        found[below] += 1
        below = below[line[found[below]] < wanted[below]]
    most = len(line) // 256 - 1
    counts = np.minimum(found - image.ravel().astype(np.int64) * (most + 1), most)
    return counts.astype(np.float32).reshape(image.shape)


@lru_cache(maxsize=8)
def _poisson_line(photons: float) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """One sorted line of the tables of all 256 intensities v, each in (v, v + 1], and where to start a search in it.

    The starts are for each intensity and the first ten bits of the draw; few steps are left from there.
    """
    import numpy as np

    rates = np.arange(256, dtype=np.float64) / 255 * photons
    most = int(photons + 10 * photons**0.5 + 10)
    counts = np.arange(most + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_pmf = counts * np.log(rates[:, None]) - rates[:, None] - log_factorial
    log_pmf[0] = np.where(counts == 0, 0.0, -np.inf)
    cumulative = np.cumsum(np.exp(log_pmf), axis=1)
    line = (np.minimum(cumulative, 1 - 1e-9) + np.arange(256.0)[:, None]).ravel()
    starts = np.searchsorted(line, np.arange(256 << _START_BITS) / (1 << _START_BITS))
    return line, np.asarray(starts, np.int64)


def _to_bytes(intensity: NDArray[np.floating]) -> NDArray[np.uint8]:
    import numpy as np

    return (np.clip(intensity, 0, 1) * 255 + 0.5).astype(np.uint8)
