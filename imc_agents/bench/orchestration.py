"""Measures what the client side of a run on a server takes, against a server that answers at once.

The calls of a real run are recorded with their results. A stub of a vLLM server then gives the same results to the
batch runner, and to a bare loop that posts the same requests and parses the replies; a third pass takes the results
from memory, without HTTP, and so shows the agents, the graph and the store alone.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from imc_agents.bench.recording import (
    Call,
    ObservedRefiner,
    Recording,
    RecordingBackend,
    ReplayBackend,
    ScoreCall,
    only_backend,
    run_pipeline,
    write_questions,
)
from imc_agents.bench.serving_stub import MODEL, ReplyBook, started_stub
from imc_agents.config.schema import BackendConfig, Config
from imc_agents.errors import InfraError, ModelOutputError, UsageError
from imc_agents.models.control_tokens import inert
from imc_agents.models.openai_wire import chat_body, scoring_body
from imc_agents.models.protocol import Capabilities, Generation, Message
from imc_agents.models.registry import create_backend
from imc_agents.models.vllm_launch import CACHED_TOKENS

__all__ = ["Level", "OrchestrationRun", "Pass", "bench_orchestration", "orchestration_table"]

BAR = 1.5
"""How many times as long a call of the pipeline may take as one of the bare loop."""

_IN_FLIGHT = 4096  # the pool of the backend shall not hold anything back
_TIMEOUT_SECONDS = 120.0
_KEPT_ALIVE_SECONDS = 3.0  # as the backend keeps its connections
_SIDES = {"pipeline": "pipeline", "bare": "bare loop", "no_http": "pipeline without HTTP"}

_Request = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: its wall time in seconds, and the processor time of this process, export of the run included."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Level:
    """The passes of each side, taken in turns, with as many questions or requests in flight."""

    in_flight: int
    passes: dict[str, list[Pass]]

    def record(self, questions: int, calls: int) -> dict[str, Any]:
        """Return the figures and the passes behind them as plain data."""
        figures: dict[str, Any] = {"in_flight": self.in_flight}
        seconds: dict[str, float] = {}
        for side, passes in self.passes.items():
            seconds[side] = sum(turn.seconds for turn in passes) / len(passes)
            cpu_seconds = sum(turn.cpu_seconds for turn in passes) / len(passes)
            figures[f"{side}_ms_per_call"] = round(1000 * seconds[side] / calls, 4)
            figures[f"{side}_cpu_ms_per_call"] = round(1000 * cpu_seconds / calls, 4)
        return figures | {
            "ratio": round(seconds["pipeline"] / seconds["bare"], 4),
            "ms_per_question": round(1000 * seconds["pipeline"] / questions, 3),
            "questions_per_second": round(questions / seconds["pipeline"], 2),
            "passes": {side: [*map(asdict, passes)] for side, passes in self.passes.items()},
        }


@dataclass(frozen=True, slots=True)
class OrchestrationRun:
    """What was measured.

    Attributes:
        questions: Questions of one pass.
        failed: Of these, how many ended in an error, in every pass the same.
        calls: Model calls of one pass.
        recorded_on: Kind of the backend whose results were recorded.
        levels: The figures by questions in flight.
    """

    questions: int
    failed: int
    calls: int
    recorded_on: str
    levels: tuple[Level, ...]

    def record(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "questions": self.questions,
            "failed": self.failed,
            "calls_per_question": round(self.calls / self.questions, 3),
            "recorded_on": self.recorded_on,
            "bar": BAR,
            "levels": [level.record(self.questions, self.calls) for level in self.levels],
        }


async def bench_orchestration(
    texts: Sequence[str],
    config: Config,
    folder: Path,
    *,
    levels: Sequence[int],
    turns: int,
    on_stage: Callable[[str], None],
) -> OrchestrationRun:
    """Record a run on the configured backend; repeat it against a stub server, a bare loop and memory, in turns.

    Args:
        texts: Noisy questions.
        config: The configuration; every role in use must be on ``backends.default``.
        folder: Where input, runs and outputs go.
        levels: Questions in flight.
        turns: How often each takes its turn at each level.
        on_stage: Told each stage as it begins.

    Raises:
        UsageError: a role is on another backend, a recorded call failed, or a repetition came to other texts.
        BackendUnreachableError: the backend cannot be reached or loaded.
    """
    spec = only_backend(config)
    on_stage(f"recording on {spec.kind}")
    source = write_questions(texts, folder)
    capabilities, recording, expected, failed = await _record(spec, config, source)
    requests, book = _replies(recording)
    replies = folder / "replies.json"
    book.save(replies)
    # A run has nothing of what is kept here for the passes; the collector shall not walk through it in each.
    gc.collect()
    gc.freeze()
    try:
        async with started_stub(replies) as url:
            replies.unlink()
            options: dict[str, Any] = {"base_url": url, "max_in_flight": _IN_FLIGHT}
            served = create_backend(BackendConfig(kind="vllm", model=MODEL, options=options))
            try:
                await served.open()
                refiner = ObservedRefiner(config, served)
                at_once = ObservedRefiner(config, ReplayBackend(capabilities, recording.outcomes))
                on_stage("warming up")
                for one in (refiner, at_once):
                    await one.load()
                    await one.warm_up(texts[0])
                await _post_all(url, requests[:1], 1)

                async def run(one: ObservedRefiner, level: int) -> float:
                    one.forget()
                    seconds, count = await run_pipeline(source, one, config, level)
                    _check(expected, failed, one.texts, count)
                    return seconds

                sides: dict[str, Callable[[int], Awaitable[float]]] = {
                    "pipeline": partial(run, refiner),
                    "bare": partial(_post_all, url, requests),
                    "no_http": partial(run, at_once),
                }
                measured: list[Level] = []
                for level in levels:
                    passes: dict[str, list[Pass]] = {side: [] for side in sides}
                    for turn in range(1, turns + 1):
                        for side, work in sides.items():
                            on_stage(f"{level} in flight: {_SIDES[side]} {turn}/{turns}")
                            began = time.process_time()
                            seconds = await work(level)
                            passes[side].append(Pass(seconds, time.process_time() - began))
                    measured.append(Level(level, passes))
            finally:
                await served.close()
    finally:
        gc.unfreeze()
    return OrchestrationRun(len(texts), failed, len(requests), spec.kind, tuple(measured))


def orchestration_table(run: OrchestrationRun) -> Any:
    """Return the figures as a rich table, one column per number of questions in flight."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = run.record()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left")
    table.title = f"{run.questions} questions on a server that answers at once"
    table.add_column("questions in flight", style="cyan", no_wrap=True)
    for level in found["levels"]:
        table.add_column(str(level["in_flight"]), justify="right", no_wrap=True)

    def row(label: str, key: str, form: str) -> None:
        table.add_row(label, *(format(level[key], form) for level in found["levels"]))

    for side, name in _SIDES.items():
        row(f"ms a call, {name}", f"{side}_ms_per_call", ".2f")
    ratios = (level["ratio"] for level in found["levels"])
    colours = (Text(f"{ratio:.2f}", "green" if ratio <= BAR else "red") for ratio in ratios)
    table.add_row("ratio of pipeline to bare loop", *colours)
    table.add_section()
    for side, name in _SIDES.items():
        row(f"CPU ms a call, {name}", f"{side}_cpu_ms_per_call", ".2f")
    table.add_section()
    table.add_row("model calls a question", *[f"{found['calls_per_question']:.2f}"] * len(run.levels))
    row("ms a question, pipeline", "ms_per_question", ".2f")
    row("questions/s, pipeline", "questions_per_second", ".1f")
    if run.failed:
        table.caption = Text(f"{run.failed} questions failed, the same way in every pass.", "red")
    return table


