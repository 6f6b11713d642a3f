"""Robustness figures of the neighbouring benchmarks, from errors for each corruption and severity.

CE, mCE and relative CE are those of ImageNet-C (Hendrycks & Dietterich 2019) as RobustMedCLIP reports them (arXiv
2505.15425). BE and rBE are those of MedMNIST-C (arXiv 2406.17536): the same of an error that is one minus the balanced
accuracy, there as multiples of AlexNet's, here like CE in per cent of the baseline's. Where a denominator is not
positive the published code divides all the same; here the figure is left out, with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Errors", "Figure", "Robustness", "corruption_errors"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, or why there is none.

    Attributes:
        value: The number; None where it does not exist.
        reason: What is missing: of the value where it is None, else of the parts that a mean had to leave out.
    """

    value: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Errors:
    """Error rates in [0, 1] of one model.

    Attributes:
        clean: On clean data; None where it is not known.
        corrupted: By corruption, then severity.
    """

    clean: float | None
    corrupted: Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class Robustness:
    """Errors of a model in per cent of a baseline's.

    Attributes:
        clean: On clean data.
        absolute: By corruption: the error against the baseline's (CE, BE).
        relative: By corruption: the error added by the corruption against what it adds to the baseline's (rCE, rBE).
        mean: Mean of ``absolute`` over corruptions (mCE).
        relative_mean: Mean of ``relative``.
    """

    clean: Figure
    absolute: dict[str, Figure]
    relative: dict[str, Figure]
    mean: Figure
    relative_mean: Figure


def corruption_errors(errors: Errors, baseline: Errors) -> Robustness:
    """Return CE, mCE and relative CE in per cent of the baseline, whose own are 100; of balanced errors BE and rBE.

    CE_c = 100 sum_s E_s / sum_s B_s and rCE_c = 100 sum_s (E_s - E_clean) / sum_s (B_s - B_clean), with errors E of the
    model and B of the baseline.
    """
    absolute: dict[str, Figure] = {}
    relative: dict[str, Figure] = {}
    for corruption, found in errors.corrupted.items():
        theirs = baseline.corrupted.get(corruption, {})
        lacking = sorted(found.keys() - theirs.keys())
        if lacking or not found:
            reason = f"no baseline at severity {', '.join(map(str, lacking))}" if found else "not scored"
            absolute[corruption] = relative[corruption] = Figure(None, reason)
            continue
        ours, base = _mean(list(found.values())), _mean([theirs[severity] for severity in found])
        absolute[corruption] = _per_cent(ours, base, "the baseline's error")
        relative[corruption] = _added(errors.clean, ours, baseline.clean, base)
    return Robustness(
        clean=_clean(errors.clean, baseline.clean),
        absolute=absolute,
        relative=relative,
        mean=_mean_figure(absolute),
        relative_mean=_mean_figure(relative),
    )


def _clean(ours: float | None, base: float | None) -> Figure:
    if ours is None or base is None:
        return Figure(None, _no_clean(ours))
    return _per_cent(ours, base, "the baseline's clean error")


def _added(clean: float | None, ours: float, base_clean: float | None, base: float) -> Figure:
    if clean is None or base_clean is None:
        return Figure(None, _no_clean(clean))
    return _per_cent(ours - clean, base - base_clean, "the error that the noise adds to the baseline")


def _no_clean(ours: float | None) -> str:
    return "not scored on clean data" if ours is None else "no baseline on clean data"


def _per_cent(above: float, below: float, what: str) -> Figure:
    """Return ``100 * above / below``, or why not: ``what`` says what ``below`` is."""
    # Differences of rates that are equal on paper may leave the last bit of a float behind.
    if not below > 1e-12:
        return Figure(None, f"{what} is {0.0 if abs(below) <= 1e-12 else below:.3g}, not positive")
    return Figure(100 * above / below)


def _mean_figure(figures: Mapping[str, Figure]) -> Figure:
    """Return the mean of those that exist; the reason names those that do not."""
    values = [figure.value for figure in figures.values() if figure.value is not None]
    missing = [name for name, figure in figures.items() if figure.value is None]
    reason = f"without {', '.join(missing)}" if missing else None
    return Figure(sum(values) / len(values) if values else None, reason)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
