"""Tests of a benchmark: two methods on the same samples, with the bootstrap over samples or McNemar's exact test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imc_agents.bench.report.bootstrap import RESAMPLES, bootstrap_means, column_means
from imc_agents.text.metrics import Paired

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["PairedTest", "gap_tests", "holm", "mcnemar", "paired_tests"]


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two methods on the same samples; positive means that the second is better.

    Attributes:
        samples: Samples that both were scored on, in one cell at least.
        left_out: Pairs of which only one was scored.
        difference: Figure of the second minus that of the first on the pairs; cells weigh the same.
        wins: Pairs in which the second scored higher; None where a single sample has no score, as for an area.
        losses: Pairs in which it scored lower, likewise.
        p: Two-sided; 1 where there are no pairs.
        test: The exact one for a single cell of right and wrong, else the bootstrap over samples.
    """

    samples: int
    left_out: int
    difference: float
    wins: int | None
    losses: int | None
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


def gap_tests(
    gaps: Array,
    first: Array,
    second: Array,
    groups: Sequence[Sequence[int]],
    *,
    turns: bool = True,
) -> list[PairedTest]:
    """Compare two methods by figures that are no mean over samples, once for each group of cells.

    p is that of ``paired_tests`` with resamples, of those in which the figure exists.

    Args:
        gaps: Figure of the other method minus that of the baseline, on the samples scored in both,
            [1 + resamples, cells]; the first row is of the samples as they are.
        first: Scores of the baseline, [samples, cells].
        second: Scores of the other method, in the same order.
        groups: For each test the cells that it is about.
        turns: Whether single samples win and lose.
    """
    import numpy as np

    differences = second - first
    one_only = np.isnan(first) != np.isnan(second)
    found: list[PairedTest] = []
    for group in groups:
        held = [cell for cell in group if not np.isnan(gaps[0, cell])]
        kept = differences[:, held]
        mean, p = 0.0, 1.0
        if held:
            mean = float(gaps[0, held].mean())
            strays = (gaps[1:, held] - gaps[0, held]).mean(axis=1)
            defined = strays[~np.isnan(strays)]
            p = (1 + int((np.abs(defined) >= abs(mean) - 1e-12).sum())) / (1 + len(defined))
        found.append(
            PairedTest(
                samples=int((~np.isnan(kept)).any(axis=1).sum()),
                left_out=int(one_only[:, list(group)].sum()),
                difference=mean,
                wins=int((kept > 0).sum()) if turns else None,
                losses=int((kept < 0).sum()) if turns else None,
                p=p,
                test="bootstrap",
            )
        )
    return found


def _binary(differences: Array) -> bool:
    """Whether McNemar's test is for these: at most one cell, and no score between 0 and 1."""
    import numpy as np

    held = differences[~np.isnan(differences)]
    return differences.shape[1] <= 1 and bool(np.isin(held, (-1.0, 0.0, 1.0)).all())
