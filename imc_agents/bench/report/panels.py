"""One table of a benchmark: every method under every noise, with intervals and tests against a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imc_agents.bench.outcomes import CLEAN, Outcome
from imc_agents.bench.report.answers import METRICS
from imc_agents.bench.report.estimates import (
    Estimate,
    Resampled,
    difference,
    error_ratio,
    mean_score,
    resample,
    won_back,
)
from imc_agents.bench.report.scores import Cell, Noise, gather, noises_of
from imc_agents.bench.report.stats import PairedTest, holm, paired_tests

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ADDED",
    "CE",
    "DROP",
    "MEAN",
    "REPORTED",
    "WON_BACK",
    "Column",
    "Entry",
    "Panel",
    "Row",
    "make_panel",
]

CE = "ce"
"""Corruption error, from the accuracy of closed questions."""

REPORTED = (*METRICS, CE)
"""What ``--metric`` takes."""

DROP, WON_BACK, ADDED = "drop", "won back", "rCE"
MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Unique in its panel.
        group: What it stands under: text, image, or nothing.
        noises: The noises that it is the mean of.
    """

    name: str
    group: str
    noises: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One figure of a method.

    Attributes:
        estimate: The figure.
        best: No method of the table is better, and some are worse.
        test: Against the baseline, in pairs, on the scores; None for the baseline itself.
        p: Of the test, corrected for all tests of the table (Holm).
    """

    estimate: Estimate
    best: bool = False
    test: PairedTest | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A method.

    Attributes:
        method: Its name.
        entries: By column name.
        severities: By column name and severity, for the columns of noises and their means.
        drops: By column name: what these noises cost the method against clean, in points of its score.
    """

    method: str
    entries: Mapping[str, Entry]
    severities: Mapping[tuple[str, int], Estimate]
    drops: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Panel:
    """One model on one data set by one metric.

    Attributes:
        model: The model.
        dataset: The data set.
        metric: One of ``REPORTED``.
        samples: Questions.
        columns: Noises, means over them, clean, and what is made of these.
        severities: Of the noises, sorted.
        rows: One a method.
    """

    model: str
    dataset: str
    metric: str
    samples: int
    columns: tuple[Column, ...]
    severities: tuple[int, ...]
    rows: tuple[Row, ...]


def make_panel(
    model: str, dataset: str, metric: str, baseline: str, outcomes: Sequence[Outcome]
) -> Panel | None:
    """Summarise one model on one data set by one metric; None where no question is for it.

    Args:
        model: The model.
        dataset: The data set.
        metric: One of ``REPORTED``.
        baseline: Method that the others are compared with.
        outcomes: All of that model and data set.
    """
    measure = METRICS["accuracy" if metric == CE else metric]
    scores = gather(outcomes, measure)
    if not scores.samples:
        return None
    found = resample(scores)
    noises = noises_of(outcome for outcome in outcomes if outcome.kind == measure.kind)
    columns = _columns(noises, metric)
    tested = [column for column in columns if column.name not in (DROP, WON_BACK, ADDED)]
    severities = sorted(
        {step for noise, steps in found.severities.items() if noise != CLEAN for step in steps}
    )
    rows: list[Row] = []
    for method in dict.fromkeys(cell.method for cell in scores.cells):
        tests: list[PairedTest] = []
        if method != baseline:
            tests = _tests(found, scores.values, method, baseline, tested)
        entries = {
            column.name: Entry(
                _estimate(found, metric, column, method, baseline),
                test=tests[tested.index(column)] if tests and column in tested else None,
            )
            for column in columns
        }
        by_severity = {
            (column.name, step): _at_severity(found, metric, column, method, baseline, step)
            for column in tested
            if column.name != CLEAN
            for step in severities
        }
        drops = {
            column.name: difference(found, method, column.noises) for column in tested if column.name != CLEAN
        }
        rows.append(Row(method, entries, by_severity, drops))
    return Panel(
        model=model,
        dataset=dataset,
        metric=metric,
        samples=len(scores.samples),
        columns=tuple(columns),
        severities=tuple(severities),
        rows=_marked(rows, metric),
    )


def _columns(noises: Sequence[Noise], metric: str) -> list[Column]:
    """Text noises and their mean, image noises and theirs, the mean over all, clean, and what follows from these."""
    found: list[Column] = []
    parts = {part: tuple(n.name for n in noises if n.modality == part) for part in ("text", "image")}
    for part, names in parts.items():
        found += [Column(name, part, (name,)) for name in names]
        if len(names) > 1:
            found.append(Column(f"{MEAN} {part}", part, names))
    everything = (*parts["text"], *parts["image"])
    if all(parts.values()):
        found.append(Column(MEAN, "", everything))
    found.append(Column(CLEAN, "", (CLEAN,)))
    if everything:
        found += [Column(name, "", everything) for name in ((ADDED,) if metric == CE else (DROP, WON_BACK))]
    return found


def _estimate(found: Resampled, metric: str, column: Column, method: str, baseline: str) -> Estimate:
    if column.name == WON_BACK:
        if method == baseline:
            return Estimate(None, reason="the baseline")
        return won_back(found, method, baseline, column.noises)
    if column.name == DROP:
        return difference(found, method, column.noises)
    if metric == CE:
        return error_ratio(found, method, baseline, column.noises, added=column.name == ADDED)
    return mean_score(found, method, column.noises)


def _at_severity(
    found: Resampled, metric: str, column: Column, method: str, baseline: str, severity: int
) -> Estimate:
    if metric == CE:
        return error_ratio(found, method, baseline, column.noises, severity)
    return mean_score(found, method, column.noises, severity)


def _tests(
    found: Resampled,
    values: NDArray[np.float64],
    method: str,
    baseline: str,
    columns: Sequence[Column],
) -> list[PairedTest]:
    """The method against the baseline for each column, on the cells that both have."""
    pairs = [
        (cell, Cell(baseline, cell.noise, cell.severity)) for cell in found.columns if cell.method == method
    ]
    pairs = [(ours, theirs) for ours, theirs in pairs if theirs in found.columns]
    groups = [[at for at, (ours, _) in enumerate(pairs) if ours.noise in column.noises] for column in columns]
    first, second = (values[:, [found.columns[pair[side]] for pair in pairs]] for side in (1, 0))
    return paired_tests(first, second, groups)


def _marked(rows: Sequence[Row], metric: str) -> tuple[Row, ...]:
    """Say of each entry whether it is the best of its column, and correct its p for the whole table."""
    tests = [
        (row.method, name, entry.test.p)
        for row in rows
        for name, entry in row.entries.items()
        if entry.test is not None and entry.test.samples
    ]
    corrected = dict(zip([test[:2] for test in tests], holm([test[2] for test in tests]), strict=True))
    best: dict[str, float] = {}
    for name in rows[0].entries:
        values = [value for row in rows if (value := row.entries[name].estimate.value) is not None]
        if len(set(values)) > 1:
            best[name] = _best(metric, name)(values)
    return tuple(
        replace(
            row,
            entries={
                name: replace(
                    entry,
                    best=name in best
                    and entry.estimate.value is not None
                    and abs(entry.estimate.value - best[name]) < 1e-12,
                    p=corrected.get((row.method, name)),
                )
                for name, entry in row.entries.items()
            },
        )
        for row in rows
    )


def _best(metric: str, column: str) -> Callable[[Sequence[float]], float]:
    return min if metric == CE or column == DROP else max
