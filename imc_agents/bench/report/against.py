"""Errors of every method of a run against those of one method of another run, such as a published encoder's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imc_agents.bench.outcomes import BASELINE, CLEAN, BenchRun, Outcome
from imc_agents.bench.report.bootstrap import column_means
from imc_agents.bench.report.measures import MEASURES, Measure
from imc_agents.bench.report.robustness import Errors, Robustness, corruption_errors
from imc_agents.bench.report.scores import Cell, Scores, eligible, gather, methods_of, noises_of
from imc_agents.errors import UsageError, nearest

__all__ = ["Against", "AgainstRow", "errors_against"]

_ERRORS = tuple(measure for measure in MEASURES.values() if measure.error)


@dataclass(frozen=True, slots=True)
class AgainstRow:
    """The errors of one method.

    Attributes:
        model: The model.
        dataset: The data set.
        metric: ``ce``, from accuracy, or ``be``, from balanced accuracy.
        method: The method.
        errors: In per cent of those of the other run; every noise of the data set is there, in the order of tables.
    """

    model: str
    dataset: str
    metric: str
    method: str
    errors: Robustness


@dataclass(frozen=True, slots=True)
class Against:
    """What a run's errors are compared with, and what came of it.

    Attributes:
        run: Name of the other run; of its folder where both have the same name.
        model: Its model.
        method: The method whose errors are 100 %.
        remarks: What else differs between the runs.
        rows: One a model, data set, error and method.
    """

    run: str
    model: str
    method: str
    remarks: tuple[str, ...]
    rows: tuple[AgainstRow, ...]


def errors_against(run: BenchRun, other: BenchRun, method: str | None = None) -> Against:
    """Divide the errors of every method of a run by those of one method of another run on the same data.

    Args:
        run: The run.
        other: The run to compare with, of one model.
        method: The method of it; default ``none``.

    Raises:
        UsageError: the other run has no outcome, several models or not the method; or they share no data set, their
            samples differ, or nothing in them is right or wrong.
    """
    method = BASELINE if method is None else method
    theirs = _baseline(other, method)
    data = {outcome.dataset for outcome in theirs}
    shared = [outcome for outcome in run.outcomes if outcome.dataset in data]
    if not shared:
        raise UsageError(
            f"--against: {other.name} holds {', '.join(sorted(data))}, and {run.name} holds "
            f"{', '.join(sorted({outcome.dataset for outcome in run.outcomes}))}; name a run on the same data"
        )
    remarks = _check_same(run, shared, other, theirs)
    name = other.name if other.name != run.name else other.folder.name
    if not other.complete:
        remarks.append(f"{name} is not finished; its errors are of what is there.")
    rows = tuple(row for measure in _ERRORS for row in _rows(measure, shared, theirs))
    if not rows:
        raise UsageError(f"--against: {run.name} and {other.name} share no closed question; name another run")
    absent = sorted({outcome.dataset for outcome in run.outcomes} - data)
    if absent:
        remarks.append(f"{name} does not hold {', '.join(absent)}.")
    return Against(name, theirs[0].model, method, tuple(remarks), rows)


def _baseline(other: BenchRun, method: str) -> list[Outcome]:
    """The outcomes of the method to compare with."""
    if not other.outcomes:
        raise UsageError(f"{other.name}: no outcome yet; look again when the run has begun")
    models = sorted({outcome.model for outcome in other.outcomes})
    if len(models) > 1:
        raise UsageError(
            f"--against: {other.name} holds several models, {', '.join(models)}; name a run of one model"
        )
    methods = methods_of(other.outcomes)
    if method not in methods:
        raise UsageError(
            f"--against-method: {other.name} has no method {method!r}{nearest(method, methods)}; "
            f"it has {', '.join(methods)}"
        )
    return [outcome for outcome in other.outcomes if outcome.method == method]


def _check_same(
    run: BenchRun, ours: Sequence[Outcome], other: BenchRun, theirs: Sequence[Outcome]
) -> list[str]:
    """Refuse samples that are something else in the other run; say where one run has samples that the other lacks."""
    gold = {(outcome.dataset, outcome.sample): outcome.answer for outcome in theirs}
    for outcome in ours:
        if gold.get((outcome.dataset, outcome.sample), outcome.answer) != outcome.answer:
            raise UsageError(
                f"--against: sample {outcome.sample!r} of {outcome.dataset} has another answer in {other.name} than in"
                f" {run.name}; name a run on the same data"
            )
    remarks: list[str] = []
    for dataset in sorted({outcome.dataset for outcome in ours}):
        first, second = (
            {outcome.sample for outcome in outcomes if outcome.dataset == dataset}
            for outcomes in (ours, theirs)
        )
        if not first & second:
            raise UsageError(
                f"--against: {run.name} and {other.name} have no sample of {dataset} in common; name a run on the"
                " same data"
            )
        if first != second:
            remarks.append(
                f"The samples of {dataset} are not the same: {len(first):,} and {len(second):,},"
                f" {len(first & second):,} of them in both."
            )
    return remarks


def _rows(measure: Measure, ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> Iterator[AgainstRow]:
    for model, dataset in sorted({(outcome.model, outcome.dataset) for outcome in ours}):
        first = eligible((o for o in ours if (o.model, o.dataset) == (model, dataset)), measure)
        second = eligible((o for o in theirs if o.dataset == dataset), measure)
        if not first or not second:
            continue
        noises = [noise.name for noise in noises_of(first)]
        base = _errors(gather(second, measure), measure, theirs[0].method, noises)
        scores = gather(first, measure)
        for method in methods_of(first):
            found = corruption_errors(_errors(scores, measure, method, noises), base)
            yield AgainstRow(model, dataset, measure.name, method, found)


def _errors(scores: Scores, measure: Measure, method: str, noises: Sequence[str]) -> Errors:
    """The errors of one method; what was not scored is left out."""
    import numpy as np

    balanced = scores.classes if measure.statistic == "balanced" else None
    means = column_means(scores.values, balanced.of_samples if balanced else None)
    rates = {
        cell: float(1 - mean)
        for cell, mean in zip(scores.cells, means, strict=True)
        if cell.method == method and not np.isnan(mean)
    }
    return Errors(
        clean=rates.get(Cell(method, CLEAN, 0)),
        corrupted={
            noise: {cell.severity: rate for cell, rate in rates.items() if cell.noise == noise}
            for noise in noises
        },
    )
