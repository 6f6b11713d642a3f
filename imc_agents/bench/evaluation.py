"""Reads an evaluation of `imc adapt eval` as a run of the benchmark, so that one report is for both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from imc_agents.adapt.evaluation import CLEAN, FILE_NAME, Condition, Evaluation, read_logits, read_plan
from imc_agents.bench.outcomes import BenchRun, Outcome
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["is_evaluation", "read_evaluation"]


def is_evaluation(path: Path) -> bool:
    """Whether a path is the folder of an evaluation."""
    return (path / FILE_NAME).is_file()


def read_evaluation(folder: Path) -> BenchRun:
    """Return an evaluation as a run, also one that is under way.

    Raises:
        UsageError: it is damaged.
    """
    plan = read_plan(folder)
    outcomes = tuple(
        outcome
        for condition in plan.conditions
        if (found := read_logits(folder, condition)) is not None
        for method in plan.methods
        for outcome in _outcomes(plan, condition, method, _checked(folder, plan, condition, method, found))
    )
    total = len(plan.conditions) * len(plan.methods) * len(plan.ids)
    return BenchRun(
        name=folder.resolve().name,
        folder=folder,
        complete=len(outcomes) == total,
        total=total,
        settings=plan.made_with,
        outcomes=outcomes,
    )


def _checked(
    folder: Path,
    plan: Evaluation,
    condition: Condition,
    method: str,
    found: dict[str, NDArray[np.float32]],
) -> NDArray[np.float32]:
    logits = found.get(method)
    if logits is None or logits.shape != (len(plan.ids), len(plan.classes)):
        raise UsageError(
            f"{folder}: {condition.file} does not hold the logits of {method} for {len(plan.ids):,} images; delete it"
            " and give the same command again"
        )
    return logits


def _outcomes(
    plan: Evaluation, condition: Condition, method: str, logits: NDArray[np.float32]
) -> Iterator[Outcome]:
    import numpy as np

    # Logarithms of probabilities, which keep apart what rounds to a probability of one.
    wide = logits.astype(np.float64)
    scores: list[list[float]] = (wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)).tolist()
    question = f"Which of these: {', '.join(plan.classes)}?"
    answers: list[int] = logits.argmax(axis=1).tolist()
    for sample, label, answer, likely in zip(plan.ids, plan.labels, answers, scores, strict=True):
        yield Outcome(
            model=str(plan.made_with["encoder"]),
            dataset=str(plan.made_with["data"]),
            noise=condition.noise,
            severity=condition.severity,
            modality="none" if condition.noise == CLEAN else "image",
            method=method,
            sample=sample,
            kind="closed",
            question=question,
            noisy=question,
            refined=question,
            answer=plan.classes[label],
            reply=plan.classes[answer],
            status="ok",
            options=plan.classes,
            scores=tuple(likely),
        )
