"""Compares two runs of the benchmark on what both hold: wins, losses, and the answers that turned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from imc_agents.bench.outcomes import CLEAN, BenchRun, Outcome
from imc_agents.bench.report.answers import score
from imc_agents.bench.report.bootstrap import column_means, resampled_means
from imc_agents.bench.report.measures import MEASURES, Measure
from imc_agents.bench.report.scores import eligible, methods_of, noises_of
from imc_agents.bench.report.stats import PairedTest, gap_tests, holm, paired_tests
from imc_agents.errors import UsageError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Compared", "Comparison", "Flip", "compare_runs"]

_MEASURES = tuple(MEASURES[name] for name in ("accuracy", "balanced_accuracy", "recall"))
_JUDGES = tuple(MEASURES[name].judge for name in ("accuracy", "recall"))


@dataclass(frozen=True, slots=True)
class Compared:
    """One noise under one method in both runs.

    Attributes:
        model: The model; ``A against B`` where the runs hold one each and these differ.
        dataset: The data set.
        metric: ``accuracy`` of closed questions, ``balanced_accuracy`` of images with a list of classes, or ``recall``
            of open questions.
        method: The method.
        noise: The noise, ``clean``, or ``mean`` over all noises.
        first: Figure of the first run, on the pairs; cells weigh the same.
        second: In the second.
        test: The pairs, wins and losses of the second run, and p.
        images: Whether it is about images with a list of classes.
        p: Corrected for all rows of the comparison (Holm).
    """

    model: str
    dataset: str
    metric: str
    method: str
    noise: str
    first: float
    second: float
    test: PairedTest
    images: bool
    p: float


@dataclass(frozen=True, slots=True)
class Flip:
    """A question that is answered better or worse in the second run."""

    model: str
    first: Outcome
    second: Outcome
    first_score: float
    second_score: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs beside each other.

    Attributes:
        first: Name of the first run; of its folder where both have the same name.
        second: Of the second.
        pairs: Outcomes that both runs hold.
        only: By run: outcomes that only it holds.
        incomplete: Names of the runs that are not finished.
        rows: One a data set, metric, method and noise.
        flips: Questions that turned, losses and gains of the second run in turns, largest changes first.
        flipped: How many turned in all.
    """

    first: str
    second: str
    pairs: int
    only: Mapping[Literal["first", "second"], int]
    incomplete: tuple[str, ...]
    rows: tuple[Compared, ...]
    flips: tuple[Flip, ...]
    flipped: int


_Key = tuple[str, str, str, str, int, str]
"""Model, data set, method, noise, severity, sample."""


def compare_runs(
    first: BenchRun, second: BenchRun, method: str | None = None, *, flips: int = 20
) -> Comparison:
    """Compare two runs, outcome by outcome.

    Two outcomes are a pair when model, data set, noise, severity, method and sample are the same. Where each run holds
    one model and these differ, it is the models that are compared, and the rest must be the same.

    Args:
        first: The run to start from.
        second: The run that may be better or worse.
        method: Only this method; default all that both have.
        flips: Questions to list at most.

    Raises:
        UsageError: one of them has no outcome or lacks the method, they have no pair, or pairs are about different
            questions.
    """
    for run in (first, second):
        if not run.outcomes:
            raise UsageError(f"{run.name}: no outcome yet; look again when the run has begun")
        methods = methods_of(run.outcomes)
        if method is not None and method not in methods:
            raise UsageError(
                f"--method: {run.name} has no method {method!r}{nearest(method, methods)}; "
                f"it has {', '.join(methods)}"
            )
    # Runs of the same name, such as one that was done again, are told apart by their folders.
    names = (
        (first.name, second.name) if first.name != second.name else (first.folder.name, second.folder.name)
    )
    label = _models(first, second)
    ours, theirs = (_keyed(run, method, label) for run in (first, second))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise UsageError(
            f"{first.name} and {second.name} have no outcome in common: {_holds(first)}; {_holds(second)}"
        )
    _check_same(first, second, [(ours[key], theirs[key]) for key in shared])
    rows = [row for part in _parts(shared, ours) for row in _rows(part, ours, theirs)]
    corrected = holm([row[-2].p for row in rows])
    turned = sorted(_flips(shared, ours, theirs), key=lambda flip: flip.second_score - flip.first_score)
    losses = [flip for flip in turned if flip.second_score < flip.first_score]
    gains = [flip for flip in reversed(turned) if flip.second_score > flip.first_score]
    quoted = [flip for pair in zip_longest(losses, gains) for flip in pair if flip is not None]
    return Comparison(
        first=names[0],
        second=names[1],
        pairs=len(shared),
        only={"first": len(ours) - len(shared), "second": len(theirs) - len(shared)},
        incomplete=tuple(name for name, run in zip(names, (first, second), strict=True) if not run.complete),
        rows=tuple(Compared(*row, p=p) for row, p in zip(rows, corrected, strict=True)),
        flips=tuple(quoted[:flips]),
        flipped=len(turned),
    )


