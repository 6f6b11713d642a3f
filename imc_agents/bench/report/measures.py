"""The measures of a report: what a reply scores, how the scores of a cell become its figure, and what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from imc_agents.bench.report.answers import METRICS, Metric

__all__ = ["DEFAULT", "MEASURES", "REPORTED", "Measure", "Statistic"]

Statistic = Literal["mean", "balanced", "area"]
"""The mean over samples, the mean over classes of the mean over their samples, or the area under the ROC curve."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of one method under one noise.

    Attributes:
        name: As in ``--metric``.
        judge: What a reply scores.
        statistic: What becomes of the scores of a cell.
        title: As a table of questions says it.
        of_images: As a table of classified images says it.
        label: As an axis says it.
        error: Set where the error is reported, as per cent of the baseline's: ``CE`` or ``BE``.
    """

    name: str
    judge: Metric
    statistic: Statistic
    title: str
    of_images: str
    label: str
    error: Literal["", "CE", "BE"] = ""

    @property
    def mean(self) -> str:
        """What the mean of errors over noises is called: mCE, mBE, or nothing where errors are not reported."""
        return self.error and f"m{self.error}"

    @property
    def added(self) -> str:
        """What the error that noise adds is called, against what it adds to the baseline: rCE, rBE, or nothing."""
        return self.error and f"r{self.error}"


def _measures() -> tuple[Measure, ...]:
    accuracy = METRICS["accuracy"]
    balanced = "Balanced accuracy"
    area = "Area under the ROC curve, each class against the rest"
    errors = ("Corruption error", "Balanced error")
    ce, be = (f"{error} against the baseline (lower is better)" for error in errors)
    return (
        Measure("accuracy", accuracy, "mean", accuracy.title, "Accuracy", "accuracy"),
        Measure("balanced_accuracy", accuracy, "balanced", balanced, balanced, "balanced accuracy"),
        Measure("auroc", accuracy, "area", area, area, "AUROC"),
        *(Measure(m.name, m, "mean", m.title, m.title, m.name) for m in METRICS.values() if m.kind == "open"),
        Measure("ce", accuracy, "mean", ce, ce, errors[0].lower(), "CE"),
        Measure("be", accuracy, "balanced", be, be, errors[1].lower(), "BE"),
    )


MEASURES: Mapping[str, Measure] = MappingProxyType({measure.name: measure for measure in _measures()})
"""By name; balanced accuracy, AUROC and the balanced error are only for what has a list of classes."""

REPORTED = tuple(MEASURES)
"""What ``--metric`` takes."""

DEFAULT = ("accuracy", "balanced_accuracy", "auroc", "recall")
"""Those of a table unless it is said otherwise; what no question is for is left out."""
