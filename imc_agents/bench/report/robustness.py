"""Robustness figures of the neighbouring benchmarks, from errors for each corruption and severity.

CE, mCE and relative CE are those of ImageNet-C (Hendrycks & Dietterich 2019) as RobustMedCLIP reports them (arXiv
2505.15425); BE and rBE are those of MedMNIST-C (arXiv 2406.17536), whose error is one minus the balanced accuracy.
Where a denominator is not positive the published code divides all the same; here the figure is left out, with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Errors",
    "Figure",
    "Robustness",
    "balanced_accuracy",
    "balanced_errors",
    "corruption_errors",
    "roc_auc",
]


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
        clean: On clean data.
        corrupted: By corruption, then severity.
    """

    clean: float
    corrupted: Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class Robustness:
    """Errors of a model as multiples of a baseline's.

    Attributes:
        clean: On clean data.
        absolute: By corruption: the error against the baseline's (CE, BE).
        relative: By corruption: the error added by the corruption against what it adds to the baseline's (rCE, rBE).
        mean: Mean of ``absolute`` over corruptions (mCE).
        relative_mean: Mean of ``relative``.
    """

    clean: Figure
    absolute: Mapping[str, Figure]
    relative: Mapping[str, Figure]
    mean: Figure
    relative_mean: Figure


def corruption_errors(errors: Errors, baseline: Errors) -> Robustness:
    """Return CE, mCE and relative CE in per cent of the baseline, whose own are 100.

    CE_c = 100 sum_s E_s / sum_s B_s and rCE_c = 100 sum_s (E_s - E_clean) / sum_s (B_s - B_clean), with errors E of the
    model and B of the baseline.
    """
    return _against(errors, baseline, 100.0)


def balanced_errors(errors: Errors, baseline: Errors) -> Robustness:
    """Return BE and rBE as multiples of the baseline (AlexNet in MedMNIST-C), whose own are 1.

    BE_c = mean_s E_s / mean_s B_s and rBE_c = (mean_s E_s - E_clean) / (mean_s B_s - B_clean), from balanced errors,
    1 - ``balanced_accuracy``.
    """
    return _against(errors, baseline, 1.0)


def balanced_accuracy(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Return the mean over classes of the share recognised; of several labels the mean over labels.

    Args:
        truth: Classes, int [N]; or labels, 0 or 1, int [N, L].
        predicted: Of the same shape.

    Raises:
        ValueError: if shapes differ or there is no sample.
    """
    import numpy as np

    if truth.shape != predicted.shape or not truth.size:
        raise ValueError(f"truth {truth.shape} and predictions {predicted.shape} cannot be compared")
    if truth.ndim == 2:
        return float(
            np.mean([balanced_accuracy(truth[:, at], predicted[:, at]) for at in range(truth.shape[1])])
        )
    _, classes = np.unique(truth, return_inverse=True)
    right = np.bincount(classes, weights=(truth == predicted))
    return float((right / np.bincount(classes)).mean())


def roc_auc(truth: NDArray[np.integer], scores: NDArray[np.floating]) -> Figure:
    """Return the area under the ROC curve, as the rank statistic with ties counted half (Hanley & McNeil 1982).

    Args:
        truth: 0 or 1, int [N], with scores [N]; classes, int [N], with scores [N, C], each class against the rest; or
            labels, 0 or 1, int [N, L], with scores [N, L]. Of several the unweighted mean.
        scores: Higher means more likely.

    Returns:
        The area; the reason names classes that all or none of the samples have, which are left out.

    Raises:
        ValueError: if the shapes do not fit.
    """
    import numpy as np

    if len(truth) != len(scores) or truth.ndim > scores.ndim:
        raise ValueError(f"truth {truth.shape} and scores {scores.shape} cannot be compared")
    if scores.ndim == 1:
        return _area(truth == 1, scores)
    columns = range(scores.shape[1])
    hits = [truth[:, at] == 1 if truth.ndim == 2 else truth == at for at in columns]
    return _mean_figure({f"class {at}": _area(np.asarray(hits[at]), scores[:, at]) for at in columns})


def _area(hits: NDArray[np.bool_], scores: NDArray[np.floating]) -> Figure:
    import numpy as np

    positive, negative = int(hits.sum()), int((~hits).sum())
    if not positive or not negative:
        return Figure(None, "only one class is there")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return Figure(float((ranks[hits].sum() - positive * (positive + 1) / 2) / (positive * negative)))


def _against(errors: Errors, baseline: Errors, scale: float) -> Robustness:
    absolute: dict[str, Figure] = {}
    relative: dict[str, Figure] = {}
    for corruption, found in errors.corrupted.items():
        theirs = baseline.corrupted.get(corruption, {})
        lacking = sorted(found.keys() - theirs.keys())
        if lacking or not found:
            reason = f"no baseline at severity {', '.join(map(str, lacking))}" if found else "no severity"
            absolute[corruption] = relative[corruption] = Figure(None, reason)
            continue
        ours, base = _mean(list(found.values())), _mean([theirs[severity] for severity in found])
        absolute[corruption] = _quotient(ours, base, "the baseline's error", scale)
        relative[corruption] = _quotient(
            ours - errors.clean, base - baseline.clean, "the error that the noise adds to the baseline", scale
        )
    return Robustness(
        clean=_quotient(errors.clean, baseline.clean, "the baseline's clean error", scale),
        absolute=absolute,
        relative=relative,
        mean=_mean_figure(absolute),
        relative_mean=_mean_figure(relative),
    )


def _quotient(above: float, below: float, what: str, scale: float = 1.0) -> Figure:
    """Return ``scale * above / below``, or why not: ``what`` says what ``below`` is."""
    # Differences of rates that are equal on paper may leave the last bit of a float behind.
    if not below > 1e-12:
        return Figure(None, f"{what} is {0.0 if abs(below) <= 1e-12 else below:.3g}, not positive")
    return Figure(scale * above / below)


def _mean_figure(figures: Mapping[str, Figure]) -> Figure:
    """Return the mean of those that exist; the reason names those that do not."""
    values = [figure.value for figure in figures.values() if figure.value is not None]
    missing = [name for name, figure in figures.items() if figure.value is None]
    reason = f"without {', '.join(missing)}" if missing else None
    return Figure(sum(values) / len(values) if values else None, reason)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