def _models(first: BenchRun, second: BenchRun) -> str | None:
    """What to call the model of every pair where two single models are compared."""
    names = [sorted({outcome.model for outcome in run.outcomes}) for run in (first, second)]
    if any(len(found) != 1 for found in names) or names[0] == names[1]:
        return None
    return f"{names[0][0]} against {names[1][0]}"


def _keyed(run: BenchRun, method: str | None, label: str | None) -> dict[_Key, Outcome]:
    return {
        (
            label or outcome.model,
            outcome.dataset,
            outcome.method,
            outcome.noise,
            outcome.severity,
            outcome.sample,
        ): outcome
        for outcome in run.outcomes
        if method is None or outcome.method == method
    }


def _holds(run: BenchRun) -> str:
    def names(field: str) -> str:
        found = sorted({str(getattr(outcome, field)) for outcome in run.outcomes})
        return ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")

    listed = "; ".join(names(field) for field in ("model", "dataset", "method", "noise"))
    return f"{run.name} holds {listed or 'nothing'}"


def _check_same(first: BenchRun, second: BenchRun, pairs: Sequence[tuple[Outcome, Outcome]]) -> None:
    for ours, theirs in pairs:
        if (ours.question, ours.answer, ours.kind) != (theirs.question, theirs.answer, theirs.kind):
            raise UsageError(
                f"{first.name} and {second.name}: sample {ours.sample!r} of {ours.dataset} is not the same question"
                " in both; compare runs on the same data"
            )


def _parts(shared: Sequence[_Key], outcomes: Mapping[_Key, Outcome]) -> Iterator[tuple[list[_Key], Measure]]:
    """Split the pairs by model, data set, metric and method."""
    for measure in _MEASURES:
        found: dict[tuple[str, str], dict[str, list[_Key]]] = {}
        for key in shared:
            if eligible([outcomes[key]], measure):
                found.setdefault(key[:2], {}).setdefault(key[2], []).append(key)
        for by_method in found.values():
            for method in methods_of(outcomes[keys[0]] for keys in by_method.values()):
                yield by_method[method], measure


def _rows(
    part: tuple[list[_Key], Measure], ours: Mapping[_Key, Outcome], theirs: Mapping[_Key, Outcome]
) -> Iterator[tuple[str, str, str, str, str, float, float, PairedTest, bool]]:
    """The rows of one model, data set, metric and method: clean, each noise, and the mean over noises."""
    keys, measure = part
    first, second = (_scores(keys, outcomes, measure) for outcomes in (ours, theirs))
    classes = None if measure.statistic == "mean" else _classes(keys, ours)
    images = all(ours[key].options for key in keys)
    cells = sorted({key[3:5] for key in keys})
    noises = [noise.name for noise in noises_of(ours[key] for key in keys)]
    groups = {
        name: [at for at, cell in enumerate(cells) if cell[0] == name]
        for name in (*((CLEAN,) if (CLEAN, 0) in cells else ()), *noises)
    }
    if len(noises) > 1:
        groups["mean"] = [at for at, cell in enumerate(cells) if cell[0] != CLEAN]
    columns = list(groups.values())
    if classes is None:
        tests = paired_tests(first, second, columns)
    else:
        tests = gap_tests(resampled_means(second - first, classes), first, second, columns)
    for (name, group), test in zip(groups.items(), tests, strict=True):
        if test.samples:
            means = _pair_means(first[:, group], second[:, group], classes)
            yield (*keys[0][:2], measure.name, keys[0][2], name, *means, test, images)


def _classes(keys: Sequence[_Key], outcomes: Mapping[_Key, Outcome]) -> NDArray[np.intp]:
    """The class of each sample, [samples]."""
    import numpy as np

    gold = {key[5]: outcomes[key].answer for key in keys}
    return np.unique([gold[sample] for sample in sorted(gold)], return_inverse=True)[1]


def _scores(keys: Sequence[_Key], outcomes: Mapping[_Key, Outcome], measure: Measure) -> Array:
    import numpy as np

    samples = {sample: at for at, sample in enumerate(sorted({key[5] for key in keys}))}
    cells = {cell: at for at, cell in enumerate(sorted({key[3:5] for key in keys}))}
    values = np.full((len(samples), len(cells)), np.nan)
    for key in keys:
        found = score(outcomes[key], measure.judge)
        values[samples[key[5]], cells[key[3:5]]] = np.nan if found is None else found
    return values


def _pair_means(first: Array, second: Array, classes: NDArray[np.intp] | None = None) -> tuple[float, float]:
    import numpy as np

    paired = ~(np.isnan(first) | np.isnan(second))
    one, other = (
        float(np.nanmean(column_means(np.where(paired, scores, np.nan), classes)))
        for scores in (first, second)
    )
    return one, other


def _flips(
    shared: Sequence[_Key], ours: Mapping[_Key, Outcome], theirs: Mapping[_Key, Outcome]
) -> Iterator[Flip]:
    """Pairs that are scored differently."""
    for judge in _JUDGES:
        for key in shared:
            one, other = score(ours[key], judge), score(theirs[key], judge)
            if one is not None and other is not None and one != other:
                yield Flip(key[0], ours[key], theirs[key], one, other)
