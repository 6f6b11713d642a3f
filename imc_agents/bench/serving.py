"""Measures how close a real run on a server comes to the flat replay of its own calls.

The pipeline is the batch runner with agents, store and trace. Its calls are recorded and then made once more through
the same open backend, all at once, which is the most that the server can do with them. The replay finds its chats in
the server's prefix cache, which the pipeline filled; that makes it faster, never slower.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imc_agents.bench.recording import (
    Call,
    ObservedRefiner,
    Recording,
    RecordingBackend,
    make_call,
    only_backend,
    run_pipeline,
    write_questions,
)
from imc_agents.config.schema import Config
from imc_agents.errors import ImcError, UsageError
from imc_agents.models.protocol import Backend, EngineWork, Measured
from imc_agents.models.registry import create_backend

__all__ = ["Level", "Pass", "ServingRun", "bench_serving", "serving_table"]

BAR = 1.15
"""How many times as long as the flat replay of its calls a run may take."""

_LAG_SECONDS = 1.2  # engines publish their counters about once a second


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over all questions, or over all their calls.

    Attributes:
        seconds: Wall time.
        calls: Model calls.
        failed: Questions of the pipeline, calls of the replay, that ended in an error.
        outside_seconds: Sum over the questions of the time in which none of their calls was in flight.
        work: What the engines did; None where they do not tell it.
    """

    seconds: float
    calls: int
    failed: int
    outside_seconds: float
    work: EngineWork | None


@dataclass(frozen=True, slots=True)
class Level:
    """The passes with as many questions in flight, taken in turns."""

    in_flight: int
    pipeline: tuple[Pass, ...]
    flat: tuple[Pass, ...]

    def record(self, questions: int) -> dict[str, Any]:
        """Return the figures and the passes behind them as plain data."""
        asked = questions * len(self.pipeline)
        seconds = sum(turn.seconds for turn in self.pipeline)
        flat_seconds = sum(turn.seconds for turn in self.flat)
        work, flat_work = _work(self.pipeline), _work(self.flat)
        rate = None if work is None else work.hit_rate
        return {
            "in_flight": self.in_flight,
            "pipeline_seconds": round(seconds, 3),
            "flat_seconds": round(flat_seconds, 3),
            "ratio": round(seconds / flat_seconds, 4),
            "questions_per_second": round(asked / seconds, 3),
            "calls_per_question": round(sum(turn.calls for turn in self.pipeline) / asked, 3),
            "tokens_per_second": None if work is None else round(work.computed_tokens / seconds, 1),
            "flat_tokens_per_second": (
                None if flat_work is None else round(flat_work.computed_tokens / flat_seconds, 1)
            ),
            "cache_hit_rate": None if rate is None else round(rate, 4),
            "outside_ms_per_question": round(
                1000 * sum(turn.outside_seconds for turn in self.pipeline) / asked, 2
            ),
            "failed": sum(turn.failed for turn in self.pipeline),
            "flat_failed_calls": sum(turn.failed for turn in self.flat),
            "passes": {"pipeline": [*map(asdict, self.pipeline)], "flat": [*map(asdict, self.flat)]},
        }


@dataclass(frozen=True, slots=True)
class ServingRun:
    """What was measured.

    Attributes:
        questions: Questions of one pass.
        kind: Kind of the backend.
        model: Name of the model.
        levels: The figures by questions in flight.
    """

    questions: int
    kind: str
    model: str
    levels: tuple[Level, ...]

    def record(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "questions": self.questions,
            "backend": self.kind,
            "model": self.model,
            "bar": BAR,
            "levels": [level.record(self.questions) for level in self.levels],
        }


