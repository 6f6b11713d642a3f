"""Runs the text benchmark: every method over the same noisy questions, one method after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from imc_agents.bench.methods import MODEL_METHODS, Method, Restored, make_method
from imc_agents.bench.questions import Question
from imc_agents.config.schema import Config
from imc_agents.errors import UsageError
from imc_agents.models.registry import create_backend
from imc_agents.noise.registry import check_severity, get_noise
from imc_agents.noise.text import Slip, apply_text_noise

__all__ = ["CLEAN", "Cell", "CellRun", "Keeps", "Plan", "Sample", "TextRun", "make_plan", "run_text_bench"]

CLEAN = "clean"
"""Stands where other cells have their noise kind."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question as the methods get it.

    Attributes:
        question: The published question.
        noisy: With noise; equal to the question where nothing was eligible, and in the clean cell.
        slips: What the noise did.
        seed: Seed of the noise.
    """

    question: Question
    noisy: str
    slips: tuple[Slip, ...]
    seed: int

    @property
    def altered(self) -> bool:
        """Whether the noise changed the question."""
        return self.noisy != self.question.text


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One data set under one noise. The clean cell has kind ``clean`` and severity 0."""

    dataset: str
    kind: str
    severity: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: the samples of each cell, and the methods in order."""

    cells: Mapping[Cell, tuple[Sample, ...]]
    methods: tuple[str, ...]

    @property
    def total(self) -> int:
        """Number of questions over all cells and methods."""
        return sum(map(len, self.cells.values())) * len(self.methods)


@dataclass(frozen=True, slots=True)
class CellRun:
    """What one method made of one cell, in the order of its samples, and how long that took."""

    restored: tuple[Restored, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class TextRun:
    """A whole run.

    Attributes:
        plan: What was run.
        results: Per cell and method.
        own_tokens: Mean tokens of a published question of each data set, where a model could count them.
    """

    plan: Plan
    results: Mapping[tuple[Cell, str], CellRun]
    own_tokens: Mapping[str, float] = field(default_factory=dict[str, float])


class Keeps(Protocol):
    """Keeps finished cells from one sitting to the next."""

    def load(self, cell: Cell, method: str) -> CellRun | None:
        """Return what a method made of a cell, or None where that is not finished."""
        ...

    def save(self, cell: Cell, method: str, run: CellRun) -> None:
        """Keep what a method made of a cell."""
        ...


def make_plan(
    questions: Mapping[str, Sequence[Question]],
    kinds: Sequence[str],
    severities: Sequence[int],
    methods: Sequence[str],
    seeds: Sequence[int] = (0,),
) -> Plan:
    """Lay out the cells: each data set clean, then under each kind and severity; several seeds share a cell.

    Raises:
        UsageError: for an unknown noise, a severity outside 1..5, or nothing to run.
    """
    for kind in kinds:
        get_noise(kind, "text")
    for severity in severities:
        check_severity(severity)
    if not methods or not any(questions.values()):
        raise UsageError("nothing to run: give at least one method and one data set with questions")
    cells: dict[Cell, tuple[Sample, ...]] = {}
    for dataset, asked in questions.items():
        cells[Cell(dataset, CLEAN, 0)] = tuple(Sample(q, q.text, (), seeds[0]) for q in asked)
        for kind in kinds:
            for severity in severities:
                cells[Cell(dataset, kind, severity)] = tuple(
                    _sample(question, kind, severity, seed) for seed in seeds for question in asked
                )
    return Plan(cells, tuple(methods))


async def run_text_bench(
    plan: Plan,
    config: Config,
    advance: Callable[[str, Cell], None] = lambda _method, _cell: None,
    kept: Keeps | None = None,
) -> TextRun:
    """Run every method on every cell, ``config.run.concurrency`` questions in flight.

    Methods run one after the other, so that none slows another down and one model at a time is in memory.

    Args:
        plan: What to run.
        config: Config of the methods that use a model.
        advance: Called for each question done.
        kept: Takes each cell of a method as it ends; those that it has already are not run again.

    Raises:
        BackendUnreachableError: if a model cannot be loaded or reached.
        UsageError: if there is no such method.
    """
    results: dict[tuple[Cell, str], CellRun] = {}
    for name in plan.methods:
        for cell, samples in plan.cells.items():
            if kept is not None and (done := kept.load(cell, name)) is not None:
                results[cell, name] = done
                for _ in samples:
                    advance(name, cell)
        rest = {cell: samples for cell, samples in plan.cells.items() if (cell, name) not in results}
        method = make_method(name, config)
        if not rest:
            continue
        await method.open()
        try:
            for cell, samples in rest.items():
                results[cell, name] = await _run_cell(
                    method,
                    cell,
                    samples,
                    len(samples) if method.at_once else config.run.concurrency,
                    lambda name=name, cell=cell: advance(name, cell),
                )
                if kept is not None:
                    kept.save(cell, name, results[cell, name])
        finally:
            await method.close()
    return TextRun(plan, results, await _own_tokens(plan, config))


async def _own_tokens(plan: Plan, config: Config) -> dict[str, float]:
    """Return the mean tokens of a clean question of each data set: what reading it once costs."""
    if not MODEL_METHODS.intersection(plan.methods):
        return {}
    backend = create_backend(config.backends["default"])
    means: dict[str, float] = {}
    try:
        if (await backend.open()).scores:
            for cell, samples in plan.cells.items():
                if cell.kind == CLEAN and samples:
                    scores, _ = await backend.score("Question:", [f" {sample.noisy}" for sample in samples])
                    means[cell.dataset] = sum(len(score.tokens) for score in scores) / len(scores)
    finally:
        await backend.close()
    return means


async def _run_cell(
    method: Method, cell: Cell, samples: Sequence[Sample], concurrency: int, advance: Callable[[], None]
) -> CellRun:
    slots = asyncio.Semaphore(max(concurrency, 1))

    async def restore(number: int, sample: Sample) -> Restored:
        async with slots:
            sample_id = (
                f"{cell.dataset}/{cell.kind}/{cell.severity}/{sample.seed}/{sample.question.id}/{number}"
            )
            restored = await method.restore(sample_id, sample.noisy)
        advance()
        return restored

    start = time.perf_counter()
    restored = await asyncio.gather(*(restore(number, sample) for number, sample in enumerate(samples)))
    return CellRun(tuple(restored), time.perf_counter() - start)


def _sample(question: Question, kind: str, severity: int, seed: int) -> Sample:
    noised = apply_text_noise(
        question.text, kind, severity, seed=seed, sample_id=question.id, dataset=question.dataset
    )
    return Sample(question, noised.text, noised.slips, seed)
