"""Figures of a benchmark with their intervals: means over noises, drops, errors against a baseline, what is won back.

Every figure is computed for the scores and for each resample of the samples at once, so its interval takes the pairing
of noises and methods into account whatever it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imc_agents.bench.outcomes import CLEAN
from imc_agents.bench.report_scores import Cell, Scores
from imc_agents.bench.stats import bootstrap_means, column_means, divided, percentiles
from imc_agents.text.metrics import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Estimate", "Resampled", "difference", "error_ratio", "mean_score", "resample", "won_back"]


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
class Resampled:
    """Scores of one model on one data set, resampled.

    Attributes:
        scores: The scores.
        means: [1 + resamples, cells]; the first row are the means themselves.
        severities: Those of each noise, whatever the method.
        columns: Where a cell stands.
    """

    scores: Scores
    means: Array
    severities: dict[str, list[int]]
    columns: dict[Cell, int]


@dataclass(frozen=True, slots=True)
class _Draws:
    values: Array  # [1 + resamples], the figure first
    scored: int
    partial: bool


def resample(scores: Scores) -> Resampled:
    """Resample the samples, the same ones for every cell."""
    import numpy as np

    severities: dict[str, list[int]] = {}
    for cell in scores.cells:
        severities[cell.noise] = sorted({*severities.get(cell.noise, ()), cell.severity})
    return Resampled(
        scores=scores,
        means=np.concatenate([column_means(scores.values)[None], bootstrap_means(scores.values)]),
        severities=severities,
        columns={cell: at for at, cell in enumerate(scores.cells)},
    )


def mean_score(found: Resampled, method: str, noises: Sequence[str], severity: int | None = None) -> Estimate:
    """Return the mean over noises of the mean score over severities, or at one severity."""
    draws = _mean(found, method, noises, severity)
    return _missing(method, noises) if draws is None else _estimate(draws)


def difference(found: Resampled, method: str, noises: Sequence[str]) -> Estimate:
    """Return what the noises cost a method: its mean score on clean data minus that under noise."""
    clean, noisy = _mean(found, method, (CLEAN,)), _mean(found, method, noises)
    if clean is None or noisy is None:
        return _missing(method, (CLEAN, *noises))
    return _estimate(_Draws(clean.values - noisy.values, noisy.scored, clean.partial or noisy.partial))


def won_back(found: Resampled, method: str, baseline: str, noises: Sequence[str]) -> Estimate:
    """Return the share of what the baseline loses to the noises that a method wins back.

    (m - b) / (b_clean - b), over those of the noises that both have.
    """
    both = [
        noise
        for noise in noises
        if all(_mean(found, name, (noise,)) is not None for name in (method, baseline))
    ]
    clean = _mean(found, baseline, (CLEAN,))
    ours, theirs = _mean(found, method, both), _mean(found, baseline, both)
    if clean is None or ours is None or theirs is None:
        return _missing(f"{method} or {baseline}", (CLEAN, *noises))
    return _quotient(
        ours, ours.values - theirs.values, clean.values - theirs.values, f"the noises cost {baseline} nothing"
    )


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

    parts: list[_Draws] = []
    for noise in noises:
        severities = _common(found, (method, baseline), noise, severity)
        ours, theirs = (_over(found, name, noise, severities, severity) for name in (method, baseline))
        clean = _mean(found, method, (CLEAN,)), _mean(found, baseline, (CLEAN,))
        if ours is None or theirs is None or (added and None in clean):
            return _missing(f"{method} or {baseline}", (noise,))
        above, below = 1 - ours.values, 1 - theirs.values
        if added and clean[0] is not None and clean[1] is not None:
            above, below = above - (1 - clean[0].values), below - (1 - clean[1].values)
        if not below[0] > 1e-12:
            what = "adds no error to" if added else "leaves no error to"
            return Estimate(None, reason=f"{noise} {what} {baseline}")
        parts.append(_Draws(divided(100 * above, below), ours.scored, ours.partial or theirs.partial))
    values = np.mean([part.values for part in parts], axis=0)
    return _estimate(_Draws(values, sum(part.scored for part in parts), any(part.partial for part in parts)))


def _mean(found: Resampled, method: str, noises: Sequence[str], severity: int | None = None) -> _Draws | None:
    import numpy as np

    parts = [
        _over(found, method, noise, _common(found, (method,), noise, severity), severity) for noise in noises
    ]
    held = [part for part in parts if part is not None]
    if not held or len(held) < len(parts):
        return None
    values = np.mean([part.values for part in held], axis=0)
    return _Draws(values, sum(part.scored for part in held), any(part.partial for part in held))


def _common(found: Resampled, methods: Sequence[str], noise: str, severity: int | None) -> list[int]:
    """The severities of a noise at which every one of the methods has a score."""
    import numpy as np

    wanted = found.severities.get(noise, []) if severity is None else [severity]
    return [
        step
        for step in wanted
        if all(
            (cell := Cell(method, noise, step)) in found.columns
            and not np.isnan(found.means[0, found.columns[cell]])
            for method in methods
        )
    ]


def _over(
    found: Resampled, method: str, noise: str, severities: Sequence[int], severity: int | None
) -> _Draws | None:
    """The mean over these severities, out of those asked for."""
    import numpy as np

    if not severities:
        return None
    columns = [found.columns[Cell(method, noise, severity)] for severity in severities]
    wanted = len(found.severities[noise]) if severity is None else 1
    whole = len(columns) == wanted and bool(found.scores.there[:, columns].all())
    scored = int((~np.isnan(found.scores.values[:, columns])).sum())
    return _Draws(found.means[:, columns].mean(axis=1), scored, not whole)


def _quotient(draws: _Draws, above: Array, below: Array, reason: str) -> Estimate:
    if not below[0] > 1e-12:
        return Estimate(None, scored=draws.scored, partial=draws.partial, reason=reason)
    return _estimate(_Draws(divided(above, below), draws.scored, draws.partial))


def _estimate(draws: _Draws) -> Estimate:
    return Estimate(float(draws.values[0]), percentiles(draws.values[1:]), draws.scored, draws.partial)


def _missing(method: str, noises: Sequence[str]) -> Estimate:
    return Estimate(None, reason=f"{method} was not scored on all of {', '.join(noises)}")
