"""Scores of a benchmark run as arrays: the samples of a data set by every noise, severity and method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn

from imc_agents.bench.matrix.methods import MATRIX_METHODS
from imc_agents.bench.outcomes import ADAPTATION_METHODS, CLEAN, Outcome
from imc_agents.bench.report.answers import score
from imc_agents.bench.report.measures import Measure
from imc_agents.errors import UsageError
from imc_agents.noise.registry import SUITES, noises

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Cell", "Classes", "Noise", "Scores", "eligible", "gather", "methods_of", "noises_of"]


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
class Classes:
    """What the samples of a data set are one of.

    Attributes:
        names: Classes that some sample is of, in the order of the options.
        absent: Options that no sample is of; nothing can be said of them.
        of_samples: [samples], the place in ``names``.
    """

    names: tuple[str, ...]
    absent: tuple[str, ...]
    of_samples: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one model on one data set by one measure.

    Attributes:
        samples: Questions that the measure is for, sorted.
        cells: The columns of ``values``.
        values: [samples, cells], float64 in [0, 1]; NaN where there is no outcome or it was not scored.
        there: [samples, cells]; whether there is an outcome.
        classes: Of the samples, where every question has the same options.
        chances: [samples, cells, classes], how likely each class is, or None where the measure does not ask; NaN where
            ``values`` is.
    """

    samples: tuple[str, ...]
    cells: tuple[Cell, ...]
    values: NDArray[np.float64]
    there: NDArray[np.bool_]
    classes: Classes | None = None
    chances: NDArray[np.float64] | None = None


def eligible(outcomes: Iterable[Outcome], measure: Measure) -> list[Outcome]:
    """Return the outcomes that a measure is for; none where it needs what not one of them has."""
    of_kind = [outcome for outcome in outcomes if outcome.kind == measure.judge.kind]
    if measure.statistic == "mean":
        return of_kind
    chosen = [outcome for outcome in of_kind if outcome.options]
    if measure.statistic == "area" and not any(outcome.scores for outcome in chosen):
        return []
    return chosen


def gather(outcomes: Sequence[Outcome], measure: Measure) -> Scores:
    """Score the outcomes of one model on one data set; those that the measure is not for are left out.

    Where a sample stands twice in a cell, the last outcome counts.

    Raises:
        UsageError: the options of an outcome do not fit its answer, its scores, or the others.
    """
    import numpy as np

    chosen = eligible(outcomes, measure)
    samples = sorted({outcome.sample for outcome in chosen})
    classes = _classes(chosen, samples, measure)
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
    chances = None
    if classes is not None and measure.statistic == "area":
        chances = np.full((*values.shape, len(classes.names)), np.nan)
    for outcome in chosen:
        at = rows[outcome.sample], columns[Cell(outcome.method, outcome.noise, outcome.severity)]
        found_score = score(outcome, measure.judge)
        values[at] = np.nan if found_score is None else found_score
        there[at] = True
        if classes is not None and chances is not None:
            by_name = dict(zip(outcome.options, outcome.scores, strict=False))
            chances[at] = [by_name.get(name, np.nan) for name in classes.names]
    if chances is not None:
        known = ~np.isnan(chances).any(axis=2) & ~np.isnan(values)
        values[~known] = np.nan
        chances[~known] = np.nan
    return Scores(tuple(samples), tuple(cells), values, there, classes, chances)


def _classes(chosen: Sequence[Outcome], samples: Sequence[str], measure: Measure) -> Classes | None:
    """What the samples are of; None where some question has no options, and the measure does without."""
    import numpy as np

    if not chosen or not all(outcome.options for outcome in chosen):
        return None
    # The same whatever the order of the outcomes, as long as they name the same classes.
    listed = sorted({outcome.options for outcome in chosen})
    options = listed[0]
    if any(set(other) != set(options) for other in listed):
        if measure.statistic == "mean":
            return None
        _refuse(
            next(outcome for outcome in chosen if set(outcome.options) != set(options)),
            "has other classes than the rest of its data set; give all the same, or take --metric accuracy",
        )
    for outcome in chosen:
        if outcome.answer not in options:
            listing = ", ".join(options)
            _refuse(
                outcome, f"its answer {outcome.answer!r} is none of the classes {listing}; do the run again"
            )
        if outcome.scores and len(outcome.scores) != len(options):
            _refuse(outcome, f"has {len(outcome.scores)} scores for {len(options)} classes; do the run again")
    gold = {outcome.sample: outcome.answer for outcome in chosen}
    there = set(gold.values())
    names = tuple(name for name in options if name in there)
    return Classes(
        names=names,
        absent=tuple(name for name in options if name not in there),
        of_samples=np.array([names.index(gold[sample]) for sample in samples], dtype=np.intp),
    )


def _refuse(outcome: Outcome, reason: str) -> NoReturn:
    raise UsageError(f"sample {outcome.sample!r} of {outcome.dataset}: {reason}")


def noises_of(outcomes: Iterable[Outcome]) -> list[Noise]:
    """Return the noises of some outcomes in the order of their suites, text before image; clean is none."""
    found = {outcome.noise: Noise(outcome.noise, outcome.modality) for outcome in outcomes}
    known = [spec.full_name for suite in SUITES for spec in noises(suite=suite)]
    listed = [found[name] for name in _in_order(found, known) if name != CLEAN]
    return sorted(listed, key=lambda noise: noise.modality, reverse=True)


def methods_of(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the methods of some outcomes in the order that tables have."""
    return _in_order((outcome.method for outcome in outcomes), (*MATRIX_METHODS, *ADAPTATION_METHODS))


def _in_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return distinct names: the known ones in the order given, then the others by name, whatever their own order."""
    found = set(names)
    return [name for name in known if name in found] + sorted(found.difference(known))
