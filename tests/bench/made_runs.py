"""Runs of the robustness benchmark from seeded numbers, with methods whose gains are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

from imc_agents.bench.outcomes import BenchRun, Outcome

NOISES: tuple[tuple[str, Literal["text", "image"]], ...] = (
    ("typo", "text"),
    ("ocr", "text"),
    ("gaussian", "image"),
)
LOSS = {"none": 0.10, "sms": 0.05, "imc": 0.02}
"""Probability of a right answer that each step of severity takes."""


def made_run(
    samples: int = 60,
    *,
    methods: Sequence[str] = ("none", "sms", "imc"),
    severities: Sequence[int] = (1, 3, 5),
    model: str = "made",
    seed: int = 0,
    failures: float = 0.0,
    name: str = "made",
) -> BenchRun:
    outcomes = tuple(
        outcome
        for sample in range(samples)
        for outcome in _sample(f"q{sample}", methods, severities, model, seed, failures)
    )
    return BenchRun(name, Path("runs") / name, True, len(outcomes), {}, outcomes)


def part_of(run: BenchRun, outcomes: Sequence[Outcome]) -> BenchRun:
    return replace(run, complete=False, outcomes=tuple(outcomes))


def _sample(
    sample: str, methods: Sequence[str], severities: Sequence[int], model: str, seed: int, failures: float
) -> Iterator[Outcome]:
    draw = Random(sample)
    kind: Literal["closed", "open"] = "open" if draw.random() < 0.3 else "closed"
    answer = "left lower lobe" if kind == "open" else draw.choice(("yes", "no"))
    question = f"Is there a mass in lobe {sample} of the left lung?"
    wrong = {"yes": "No.", "no": "Yes.", "left lower lobe": "left side"}[answer]
    cells = [("clean", "none", 0), *((noise, part, step) for noise, part in NOISES for step in severities)]
    for noise, modality, severity in cells:
        noisy = question.replace("mass", "mas" if severity < 5 else "ms") if modality == "text" else question
        for method in methods:
            chance = Random(f"{seed}/{sample}/{noise}/{severity}/{method}")
            right = chance.random() < 0.95 - LOSS[method] * severity
            lost = chance.random() < failures
            restored = method != "none" and chance.random() < 0.8
            yield Outcome(
                model=model,
                dataset="made_set",
                noise=noise,
                severity=severity,
                modality=modality,
                method=method,
                sample=sample,
                kind=kind,
                question=question,
                noisy=noisy,
                refined=question if restored and not lost else noisy,
                answer=answer,
                reply=None if lost else answer if right else wrong,
                status=chance.choice(("infra_error", "timeout", "model_error")) if lost else "ok",
            )