async def bench_serving(
    texts: Sequence[str],
    config: Config,
    folder: Path,
    *,
    levels: Sequence[int],
    turns: int,
    on_stage: Callable[[str], None],
) -> ServingRun:
    """Refine the texts and replay the calls that were made, in turns, with each number of questions in flight.

    Args:
        texts: Noisy questions.
        config: The configuration; every role in use must be on ``backends.default``.
        folder: Where input, runs and outputs go.
        levels: Questions in flight.
        turns: How often each takes its turn at each level.
        on_stage: Told each stage as it begins.

    Raises:
        UsageError: a role is on another backend, or no model is called.
        BackendUnreachableError: the backend cannot be reached or loaded.
    """
    spec = only_backend(config)
    backend = create_backend(spec)
    on_stage("loading")
    measured: list[Level] = []
    try:
        capabilities = await backend.open()
        recording = RecordingBackend(backend, capabilities, Recording())
        refiner = ObservedRefiner(config, recording)
        await refiner.load()
        # Neither side shall pay for what the first question fills: caches here and in the server.
        on_stage("warming up")
        await refiner.warm_up(texts[0])
        source = write_questions(texts, folder)
        for level in levels:
            pipeline: list[Pass] = []
            flat: list[Pass] = []
            for turn in range(1, turns + 1):
                on_stage(f"{level} in flight: pipeline {turn}/{turns}")
                refiner.forget()
                recording.recording = Recording()
                before = await _engine_work(backend)
                seconds, failed = await run_pipeline(source, refiner, config, level)
                calls = recording.recording.calls
                after = await _engine_work(backend)
                work = _difference(before, after)
                pipeline.append(Pass(seconds, len(calls), failed, refiner.outside_seconds, work))
                if not calls:
                    raise UsageError("the agents called no model, so there is nothing to replay")
                on_stage(f"{level} in flight: flat replay {turn}/{turns}")
                seconds, failed = await _replay(backend, calls)
                work = _difference(after, await _engine_work(backend))
                flat.append(Pass(seconds, len(calls), failed, 0.0, work))
            measured.append(Level(level, tuple(pipeline), tuple(flat)))
    finally:
        await backend.close()
    return ServingRun(len(texts), spec.kind, capabilities.model, tuple(measured))


def serving_table(run: ServingRun) -> Any:
    """Return the figures as a rich table, one column per number of questions in flight."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    levels = [level.record(run.questions) for level in run.levels]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left")
    table.title = f"{run.questions} questions on {run.kind} {run.model}"
    table.add_column("questions in flight", style="cyan", no_wrap=True)
    for level in levels:
        table.add_column(str(level["in_flight"]), justify="right", no_wrap=True)

    def row(label: str, key: str, form: str) -> None:
        table.add_row(label, *("-" if level[key] is None else format(level[key], form) for level in levels))

    row("pipeline, seconds", "pipeline_seconds", ".2f")
    row("flat replay of its calls, seconds", "flat_seconds", ".2f")
    ratios = (level["ratio"] for level in levels)
    table.add_row("  ratio", *(Text(f"{ratio:.2f}", "green" if ratio <= BAR else "red") for ratio in ratios))
    table.add_section()
    row("questions/s", "questions_per_second", ".2f")
    row("model calls a question", "calls_per_question", ".2f")
    row("tokens/s computed, pipeline", "tokens_per_second", ",.0f")
    row("tokens/s computed, flat replay", "flat_tokens_per_second", ",.0f")
    row("prefix cache hits, pipeline", "cache_hit_rate", ".1%")
    row("ms a question outside the engine", "outside_ms_per_question", ".1f")
    table.add_section()
    for label, key in (("failed questions", "failed"), ("failed calls of the replay", "flat_failed_calls")):
        table.add_row(label, *(Text(str(level[key]), "red" if level[key] else "") for level in levels))
    return table


async def _replay(backend: Backend, calls: Sequence[Call]) -> tuple[float, int]:
    """Make all calls at once and drop what they give; return the seconds and how many failed."""

    async def again(call: Call) -> bool:
        try:
            await make_call(backend, call)
        except ImcError:
            return False
        return True

    started = time.perf_counter()
    done = await asyncio.gather(*map(again, calls))
    return time.perf_counter() - started, done.count(False)


async def _engine_work(backend: Backend) -> EngineWork | None:
    if not isinstance(backend, Measured):
        return None
    await asyncio.sleep(_LAG_SECONDS)
    found = await backend.engine_work()
    return sum(found.values(), EngineWork(0, 0, 0, 0)) if found else None


def _difference(before: EngineWork | None, after: EngineWork | None) -> EngineWork | None:
    return None if before is None or after is None else after - before


def _work(passes: Sequence[Pass]) -> EngineWork | None:
    """What the engines did in all passes together; None where one is not known."""
    found = [turn.work for turn in passes if turn.work is not None]
    return sum(found, EngineWork(0, 0, 0, 0)) if len(found) == len(passes) else None
