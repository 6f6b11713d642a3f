"""Adaptation and calibration of one encoder on one data set, each with several seeds, and what they do under noise.

For each seed: an adapter is fitted, folded in, a bank is built for the encoder with and without it, and all four ways
are evaluated on the same noisy test images. Every part lies in a folder of its own and is not done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_agents.adapt.evaluate import EvalRequest, evaluate, plan_eval
from imc_agents.adapt.fit import create_encoder, fit, plan_fit
from imc_agents.adapt.labelled import LabelledImages, open_labelled
from imc_agents.adapt.merge import check_encoder, fold, write_folded
from imc_agents.adapt.settings import FitSettings
from imc_agents.bench.evaluation import read_evaluation
from imc_agents.bench.outcomes import ADAPTATION_METHODS, BASELINE, CLEAN, BenchRun
from imc_agents.bench.report.measures import MEASURES
from imc_agents.bench.report.resampling import resample
from imc_agents.bench.report.robustness import Errors, corruption_errors
from imc_agents.bench.report.scores import Cell, gather
from imc_agents.noise.registry import SEVERITIES, noises
from imc_agents.vision.bank import save_bank
from imc_agents.vision.build import Sample, build_bank
from imc_agents.vision.encoders.specs import load_encoder

__all__ = ["AdaptationRequest", "MethodFigures", "bench_adaptation"]

_METRICS = ("accuracy", "balanced_accuracy", "auroc")


@dataclass(frozen=True, slots=True)
class AdaptationRequest:
    """What is measured.

    Attributes:
        encoder: ``open_clip:...``, a vision transformer.
        data: Source of labelled images with the splits train and test.
        prompts: File of class prompts; None takes those that are built in.
        settings: Of each fit but for the seed.
        seeds: How many.
        bank_images: Training images of a bank at most; their labels are not used.
        test_images: At most; None is all.
        table: MedMNIST set whose strengths are taken; None is that of the data.
        severities: Of the noise.
    """

    encoder: str
    data: Path
    prompts: Path | None
    settings: FitSettings
    seeds: int = 3
    bank_images: int = 500
    test_images: int | None = None
    table: str | None = None
    severities: tuple[int, ...] = SEVERITIES


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One method with one seed; shares in [0, 1].

    Attributes:
        seed: Of shots, bank and noise.
        method: ``none``, ``adapt``, ``calibrate`` or ``both``.
        clean: By metric, on clean images.
        corrupted: By metric, the mean over noises of the mean over severities.
        by_noise: Balanced accuracy by noise.
        mce: Mean over noises of the error against that of ``none``, in per cent; None where that makes none.
        mbe: The same of the balanced error.
    """

    seed: int
    method: str
    clean: dict[str, float]
    corrupted: dict[str, float]
    by_noise: dict[str, float]
    mce: float | None
    mbe: float | None


def bench_adaptation(
    request: AdaptationRequest,
    folder: Path,
    *,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda _: None,
) -> list[MethodFigures]:
    """Measure, or go on with it.

    Args:
        request: What to measure.
        folder: For adapters, encoders, banks and evaluations of each seed.
        device: Where encoders run.
        tell: Told what is being done.

    Raises:
        UsageError, ConfigError, DataError: as the functions that this calls.
    """
    figures: list[MethodFigures] = []
    for seed in range(request.seeds):
        place = folder / f"seed-{seed}"
        adapter, folded = place / "adapter", place / "encoder"
        tell(f"seed {seed}: adapter")
        settings = request.settings.model_copy(update={"seed": seed})
        fit(plan_fit(request.encoder, request.data, request.prompts, settings), adapter, device=device)
        if not folded.exists():
            created = create_encoder(request.encoder)
            check_encoder(adapter, request.encoder, created)
            write_folded(fold(created, adapter), folded)
        train = open_labelled(request.data, "train")
        banks = (place / "bank", place / "bank-adapted")
        for bank, spec in zip(banks, (request.encoder, f"open_clip:{folded}"), strict=True):
            if not bank.exists():
                tell(f"seed {seed}: {bank.name}")
                save_bank(_bank(spec, train, request.bank_images, seed, device), bank)
        tell(f"seed {seed}: evaluation")
        plan = plan_eval(
            EvalRequest(
                encoder=request.encoder,
                data=request.data,
                adapter=adapter,
                banks=banks,
                table=request.table,
                severities=request.severities,
                prompts=request.prompts,
                limit=request.test_images,
                seed=seed,
            ),
            device=device,
        )
        evaluate(plan, place / "evaluation")
        figures += _figures(seed, read_evaluation(place / "evaluation"))
    return figures


def _bank(spec: str, images: LabelledImages, count: int, seed: int, device: str) -> Any:
    import numpy as np

    rows = range(len(images))
    if len(images) > count:
        rows = sorted(np.random.default_rng(seed).choice(len(images), count, replace=False).tolist())
    samples = [Sample(f"{images.name}/{images.ids[row]}", _loader(images, row)) for row in rows]
    return build_bank(load_encoder(spec, device=device), samples, noises("image"), seed=seed)


def _loader(images: LabelledImages, row: int) -> Callable[[], Any]:
    return lambda: images.load(row)


def _figures(seed: int, run: BenchRun) -> list[MethodFigures]:
    """All methods of one evaluation."""
    cells: dict[str, dict[Cell, float]] = {}
    for metric in _METRICS:
        measure = MEASURES[metric]
        scores = gather(run.outcomes, measure)
        found = resample(scores, measure.statistic)
        cells[metric] = {cell: float(found.figures[0, at]) for cell, at in found.columns.items()}
    methods = [
        method for method in (BASELINE, *ADAPTATION_METHODS) if Cell(method, CLEAN, 0) in cells["accuracy"]
    ]
    errors = {
        metric: {method: _errors(cells[metric], method) for method in methods}
        for metric in ("accuracy", "balanced_accuracy")
    }
    ratios = {
        metric: {method: corruption_errors(found[method], found[BASELINE]).mean.value for method in methods}
        for metric, found in errors.items()
    }
    made: list[MethodFigures] = []
    for method in methods:
        noise_names = list(errors["accuracy"][method].corrupted)
        made.append(
            MethodFigures(
                seed=seed,
                method=method,
                clean={metric: cells[metric][Cell(method, CLEAN, 0)] for metric in _METRICS},
                corrupted={
                    metric: _mean([_of_noise(cells[metric], method, noise) for noise in noise_names])
                    for metric in _METRICS
                },
                by_noise={
                    noise: _of_noise(cells["balanced_accuracy"], method, noise) for noise in noise_names
                },
                mce=ratios["accuracy"][method],
                mbe=ratios["balanced_accuracy"][method],
            )
        )
    return made


def _errors(cells: dict[Cell, float], method: str) -> Errors:
    corrupted: dict[str, dict[int, float]] = {}
    for cell, value in cells.items():
        if cell.method == method and cell.noise != CLEAN:
            corrupted.setdefault(cell.noise, {})[cell.severity] = 1 - value
    return Errors(1 - cells[Cell(method, CLEAN, 0)], corrupted)


def _of_noise(cells: dict[Cell, float], method: str, noise: str) -> float:
    return _mean([value for cell, value in cells.items() if (cell.method, cell.noise) == (method, noise)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
