"""Scores of a benchmark run as arrays: the samples of a data set by every noise, severity and method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imc_agents.bench.matrix.methods import MATRIX_METHODS
from imc_agents.bench.outcomes import CLEAN, Outcome
from imc_agents.bench.report.answers import Metric, score
from imc_agents.noise.registry import SUITES, noises

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Cell", "Noise", "Scores", "gather", "methods_of", "noises_of"]


@dataclass(frozen=True, slots=True)
class Noise:
    """A noise of a run."""

    name: str
    modality: Literal["none", "text", "image"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A method under a noise at a severity; ``clean`` has severity 0."""

    method: str
    noise: str
    severity: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one model on one data set by one metric.

    Attributes:
        samples: Questions that the metric is for, sorted.
        cells: The columns of ``values``.
        values: [samples, cells], float64 in [0, 1]; NaN where there is no outcome or it was not scored.
        there: [samples, cells]; whether there is an outcome.
    """

    samples: tuple[str, ...]
    cells: tuple[Cell, ...]
    values: NDArray[np.float64]
    there: NDArray[np.bool_]


def gather(outcomes: Sequence[Outcome], metric: Metric) -> Scores:
    """Score the outcomes of one model on one data set; those that the metric is not for are left out.

    Where a sample stands twice in a cell, the last outcome counts.
    """
    import numpy as np

    chosen = [outcome for outcome in outcomes if outcome.kind == metric.kind]
    samples = sorted({outcome.sample for outcome in chosen})
    methods = methods_of(chosen)
    noises = [CLEAN, *(noise.name for noise in noises_of(chosen))]
    found = {Cell(outcome.method, outcome.noise, outcome.severity) for outcome in chosen}
    cells = sorted(
        found, key=lambda cell: (methods.index(cell.method), noises.index(cell.noise), cell.severity)
    )
    rows = {sample: at for at, sample in enumerate(samples)}
    columns = {cell: at for at, cell in enumerate(cells)}
    values = np.full((len(samples), len(cells)), np.nan)
    there = np.zeros(values.shape, dtype=np.bool_)
    for outcome in chosen:
        at = rows[outcome.sample], columns[Cell(outcome.method, outcome.noise, outcome.severity)]
        found_score = score(outcome, metric)
        values[at] = np.nan if found_score is None else found_score
        there[at] = True
    return Scores(tuple(samples), tuple(cells), values, there)


def noises_of(outcomes: Iterable[Outcome]) -> list[Noise]:
    """Return the noises of some outcomes in the order of their suites, text before image; clean is none."""
    found = {outcome.noise: Noise(outcome.noise, outcome.modality) for outcome in outcomes}
    known = [spec.full_name for suite in SUITES for spec in noises(suite=suite)]
    listed = [found[name] for name in _in_order(found, known) if name != CLEAN]
    return sorted(listed, key=lambda noise: noise.modality, reverse=True)


def methods_of(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the methods of some outcomes in the order that tables have."""
    return _in_order((outcome.method for outcome in outcomes), tuple(MATRIX_METHODS))


def _in_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return distinct names: the known ones in the order given, then the others by name, whatever their own order."""
    found = set(names)
    return [name for name in known if name in found] + sorted(found.difference(known))
