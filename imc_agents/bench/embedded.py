"""Measures how close a real run comes to what the embedded model alone can do.

The pipeline is the batch runner with agents, store and trace. What it asks the model to score is recorded and put
through the same loaded model once more, all of it at once and in full batches. Both take turns in one process, so
that whatever else the machine does slows both; only the ratio means something on a busy machine.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import islice
from operator import add
from pathlib import Path
from typing import Any

from imc_agents.bench.recording import (
    ObservedRefiner,
    Recording,
    RecordingBackend,
    ScoreCall,
    only_backend,
    run_pipeline,
    write_questions,
)
from imc_agents.config.schema import Config
from imc_agents.data.registry import open_reader
from imc_agents.errors import UsageError
from imc_agents.models.batcher import Work
from imc_agents.models.embedded import EmbeddedBackend
from imc_agents.models.registry import create_backend
from imc_agents.noise.text import apply_text_noise

__all__ = ["EmbeddedRun", "Pass", "bench_embedded", "embedded_table", "noisy_texts", "read_texts"]

BAR = 0.8
"""Share of the bare model's tokens per second that a run should reach."""

_ScoreRequest = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over all questions: its wall time in seconds, and what the model did meanwhile."""

    seconds: float
    work: Work

    def __add__(self, other: Pass) -> Pass:
        return Pass(self.seconds + other.seconds, self.work + other.work)


@dataclass(frozen=True, slots=True)
class EmbeddedRun:
    """What was measured.

    Attributes:
        questions: Questions of one pass.
        failed: Of these, how many ended in an error.
        calls: Model calls of one pass.
        replies: Of these, calls that wrote a reply; the bare model does not repeat them.
        concurrency: Questions in flight.
        pipeline: The passes of the batch runner.
        bare: The passes of the bare model, taken in turns with them.
        first_result_seconds: From the start of the process to the first refined question, caches warm.
        peak_mib: Most resident memory up to the end of the first pass of the batch runner.
    """

    questions: int
    failed: int
    calls: int
    replies: int
    concurrency: int
    pipeline: tuple[Pass, ...]
    bare: tuple[Pass, ...]
    first_result_seconds: float
    peak_mib: float

    def record(self) -> dict[str, Any]:
        """Return the figures and the passes behind them as plain data."""
        pipeline, bare = reduce(add, self.pipeline), reduce(add, self.bare)
        asked = self.questions * len(self.pipeline)
        # The bare model is timed inside its forward passes, the pipeline from its first question to its last.
        of_pipeline, of_bare = pipeline.work.tokens / pipeline.seconds, bare.work.tokens / bare.work.seconds
        return {
            "questions": self.questions,
            "failed": self.failed,
            "concurrency": self.concurrency,
            "questions_per_second": round(asked / pipeline.seconds, 3),
            "calls_per_question": round(self.calls / self.questions, 3),
            "replies_per_question": round(self.replies / self.questions, 3),
            "tokens_per_question": round(pipeline.work.tokens / asked, 1),
            "tokens_per_second": round(of_pipeline, 1),
            "bare_tokens_per_second": round(of_bare, 1),
            "ratio": round(of_pipeline / of_bare, 4),
            "bar": BAR,
            "tokens_per_batch": round(pipeline.work.tokens / pipeline.work.batches, 1),
            "bare_tokens_per_batch": round(bare.work.tokens / bare.work.batches, 1),
            "overhead_ms_per_question": round(1000 * (pipeline.seconds - pipeline.work.seconds) / asked, 2),
            "first_result_seconds": round(self.first_result_seconds, 2),
            "peak_resident_mib": round(self.peak_mib, 1),
            "passes": {"pipeline": [*map(asdict, self.pipeline)], "bare": [*map(asdict, self.bare)]},
        }


def read_texts(path: Path, limit: int) -> list[str]:
    """Return the first usable questions of a file that ``imc refine`` could read.

    Raises:
        UsageError: the file cannot be read or holds no question.
    """
    rows = (row for row in open_reader(path).rows() if row.question is not None and row.error is None)
    found = [str(row.question) for row in islice(rows, limit)]
    if not found:
        raise UsageError(f"{path}: there is no usable question in it")
    return found


def noisy_texts(texts: Iterable[str], kind: str | None, severity: int) -> list[str]:
    """Put one noise over all texts; None leaves them as they are.

    Raises:
        UsageError: unknown noise or severity.
    """
    if kind is None:
        return list(texts)
    return [
        apply_text_noise(text, kind, severity, sample_id=str(number)).text
        for number, text in enumerate(texts)
    ]


async def bench_embedded(
    texts: Sequence[str], config: Config, folder: Path, *, turns: int, on_stage: Callable[[str], None]
) -> EmbeddedRun:
    """Refine the texts and put what was scored through the bare model, in turns.

    Args:
        texts: Noisy questions.
        config: The configuration; every role in use must be on the embedded model of ``backends.default``.
        folder: Where input, runs and outputs go.
        turns: How often each takes its turn.
        on_stage: Told each stage as it begins.

    Raises:
        UsageError: the configuration names another backend, or nothing is scored.
        BackendUnreachableError: the model cannot be loaded.
    """
    backend = create_backend(only_backend(config))
    if not isinstance(backend, EmbeddedBackend):
        raise UsageError("this measures the embedded model: let backends.default be of kind embedded")
    on_stage("loading")
    recording = Recording()
    refiner = ObservedRefiner(config, RecordingBackend(backend, await backend.open(), recording))
    await refiner.load()
    scored: list[_ScoreRequest] = []
    try:
        await refiner.warm_up(texts[0])
        first_result = time.time() - _process_started()
        source = write_questions(texts, folder)
        pipeline: list[Pass] = []
        bare: list[Pass] = []
        peak, failed = 0.0, 0
        for turn in range(1, turns + 1):
            on_stage(f"pipeline {turn}/{turns}")
            recording.calls.clear()
            before = backend.work
            seconds, failed = await run_pipeline(source, refiner, config, config.run.concurrency)
            pipeline.append(Pass(seconds, backend.work - before))
            peak = peak or _peak_mib()
            scored = [(call.context, call.texts) for call in recording.calls if isinstance(call, ScoreCall)]
            if not scored:
                raise UsageError("the agents scored nothing, so there is nothing to compare")
            on_stage(f"bare model {turn}/{turns}")
            before, started = backend.work, time.perf_counter()
            await backend.replay(scored)
            bare.append(Pass(time.perf_counter() - started, backend.work - before))
    finally:
        await backend.close()
    return EmbeddedRun(
        questions=len(texts),
        failed=failed,
        calls=len(recording.calls),
        replies=len(recording.calls) - len(scored),
        concurrency=config.run.concurrency,
        pipeline=tuple(pipeline),
        bare=tuple(bare),
        first_result_seconds=first_result,
        peak_mib=peak,
    )


def embedded_table(run: EmbeddedRun) -> Any:
    """Return the figures as a rich table, pipeline beside bare model."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = run.record()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left")
    table.title = f"{run.questions} questions, {run.concurrency} in flight, {len(run.pipeline)} turns each"
    table.add_column("", style="cyan", no_wrap=True)
    for heading in ("pipeline", "bare model"):
        table.add_column(heading, justify="right", no_wrap=True)
    reached = found["ratio"] >= BAR
    table.add_row("questions/s", f"{found['questions_per_second']:.2f}")
    table.add_row("tokens/s", f"{found['tokens_per_second']:,.0f}", f"{found['bare_tokens_per_second']:,.0f}")
    table.add_row("  share of the bare model", Text(f"{found['ratio']:.2f}", "green" if reached else "red"))
    table.add_row(
        "tokens a batch", f"{found['tokens_per_batch']:.0f}", f"{found['bare_tokens_per_batch']:.0f}"
    )
    table.add_section()
    table.add_row("tokens scored a question", f"{found['tokens_per_question']:,.0f}")
    table.add_row("model calls a question", f"{found['calls_per_question']:.2f}")
    table.add_row("ms a question outside the model", f"{found['overhead_ms_per_question']:.1f}")
    table.add_row("failed questions", Text(str(run.failed), "red" if run.failed else ""))
    table.add_section()
    table.add_row("seconds to the first result", f"{found['first_result_seconds']:.1f}")
    table.add_row("peak resident memory, MiB", f"{found['peak_resident_mib']:,.0f}")
    if run.replies:
        table.caption = f"{run.replies} calls wrote replies, which the bare model does not repeat."
    return table


def _process_started() -> float:
    import psutil

    return psutil.Process().create_time()


def _peak_mib() -> float:
    # Linux hands a parent's ru_maxrss down to the program it starts; VmHWM is this program's own.
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
