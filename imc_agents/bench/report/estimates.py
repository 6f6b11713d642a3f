"""Estimates of a benchmark with their intervals: means over noises, drops, errors against a baseline, what is won back.

Every figure is computed for the scores and for each resample of the samples at once, so its interval takes the pairing
of noises and methods into account whatever it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imc_agents.bench.outcomes import CLEAN
from imc_agents.bench.report.bootstrap import divided, percentiles
from imc_agents.bench.report.resampling import Resampled
from imc_agents.bench.report.scores import Cell
from imc_agents.text.metrics import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Estimate", "difference", "error_ratio", "mean_figure", "won_back"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and how sure it is.

    Attributes:
        value: The figure; None where it does not exist.
        interval: 95 %, over samples; None where there is no figure or its resamples are not defined.
        scored: Scores behind it.
        partial: Some of the outcomes that belong to it are not there yet.
        reason: Why there is no figure.
    """

    value: float | None
    interval: Interval | None = None
    scored: int = 0
    partial: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Draws:
    values: Array  # [1 + resamples], the figure first
    scored: int
    partial: bool


def mean_figure(
    found: Resampled, method: str, noises: Sequence[str], severity: int | None = None
) -> Estimate:
    """Return the mean over noises of the mean figure over severities, or at one severity."""
    steps = _steps(found, found.figures, (method,), noises, severity)
    draws = _average(found, found.figures, method, steps, severity)
    return _missing(found, method, noises) if draws is None else _estimate(draws)


def difference(found: Resampled, method: str, noises: Sequence[str]) -> Estimate:
    """Return what the noises cost a method: the figure on clean data minus that under noise, of the same samples."""
    steps = _steps(found, found.costs, (method,), noises)
    draws = _average(found, found.costs, method, steps)
    return _missing(found, method, (CLEAN, *noises)) if draws is None else _estimate(draws)


def won_back(found: Resampled, method: str, baseline: str, noises: Sequence[str]) -> Estimate:
    """Return the share of what the baseline loses to the noises that a method wins back.

    (m - b) / (b_clean - b), over those of the noises and severities that both have.
    """
    steps = _steps(found, found.figures, (method, baseline), noises)
    steps = {noise: found_steps for noise, found_steps in steps.items() if found_steps}
    ours, theirs = (_average(found, found.figures, name, steps) for name in (method, baseline))
    lost = _average(found, found.costs, baseline, steps)
    if not steps or ours is None or theirs is None or lost is None:
        return _missing(found, f"{method} or {baseline}", (CLEAN, *noises))
    if not lost.values[0] > 1e-12:
        return Estimate(None, scored=ours.scored, reason=f"the noises cost {baseline} nothing")
    values = divided(ours.values - theirs.values, lost.values)
    return _estimate(_Draws(values, ours.scored, ours.partial or theirs.partial))


def error_ratio(
    found: Resampled,
    method: str,
    baseline: str,
    noises: Sequence[str],
    severity: int | None = None,
    *,
    added: bool = False,
) -> Estimate:
    """Return the mean over noises of the error as per cent of the baseline's: CE, mCE, or with ``added`` rCE.

    See ``robustness.corruption_errors`` for the formulas. Severities that one of the two lacks are left out.
    """
    import numpy as np

    table = found.costs if added else 1 - found.figures
    parts: list[_Draws] = []
    for noise in noises:
        steps = _steps(found, table, (method, baseline), (noise,), severity)
        ours, theirs = (_average(found, table, name, steps, severity) for name in (method, baseline))
        if ours is None or theirs is None:
            return _missing(found, f"{method} or {baseline}", (noise,))
        if not theirs.values[0] > 1e-12:
            what = "adds no error to" if added else "leaves no error to"
            return Estimate(None, reason=f"{noise} {what} {baseline}")
        values = divided(100 * ours.values, theirs.values)
        parts.append(_Draws(values, ours.scored, ours.partial or theirs.partial))
    values = np.mean([part.values for part in parts], axis=0)
    return _estimate(_Draws(values, sum(part.scored for part in parts), any(part.partial for part in parts)))


def _steps(
    found: Resampled,
    table: Array,
    methods: Sequence[str],
    noises: Sequence[str],
    severity: int | None = None,
) -> dict[str, list[int]]:
    """For each noise the severities at which every one of the methods has a figure."""
    import numpy as np

    def has(cell: Cell) -> bool:
        return cell in found.columns and not np.isnan(table[0, found.columns[cell]])

    return {
        noise: [
            step
            for step in (found.severities.get(noise, []) if severity is None else [severity])
            if all(has(Cell(method, noise, step)) for method in methods)
        ]
        for noise in noises
    }


def _average(
    found: Resampled,
    table: Array,
    method: str,
    steps: Mapping[str, Sequence[int]],
    severity: int | None = None,
) -> _Draws | None:
    """The mean over noises of the mean over their severities; None where a noise has none of those asked for."""
    import numpy as np

    if not steps or not all(steps.values()):
        return None
    parts = {noise: [found.columns[Cell(method, noise, step)] for step in steps[noise]] for noise in steps}
    columns = [column for part in parts.values() for column in part]
    wanted = sum(len(found.severities[noise]) if severity is None else 1 for noise in steps)
    return _Draws(
        values=np.mean([table[:, part].mean(axis=1) for part in parts.values()], axis=0),
        scored=int((~np.isnan(found.scores.values[:, columns])).sum()),
        partial=len(columns) < wanted or not all(found.whole[column] for column in columns),
    )


def _estimate(draws: _Draws) -> Estimate:
    return Estimate(float(draws.values[0]), percentiles(draws.values[1:]), draws.scored, draws.partial)


def _missing(found: Resampled, method: str, noises: Sequence[str]) -> Estimate:
    listed, scores = ", ".join(noises), found.scores
    if found.statistic == "mean" or scores.classes is None:
        return Estimate(None, reason=f"{method} was not scored on all of {listed}")
    names = ", ".join(scores.classes.names)
    if found.statistic == "area" and len(scores.classes.names) < 2:
        return Estimate(None, reason=f"all images are {names}, so there is no rest to tell them from")
    return Estimate(None, reason=f"{method} was not scored on every class under all of {listed}")
