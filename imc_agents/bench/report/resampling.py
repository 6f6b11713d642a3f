"""The figures of all methods, noises and severities of a data set at once, resampled together, and tests from these.

A figure is a statistic of the samples under weights, which say how often each was drawn: the mean of their scores, the
mean over classes of such means, or the area under the ROC curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imc_agents.bench.outcomes import CLEAN
from imc_agents.bench.report.areas import area_gaps, areas
from imc_agents.bench.report.bootstrap import resampled_means
from imc_agents.bench.report.measures import Statistic
from imc_agents.bench.report.scores import Cell, Scores
from imc_agents.bench.report.stats import PairedTest, gap_tests, paired_tests

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Resampled", "resample", "tests_against"]


@dataclass(frozen=True, slots=True)
class Resampled:
    """Scores of one model on one data set, resampled. The first row of each array are the figures themselves.

    Attributes:
        scores: The scores.
        statistic: What becomes of those of a cell.
        figures: That of each cell, [1 + resamples, cells].
        costs: Of the samples scored in both: the method's clean figure minus that of the cell, likewise.
        severities: Those of each noise, whatever the method.
        columns: Where a cell stands.
        whole: By column: whether all questions under that noise are there.
    """

    scores: Scores
    statistic: Statistic
    figures: Array
    costs: Array
    severities: dict[str, list[int]]
    columns: dict[Cell, int]
    whole: tuple[bool, ...]


def resample(scores: Scores, statistic: Statistic) -> Resampled:
    """Resample the samples, the same ones for every cell."""
    severities: dict[str, list[int]] = {}
    columns = {cell: at for at, cell in enumerate(scores.cells)}
    for cell in scores.cells:
        severities[cell.noise] = sorted({*severities.get(cell.noise, ()), cell.severity})
    clean = [columns.get(Cell(cell.method, CLEAN, 0)) for cell in scores.cells]
    # A noise of the image leaves out questions without one, so only questions that some method got are expected.
    of_noise = {
        noise: scores.there[:, [at for cell, at in columns.items() if cell.noise == noise]].any(axis=1)
        for noise in severities
    }
    figures = _figures(scores, statistic)
    return Resampled(
        scores=scores,
        statistic=statistic,
        figures=figures,
        costs=_gaps(
            scores,
            statistic,
            figures,
            [None if at is None else (at, column) for column, at in enumerate(clean)],
        ),
        severities=severities,
        columns=columns,
        whole=tuple(
            bool((scores.there[:, at] | ~of_noise[cell.noise]).all()) for cell, at in columns.items()
        ),
    )


def tests_against(
    found: Resampled, method: str, baseline: str, groups: Sequence[Sequence[str]]
) -> list[PairedTest]:
    """Test a method against the baseline, once for each group of noises, on the cells that both have."""
    pairs = [
        (ours, Cell(baseline, ours.noise, ours.severity)) for ours in found.columns if ours.method == method
    ]
    pairs = [(ours, theirs) for ours, theirs in pairs if theirs in found.columns]
    columns = [[at for at, (ours, _) in enumerate(pairs) if ours.noise in noises] for noises in groups]
    places = [(found.columns[ours], found.columns[theirs]) for ours, theirs in pairs]
    second, first = (found.scores.values[:, [pair[side] for pair in places]] for side in (0, 1))
    if found.statistic == "mean":
        return paired_tests(first, second, columns)
    gaps = _gaps(found.scores, found.statistic, found.figures, places)
    return gap_tests(gaps, first, second, columns, turns=found.statistic != "area")


def _figures(scores: Scores, statistic: Statistic) -> Array:
    if statistic == "area":
        return areas(*_asked(scores))
    return resampled_means(scores.values, _classes(scores, statistic))


def _gaps(
    scores: Scores, statistic: Statistic, figures: Array, pairs: Sequence[tuple[int, int] | None]
) -> Array:
    """The figure of one cell minus that of another, of the samples scored in both; NaN for a pair that is None."""
    import numpy as np

    if statistic == "area":
        return area_gaps(*_asked(scores), figures, pairs)
    differences = np.full((len(scores.samples), len(pairs)), np.nan)
    for at, pair in enumerate(pairs):
        if pair is not None:
            differences[:, at] = scores.values[:, pair[0]] - scores.values[:, pair[1]]
    return resampled_means(differences, _classes(scores, statistic))


def _classes(scores: Scores, statistic: Statistic) -> NDArray[np.intp] | None:
    return None if statistic == "mean" or scores.classes is None else scores.classes.of_samples


def _asked(scores: Scores) -> tuple[Array, NDArray[np.intp]]:
    """What the area is computed from; ``gather`` puts it into the scores of every measure that is one."""
    if scores.chances is None or scores.classes is None:
        raise ValueError("these scores were gathered for another statistic")
    return scores.chances, scores.classes.of_samples
