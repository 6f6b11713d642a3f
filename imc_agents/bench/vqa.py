"""Answers to closed questions about noisy images, calibrated against as they came, of a model behind a backend.

Both answers to a question come from features of the same encoder, so nothing but the calibration differs, and they are
compared in pairs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_agents.agents.refiner import Refiner
from imc_agents.bench.answers import said
from imc_agents.bench.stats import mcnemar
from imc_agents.config.schema import Config
from imc_agents.errors import ModelOutputError, UsageError
from imc_agents.noise.registry import NoiseSpec
from imc_agents.vision.build import at_encoder_size
from imc_agents.vision.perception import CLEAN
from imc_agents.vision.reading import read_image

__all__ = ["Paired", "VqaQuestion", "bench_vqa", "closed_questions"]

_FILES = ("trainset.json", "testset.json")
_CLOSED = ("yes", "no")


@dataclass(frozen=True, slots=True)
class VqaQuestion:
    """A closed question about an image, and its answer: ``yes`` or ``no``."""

    id: str
    image: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Paired:
    """Answers of one noise.

    Attributes:
        noise: Name of the noise, or ``clean``.
        severity: 0 for clean.
        questions: Questions.
        raw: Right answers from the features as they came.
        calibrated: Right answers from the calibrated ones.
        gained: Answers that calibration made right.
        lost: Answers that it made wrong.
        p: Exact two-sided McNemar test of the two.
        treated: Questions about images whose features were changed.
        unusable: Replies that were cut or empty, of either kind; they count as wrong.
    """

    noise: str
    severity: int
    questions: int
    raw: int
    calibrated: int
    gained: int
    lost: int
    p: float
    treated: int
    unusable: int


def closed_questions(folder: Path, images: Sequence[str] | None = None) -> list[VqaQuestion]:
    """Read the questions of VQA-RAD whose answer is yes or no.

    Args:
        folder: As published: ``trainset.json``, ``testset.json``, ``images/``.
        images: Names of the images to take; None takes all.

    Raises:
        UsageError: the files are not there, or no question is left.
    """
    found: list[VqaQuestion] = []
    for name in _FILES:
        path = folder / name
        try:
            rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read ({error}); name the folder of VQA-RAD") from error
        for row in rows:
            answer = str(row["answer"]).strip().lower()
            if answer in _CLOSED and (images is None or row["image_name"] in images):
                found.append(
                    VqaQuestion(f"{name[:5]}-{row['qid']}", row["image_name"], row["question"], answer)
                )
    if not found:
        raise UsageError(f"{folder}: no closed question about these images")
    return found


async def bench_vqa(
    config: Config,
    questions: Sequence[VqaQuestion],
    folder: Path,
    noises: Sequence[NoiseSpec],
    *,
    severity: int,
    seed: int,
    work: Path,
    size: int,
    tell: Callable[[Paired], None] = lambda _: None,
) -> list[Paired]:
    """Answer every question for clean images and for each noise, from raw and from calibrated features.

    Args:
        config: With ``run.answer``, a bank, and ``pdc.images`` at ``work``.
        questions: The questions.
        folder: The images.
        noises: Image noises.
        severity: Of all noises, 1 to 5.
        seed: Of the noise.
        work: Empty folder for noisy images.
        size: The encoder's; images are brought to it before the noise.
        tell: Told of each noise that is done.
    """
    refiner = Refiner(config)
    slots = asyncio.Semaphore(config.run.concurrency)
    try:
        await refiner.open()
        rows: list[Paired] = []
        for noise in (None, *noises):
            name = noise.name if noise else CLEAN
            _corrupt(
                {question.image for question in questions}, folder, work / name, noise, severity, seed, size
            )
            answers = await asyncio.gather(
                *(_both(refiner, slots, question, f"{name}/{question.image}.png") for question in questions)
            )
            rows.append(_paired(name, severity if noise else 0, questions, answers))
            tell(rows[-1])
        return rows
    finally:
        await refiner.close()


@dataclass(frozen=True, slots=True)
class _Both:
    raw: str
    calibrated: str
    treated: bool
    usable: bool = True


async def _both(refiner: Refiner, slots: asyncio.Semaphore, question: VqaQuestion, image: str) -> _Both:
    treated = False

    def record(event: Any) -> None:
        nonlocal treated
        treated = treated or (event.type == "calibrated" and event.operator != "identity")

    async with slots:
        try:
            _, answers = await refiner.ask(
                question.id, question.text, record, image=image, ways=("raw", "image")
            )
        except ModelOutputError:
            return _Both("", "", treated, usable=False)
    return _Both(said(answers["raw"]), said(answers["image"]), treated)


def _paired(noise: str, severity: int, questions: Sequence[VqaQuestion], answers: Sequence[_Both]) -> Paired:
    right = [
        (both.raw == question.answer, both.calibrated == question.answer)
        for question, both in zip(questions, answers, strict=True)
    ]
    gained, lost = right.count((False, True)), right.count((True, False))
    return Paired(
        noise=noise,
        severity=severity,
        questions=len(questions),
        raw=sum(raw for raw, _ in right),
        calibrated=sum(calibrated for _, calibrated in right),
        gained=gained,
        lost=lost,
        p=mcnemar(gained, lost),
        treated=sum(both.treated for both in answers),
        unusable=sum(not both.usable for both in answers),
    )


def _corrupt(
    images: set[str], folder: Path, target: Path, noise: NoiseSpec | None, severity: int, seed: int, size: int
) -> None:
    import numpy as np
    from PIL import Image

    target.mkdir(parents=True)
    for name in sorted(images):
        array: Any = np.asarray(at_encoder_size(read_image(folder / name), size))
        if noise is not None:
            array = noise.apply(array, severity, seed=seed, sample_id=name, dataset="vqa-rad")
        Image.fromarray(array).save(target / f"{name}.png")