async def _record(
    spec: BackendConfig, config: Config, source: Path
) -> tuple[Capabilities, Recording, dict[str, str], int]:
    """Run the file once; return what the backend is, the calls, the refined texts and how many questions failed."""
    backend = create_backend(spec)
    recording = Recording(keeps_outcomes=True)
    try:
        capabilities = await backend.open()
        refiner = ObservedRefiner(config, RecordingBackend(backend, capabilities, recording))
        await refiner.load()
        _, failed = await run_pipeline(source, refiner, config, config.run.concurrency)
    finally:
        await backend.close()
    if not recording.outcomes:
        raise UsageError("the agents called no model, so there is nothing to measure")
    return capabilities, recording, refiner.texts, failed


def _replies(recording: Recording) -> tuple[list[_Request], ReplyBook]:
    """The requests that a vLLM backend makes for the calls, in their order, and what each is answered."""
    book = ReplyBook()
    requests = {call: _request(call) for call in recording.outcomes}
    for call, outcome in recording.outcomes.items():
        body = requests[call][1]
        if isinstance(outcome, ModelOutputError):
            book.add_text(body, "", "length", 0)  # cut, which is the same error for the agents
        elif isinstance(outcome, Generation):
            book.add_text(body, outcome.text, "stop", outcome.usage.completion_tokens)
        elif isinstance(outcome, tuple) and isinstance(call, ScoreCall):
            book.add_scores(body, call.context, call.texts, outcome[0])
        else:
            raise UsageError(
                f"a call failed while it was recorded ({outcome}); record again, or leave its question out"
            )
    return [requests[call] for call in recording.calls if call in requests], book


def _request(call: Call) -> _Request:
    if isinstance(call, ScoreCall):
        body = scoring_body(MODEL, [call.context + text for text in call.texts], "prompt_logprobs")
        return "/completions", body | {"vllm_xargs": {CACHED_TOKENS: 1}}
    plain = [Message(message.role, inert(message.content), message.images) for message in call.messages]
    return "/chat/completions", chat_body(MODEL, plain, call.sampling, call.schema)


async def _post_all(url: str, requests: Sequence[_Request], in_flight: int) -> float:
    """Post all requests and parse what comes, nothing else; return the seconds."""
    import httpx

    gate = asyncio.Semaphore(in_flight)
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(_TIMEOUT_SECONDS, connect=10.0, pool=None),
        limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEPT_ALIVE_SECONDS),
        trust_env=False,
    ) as client:

        async def post(path: str, body: dict[str, Any]) -> None:
            async with gate:
                try:
                    response = await client.post(url + path, json=body)
                    response.raise_for_status()
                except httpx.HTTPError as error:
                    raise InfraError(f"the bare loop failed at {url}{path}: {error}") from error
                response.json()

        started = time.perf_counter()
        await asyncio.gather(*(post(*request) for request in requests))
        return time.perf_counter() - started


def _check(expected: dict[str, str], failed: int, texts: dict[str, str], count: int) -> None:
    """Refuse the figures of a pass that did not do what was recorded."""
    others = sorted(key for key in expected | texts if expected.get(key) != texts.get(key))
    if others or count != failed:
        raise UsageError(
            f"{len(others)} questions came to another text than when they were recorded ({', '.join(others[:3])}), "
            f"{count} failed and {failed} then; see that no prompt changes meanwhile"
        )
