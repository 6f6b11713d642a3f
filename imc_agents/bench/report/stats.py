"""Uncertainty of benchmark scores: bootstrap over samples, paired tests, correction for many comparisons.

Scores come as arrays of samples by cells, float64, with NaN where a sample was not scored. All cells are resampled
together, so anything computed from several of them (a mean over noises, a drop against clean) keeps its pairing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imc_agents.text.metrics import Interval, Paired

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "RESAMPLES",
    "PairedTest",
    "bootstrap_means",
    "bootstrap_sums",
    "column_means",
    "divided",
    "holm",
    "mcnemar",
    "paired_tests",
    "percentiles",
]

RESAMPLES = 10_000
_BLOCK = 4_000_000  # drawn samples held at once, which bounds the memory for large data sets


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two methods on the same samples; positive means that the second is better.

    Attributes:
        samples: Samples that both were scored on, in one cell at least.
        left_out: Pairs of which only one was scored.
        difference: Mean score of the second minus that of the first on the pairs; cells weigh the same.
        wins: Pairs in which the second scored higher.
        losses: Pairs in which it scored lower.
        p: Two-sided; 1 where there are no pairs.
        test: The exact one for a single cell of right and wrong, else the bootstrap over samples.
    """

    samples: int
    left_out: int
    difference: float
    wins: int
    losses: int
    p: float
    test: Literal["mcnemar", "bootstrap"]


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test: the probability of a split at least as uneven, were both as likely."""
    return Paired(0, gained, lost, 0).p_value


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p of each comparison of a family (Holm 1979), in the order given."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def column_means(scores: Array) -> Array:
    """Return the mean of each cell over its scored samples; NaN where there is none.

    Args:
        scores: [samples, cells].
    """
    import numpy as np

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

    return np.concatenate([drawn @ values for drawn in _draws(len(values), seed, resamples)])


def bootstrap_means(scores: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Return the means of all cells in each resample of the samples; NaN where no scored sample was drawn.

    Args:
        scores: [samples, cells].
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Returns:
        [resamples, cells].
    """
    import numpy as np

    scored = ~np.isnan(scores)
    if scored.all():
        return bootstrap_sums(scores, seed=seed, resamples=resamples) / len(scores)
    both = np.hstack([np.where(scored, scores, 0.0), scored.astype(np.float64)])
    sums, counts = np.hsplit(bootstrap_sums(both, seed=seed, resamples=resamples), 2)
    return divided(sums, counts)


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


def paired_tests(
    first: Array,
    second: Array,
    groups: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[PairedTest]:
    """Compare two methods on the same samples, once for each group of cells.

    One cell of scores that are 0 or 1 is tested by McNemar's exact test. Several cells (severities, noises) of a sample
    are not independent, and other scores are not binary: there the difference is resampled over samples, and p is the
    share of resamples that stray from it by as much as it strays from zero (Efron & Tibshirani 1993, section 16.4).

    Args:
        first: Scores of the baseline, [samples, cells].
        second: Scores of the other method, in the same order.
        groups: For each test the cells that it is about.
        seed: Seed of the resampling.
        resamples: Number of resamples; the smallest p is 1 / (resamples + 1).
    """
    import numpy as np

    differences = second - first
    one_only = np.isnan(first) != np.isnan(second)
    means = column_means(differences)
    needs_resamples = any(not _binary(differences[:, list(group)]) for group in groups)
    strays = np.zeros((0, len(means)))
    if needs_resamples:
        strays = bootstrap_means(differences, seed=seed, resamples=resamples) - means
    found: list[PairedTest] = []
    for group in groups:
        held = [cell for cell in group if not np.isnan(means[cell])]
        kept = differences[:, held]
        wins, losses = int((kept > 0).sum()), int((kept < 0).sum())
        mean = float(means[held].mean()) if held else 0.0
        if _binary(kept):
            p, test = mcnemar(wins, losses), "mcnemar"
        else:
            # A resample without a pair in some cell says nothing; NaN never counts as far.
            far = np.abs(strays[:, held].mean(axis=1)) >= abs(mean) - 1e-12
            p, test = (1.0 if not wins + losses else (1 + int(far.sum())) / (resamples + 1)), "bootstrap"
        found.append(
            PairedTest(
                samples=int((~np.isnan(kept)).any(axis=1).sum()),
                left_out=int(one_only[:, list(group)].sum()),
                difference=mean,
                wins=wins,
                losses=losses,
                p=p,
                test=test,
            )
        )
    return found


def _binary(differences: Array) -> bool:
    """Whether McNemar's test is for these: at most one cell, and no score between 0 and 1."""
    import numpy as np

    held = differences[~np.isnan(differences)]
    return differences.shape[1] <= 1 and bool(np.isin(held, (-1.0, 0.0, 1.0)).all())


def _draws(samples: int, seed: int, resamples: int) -> Iterator[Array]:
    """Yield, in blocks of resamples, how often each sample was drawn: [block, samples]."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(seed))
    block = max(1, _BLOCK // max(1, samples))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, samples, (rows, samples)) + np.arange(rows)[:, None] * samples
        counts = np.bincount(drawn.ravel(), minlength=rows * samples)
        yield counts.reshape(rows, samples).astype(np.float64)
