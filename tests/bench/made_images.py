"""Runs of image classification from seeded numbers, with methods whose gains are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from random import Random

from imc_agents.bench.outcomes import BenchRun, Outcome

CLASSES = ("no tumour", "benign or malignant", "yes")
"""Names that the rules for free text would take for something else."""

LOSS = {"none": 0.6, "adapt": 0.35, "calibrate": 0.45, "both": 0.2}
"""What each step of severity takes from the evidence for the right class."""


def made_images(
    images: int = 60,
    *,
    classes: Sequence[str] = CLASSES,
    methods: Sequence[str] = ("both", "calibrate", "adapt", "none"),
    noises: Sequence[str] = ("fog", "blur"),
    severities: Sequence[int] = (1, 5),
    shares: Mapping[str, float] | None = None,
    failures: float = 0.0,
    model: str = "clip",
    seed: int = 0,
    name: str = "images",
) -> BenchRun:
    """A run in which the last class is rare unless ``shares`` says otherwise."""
    weights = [(shares or {}).get(one, 1.0 if one != classes[-1] else 0.4) for one in classes]
    outcomes: list[Outcome] = []
    for sample in range(images):
        answer = Random(f"truth/{sample}").choices(classes, weights)[0]
        for noise, severity in [("clean", 0), *((noise, step) for noise in noises for step in severities)]:
            for method in methods:
                draw = Random(f"{seed}/{sample}/{noise}/{severity}/{method}")
                evidence = [draw.gauss(0, 1) for _ in classes]
                evidence[classes.index(answer)] += 2.5 - LOSS[method] * severity
                # Rounded, so that some are tied.
                raw = [round(exp(value), 1) + 0.1 for value in evidence]
                scores = tuple(value / sum(raw) for value in raw)
                lost = draw.random() < failures
                outcomes.append(
                    Outcome(
                        model=model,
                        dataset="made_images",
                        noise=noise,
                        severity=severity,
                        modality="none" if noise == "clean" else "image",
                        method=method,
                        sample=f"i{sample}",
                        kind="closed",
                        question="What does the image show?",
                        noisy="What does the image show?",
                        refined="What does the image show?",
                        answer=answer,
                        reply=None if lost else classes[scores.index(max(scores))],
                        status="data_error" if lost else "ok",
                        options=tuple(classes),
                        scores=() if lost else scores,
                    )
                )
    return BenchRun(name, Path("runs") / name, True, len(outcomes), {}, tuple(outcomes))
