"""Summarises a run of the robustness benchmark: per model, data set and metric, every method under every noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imc_agents.bench.outcomes import BASELINE, NOT_SCORED, BenchRun, Outcome
from imc_agents.bench.report.against import Against
from imc_agents.bench.report.measures import REPORTED
from imc_agents.bench.report.panels import Panel, make_panel
from imc_agents.bench.report.restoration import Restoration, restorations
from imc_agents.bench.report.scores import methods_of
from imc_agents.errors import UsageError, nearest

__all__ = ["Counts", "Report", "split", "summarise_run"]


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the outcomes of a method.

    Attributes:
        outcomes: All that are there.
        not_scored: By status; ``no reply`` where there is none to score.
        model_errors: Unusable replies, scored as wrong.
    """

    model: str
    dataset: str
    method: str
    outcomes: int
    not_scored: Mapping[str, int]
    model_errors: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run says.

    Attributes:
        run: Name of the run.
        complete: Whether every planned outcome is there.
        planned: Planned outcomes.
        there: Outcomes that are there.
        baseline: The method that others are compared with.
        panels: One a model, data set and metric.
        restorations: Of text noises, one a model and data set.
        counts: One a model, data set and method.
        against: Errors against those of another run, where one was named.
    """

    run: str
    complete: bool
    planned: int
    there: int
    baseline: str
    panels: tuple[Panel, ...]
    restorations: tuple[Restoration, ...]
    counts: tuple[Counts, ...]
    against: Against | None = None


def summarise_run(run: BenchRun, metrics: Sequence[str], baseline: str | None = None) -> Report:
    """Summarise a run.

    Args:
        run: The run; what is there of it is reported.
        metrics: Of ``REPORTED``; those that no question or image is for are left out.
        baseline: Method that the others are compared with; default ``none``, or the first where that is lacking.

    Raises:
        UsageError: the run has no outcome, none for these metrics, or not the baseline; an unknown metric.
    """
    for metric in metrics:
        if metric not in REPORTED:
            hint = nearest(metric, REPORTED)
            raise UsageError(f"--metric: unknown {metric!r}{hint}; known: {', '.join(REPORTED)}")
    if not run.outcomes:
        raise UsageError(f"{run.name}: no outcome yet; look again when the run has begun")
    methods = methods_of(run.outcomes)
    if baseline is None:
        baseline = BASELINE if BASELINE in methods else methods[0]
    if baseline not in methods:
        raise UsageError(
            f"--baseline: {run.name} has no method {baseline!r}{nearest(baseline, methods)}; "
            f"it has {', '.join(methods)}"
        )
    parts = split(run.outcomes)
    panels = [
        panel
        for (model, dataset), outcomes in parts.items()
        for metric in metrics
        if (panel := make_panel(model, dataset, metric, baseline, outcomes)) is not None
    ]
    if not panels:
        kinds = ", ".join(sorted({outcome.kind for outcome in run.outcomes}))
        if any(outcome.options for outcome in run.outcomes):
            kinds += (
                ", of classes with scores"
                if any(o.scores for o in run.outcomes)
                else ", of classes without scores"
            )
        raise UsageError(
            f"--metric: none of {', '.join(metrics)} is for the questions of {run.name}, which are {kinds}"
        )
    return Report(
        run=run.name,
        complete=run.complete,
        planned=run.total,
        there=len(run.outcomes),
        baseline=baseline,
        panels=tuple(panels),
        restorations=tuple(restorations(parts)),
        counts=tuple(_counts(parts)),
    )


def split(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """Group outcomes by model and data set, sorted."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((outcome.model, outcome.dataset), []).append(outcome)
    return dict(sorted(found.items()))


def _counts(parts: Mapping[tuple[str, str], Sequence[Outcome]]) -> Iterable[Counts]:
    for (model, dataset), outcomes in parts.items():
        for method in methods_of(outcomes):
            chosen = [outcome for outcome in outcomes if outcome.method == method]
            lost: dict[str, int] = {}
            for outcome in chosen:
                if outcome.status in NOT_SCORED:
                    lost[outcome.status] = lost.get(outcome.status, 0) + 1
                elif outcome.reply is None and outcome.status != "model_error":
                    lost["no reply"] = lost.get("no reply", 0) + 1
            yield Counts(
                model=model,
                dataset=dataset,
                method=method,
                outcomes=len(chosen),
                not_scored=dict(sorted(lost.items())),
                model_errors=sum(outcome.status == "model_error" for outcome in chosen),
            )
