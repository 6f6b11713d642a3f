"""One table of a benchmark: every method under every noise, with intervals and tests against a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from imc_agents.bench.outcomes import CLEAN, Outcome
from imc_agents.bench.report.estimates import Estimate, difference, error_ratio, mean_figure, won_back
from imc_agents.bench.report.measures import MEASURES, Measure
from imc_agents.bench.report.resampling import Resampled, resample, tests_against
from imc_agents.bench.report.scores import Noise, eligible, gather, noises_of
from imc_agents.bench.report.stats import PairedTest, holm

__all__ = ["DROP", "MEAN", "WON_BACK", "Column", "Entry", "Panel", "Row", "make_panel"]

DROP, WON_BACK = "drop", "won back"
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
        test: Against the baseline, in pairs, on what errors are one minus of; None for the baseline itself.
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
        classes: What the samples, which are images then, are one of; empty for questions without a list of classes.
        absent: Classes of that list that no image is of, which no figure is about.
    """

    model: str
    dataset: str
    metric: str
    samples: int
    columns: tuple[Column, ...]
    severities: tuple[int, ...]
    rows: tuple[Row, ...]
    classes: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


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
    measure = MEASURES[metric]
    chosen = eligible(outcomes, measure)
    if not chosen:
        return None
    scores = gather(chosen, measure)
    found = resample(scores, measure.statistic)
    columns = _columns(noises_of(chosen), measure)
    tested = [column for column in columns if column.name not in (DROP, WON_BACK, measure.added)]
    severities = sorted(
        {step for noise, steps in found.severities.items() if noise != CLEAN for step in steps}
    )
    rows: list[Row] = []
    for method in dict.fromkeys(cell.method for cell in scores.cells):
        tests: list[PairedTest] = []
        if method != baseline:
            tests = tests_against(found, method, baseline, [column.noises for column in tested])
        entries = {
            column.name: Entry(
                _estimate(found, measure, column, method, baseline),
                test=tests[tested.index(column)] if tests and column in tested else None,
            )
            for column in columns
        }
        by_severity = {
            (column.name, step): _at_severity(found, measure, column, method, baseline, step)
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
        rows=_marked(rows, measure),
        classes=scores.classes.names if scores.classes else (),
        absent=scores.classes.absent if scores.classes else (),
    )


def _columns(noises: Sequence[Noise], measure: Measure) -> list[Column]:
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
        derived = (measure.added,) if measure.error else (DROP, WON_BACK)
        found += [Column(name, "", everything) for name in derived]
    return found


def _estimate(found: Resampled, measure: Measure, column: Column, method: str, baseline: str) -> Estimate:
    if column.name == WON_BACK:
        if method == baseline:
            return Estimate(None, reason="the baseline")
        return won_back(found, method, baseline, column.noises)
    if column.name == DROP:
        return difference(found, method, column.noises)
    if measure.error:
        return error_ratio(found, method, baseline, column.noises, added=column.name == measure.added)
    return mean_figure(found, method, column.noises)


def _at_severity(
    found: Resampled, measure: Measure, column: Column, method: str, baseline: str, severity: int
) -> Estimate:
    if measure.error:
        return error_ratio(found, method, baseline, column.noises, severity)
    return mean_figure(found, method, column.noises, severity)


def _marked(rows: Sequence[Row], measure: Measure) -> tuple[Row, ...]:
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
            best[name] = _best(measure, name)(values)
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


def _best(measure: Measure, column: str) -> Callable[[Sequence[float]], float]:
    return min if measure.error or column == DROP else max
