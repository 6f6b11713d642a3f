"""Figures of all cells under a bootstrap over samples, the percentile intervals, and the draws behind them.

Scores come as arrays of samples by cells, float64, with NaN where a sample was not scored. All cells are resampled
together, so anything computed from several of them (a mean over noises, a drop against clean) keeps its pairing.
The same seed draws the same samples whatever is computed from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from imc_agents.text.metrics import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "RESAMPLES",
    "bootstrap_means",
    "bootstrap_sums",
    "column_means",
    "divided",
    "draws",
    "percentiles",
    "resampled_means",
]

RESAMPLES = 10_000
_BLOCK = 4_000_000  # drawn samples held at once, which bounds the memory for large data sets


def column_means(scores: Array, classes: NDArray[np.intp] | None = None) -> Array:
    """Return the mean of each cell over its scored samples; NaN where there is none.

    Args:
        scores: [samples, cells].
        classes: [samples]; with it the mean over classes of these means, which of right and wrong is the balanced
            accuracy.
    """
    import numpy as np

    if classes is not None:
        return np.mean([column_means(scores[part]) for part in _parts(classes)], axis=0)
    scored = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.where(scored, scores, 0.0).sum(axis=0) / scored.sum(axis=0)


def bootstrap_sums(values: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Return the sums of all cells in each resample of the samples.

    Args:
        values: [samples, cells], without NaN.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Returns:
        [resamples, cells].
    """
    import numpy as np

    return np.concatenate([drawn @ values for drawn in draws(len(values), seed, resamples)])


def bootstrap_means(
    scores: Array,
    classes: NDArray[np.intp] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Array:
    """Return the means of all cells in each resample of the samples; NaN where no scored sample was drawn.

    Args:
        scores: [samples, cells].
        classes: [samples]; with it the mean over classes of these means, NaN where a class was not drawn.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Returns:
        [resamples, cells].
    """
    import numpy as np

    if classes is None:
        drawn = draws(len(scores), seed, resamples)
        return np.concatenate([_weighted_means(weights, scores) for weights in drawn])
    parts = [(part, scores[part]) for part in _parts(classes)]
    return np.concatenate(
        [
            np.mean([_weighted_means(weights[:, part], inside) for part, inside in parts], axis=0)
            for weights in draws(len(scores), seed, resamples)
        ]
    )


def resampled_means(scores: Array, classes: NDArray[np.intp] | None = None) -> Array:
    """Return ``column_means`` above the rows of ``bootstrap_means``, [1 + resamples, cells]."""
    import numpy as np

    return np.concatenate([column_means(scores, classes)[None], bootstrap_means(scores, classes)])


def divided(above: Array, below: Array) -> Array:
    """Return ``above / below``, elementwise; NaN where ``below`` is not positive."""
    import numpy as np

    # Differences of rates that are equal on paper may leave the last bit of a float behind.
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 1e-12)


def percentiles(replicates: Array) -> Interval | None:
    """Return the 95 % percentile interval; None where more than one replicate in forty is not defined.

    Args:
        replicates: [resamples], NaN where the statistic does not exist.
    """
    import numpy as np

    defined = replicates[~np.isnan(replicates)]
    if len(defined) < 0.975 * max(1, len(replicates)):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(float(low), float(high))


def draws(samples: int, seed: int, resamples: int) -> Iterator[Array]:
    """Yield, in blocks of resamples, how often each sample was drawn: [block, samples]."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(seed))
    block = max(1, _BLOCK // max(1, samples))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, samples, (rows, samples)) + np.arange(rows)[:, None] * samples
        counts = np.bincount(drawn.ravel(), minlength=rows * samples)
        yield counts.reshape(rows, samples).astype(np.float64)


def _weighted_means(weights: Array, scores: Array) -> Array:
    """The means of scores [samples, cells] under weights [resamples, samples]; NaN where nothing scored has weight."""
    import numpy as np

    scored = ~np.isnan(scores)
    if scored.all():
        return divided(weights @ scores, weights.sum(axis=1, keepdims=True))
    both = np.hstack([np.where(scored, scores, 0.0), scored.astype(np.float64)])
    return divided(*np.hsplit(weights @ both, 2))


def _parts(classes: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """The samples of each class."""
    import numpy as np

    return [np.flatnonzero(classes == one) for one in np.unique(classes)]
