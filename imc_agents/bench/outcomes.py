"""What the robustness benchmark yields: one record for a question, a noise, a method and a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imc_agents.refinement import Status

__all__ = ["ADAPTATION_METHODS", "BASELINE", "CLEAN", "NOT_SCORED", "BenchRun", "Outcome"]

CLEAN = "clean"
"""Stands where a noise would."""

BASELINE = "none"
"""The method that leaves question and image as they came."""

ADAPTATION_METHODS = ("adapt", "calibrate", "both")
"""What stands between an image encoder as it came and its answer: few-shot adapted weights, calibrated features, both.

The order is that of the tables, below ``none``.
"""

NOT_SCORED: frozenset[Status] = frozenset({"infra_error", "timeout", "data_error"})
"""Nothing is known of the answer, so it is counted but neither right nor wrong."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question under one noise, answered through one method by one model.

    Attributes:
        model: The model that answered.
        dataset: The data set of the question.
        noise: Name of the noise, or ``clean``.
        severity: 1 to 5; 0 for clean.
        modality: What the noise is in.
        method: ``none``, or the name of what calibrated the input.
        sample: Id within the data set, the same under every noise and method, so that outcomes pair.
        kind: Closed questions have a small set of answers (yes or no, or options); open ones are free text.
        question: As published.
        noisy: As the method got it.
        refined: What the method made of it.
        answer: The gold answer.
        reply: What the model said; None where there is no reply.
        status: An outcome in ``NOT_SCORED`` is counted and left out; ``model_error`` is scored as wrong.
        image_noise: What calibration recognised in the image.
        image_operator: What calibration did to the features of the image.
        error: One line on what failed.
        options: The classes that the answer is one of, where a question has a fixed list; ``answer`` and ``reply`` are
            names in it then, and the kind is closed.
        scores: How likely each option is, the higher the likelier; empty where nothing is known.
    """

    model: str
    dataset: str
    noise: str
    severity: int
    modality: Literal["none", "text", "image"]
    method: str
    sample: str
    kind: Literal["closed", "open"]
    question: str
    noisy: str
    refined: str
    answer: str
    reply: str | None
    status: Status
    image_noise: str | None = None
    image_operator: str | None = None
    error: str | None = None
    options: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchRun:
    """A run of the benchmark as its folder holds it.

    Attributes:
        name: The run's name.
        folder: Where it lies.
        complete: Whether every planned outcome is there.
        total: Planned outcomes.
        settings: What the run was started with.
        outcomes: Those that are there, in the order of the plan.
    """

    name: str
    folder: Path
    complete: bool
    total: int
    settings: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
