"""Refines the rows of a file, many at a time, into the run store.

Rows are read lazily: at most ``concurrency`` of them are in memory besides the few that wait to be stored. Whatever
goes wrong with one row becomes its status; only what concerns all rows ends the batch.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from imc_agents.data.rows import Row
from imc_agents.errors import (
    BackendUnreachableError,
    ConfigError,
    DataError,
    InfraError,
    ModelOutputError,
    UsageError,
)
from imc_agents.refinement import Refinement, Status
from imc_agents.runs.writer import FLUSH_SECONDS, EventValues, RunWriter, StorageError, event_values
from imc_agents.trace.events import Called, Event, Recorder

__all__ = ["OnProgress", "Refine", "run_batch"]


class Refine(Protocol):
    """Refines one question."""

    def __call__(
        self, sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Awaitable[Refinement]:
        """Take a question, and its image where there is one, through the agents."""
        ...


OnProgress = Callable[[Refinement | None], None]
"""Told of each finished row; without a refinement where the row had been finished before."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0


async def run_batch(
    rows: Iterable[Row],
    refine: Refine,
    writer: RunWriter,
    *,
    concurrency: int,
    timeout_seconds: float,
    infra_retries: int,
    on_progress: OnProgress,
    stop: asyncio.Event,
) -> bool:
    """Refine all rows that are not in the store yet; return False if ``stop`` was set before the end.

    Args:
        rows: The rows in input order.
        refine: Refines one question.
        writer: Takes the finished rows; everything finished is flushed when this returns or raises.
        concurrency: Rows in flight.
        timeout_seconds: Longest time for one row, repeated attempts included.
        infra_retries: Further attempts after an infrastructure error.
        on_progress: Called for each row.
        stop: When set, no more rows are taken and those in flight are cancelled; they count as not done.

    Raises:
        BackendUnreachableError: if a backend is gone.
        StorageError: if the run folder cannot be written.
        ConfigError: if the configuration turns out to be wrong.
        UsageError: if the input cannot be read to its end.
    """
    source = iter(rows)

    async def work() -> None:
        while not stop.is_set() and (row := next(source, None)) is not None:
            if writer.has(row.index):
                on_progress(None)
                await asyncio.sleep(0)
                continue
            first = writer.claim(row)
            refinement, events = await _refine_row(row, first, refine, timeout_seconds, infra_retries)
            writer.put(row, refinement, events)
            on_progress(refinement)
            if row.error:
                await asyncio.sleep(0)

    try:
        await _until_done([work() for _ in range(concurrency)], [_flush_regularly(writer)], stop)
    except StorageError:
        raise
    except BaseException:
        writer.flush()
        raise
    writer.flush()
    return not stop.is_set()


async def _until_done(
    workers: Iterable[Awaitable[None]], helpers: Iterable[Awaitable[None]], stop: asyncio.Event
) -> None:
    """Wait for all workers, or for the first error, or for ``stop``; leave no task behind."""
    pending = {asyncio.ensure_future(worker) for worker in workers}
    aside = {asyncio.ensure_future(helper) for helper in helpers} | {asyncio.ensure_future(_wait(stop))}
    everyone = pending | aside
    try:
        while pending and not stop.is_set():
            done, _ = await asyncio.wait(pending | aside, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            pending -= done
    finally:
        for task in everyone:
            task.cancel()
        await asyncio.gather(*everyone, return_exceptions=True)


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def _flush_regularly(writer: RunWriter) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS / 2)
        writer.flush_if_due()


@dataclass(slots=True)
class _Recording:
    """Collects the events of one attempt as they will be stored, and what its calls cost."""

    events: list[EventValues] = field(default_factory=list[EventValues])
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def record(self, event: Event) -> None:
        try:
            self.events.append(event_values(event))
        except ValueError as error:
            raise ModelOutputError(f"the model's reply cannot be stored as UTF-8 ({error})") from error
        if isinstance(event, Called):
            self.calls += 1
            self.prompt_tokens += event.prompt_tokens
            self.completion_tokens += event.completion_tokens


async def _refine_row(
    row: Row, first: bool, refine: Refine, timeout_seconds: float, infra_retries: int
) -> tuple[Refinement, list[EventValues]]:
    """Refine one row; every failure but those that concern all rows becomes a status."""
    flags = row.flags if first else (*row.flags, "duplicate_id")
    if row.error is not None or row.question is None:
        original = row.question or ""
        failed = Refinement(original, original, "data_error", flags, confidence=0.0, error=row.error)
        return failed, []
    # Rows that share an id still need different seeds and cache keys.
    sample_id = row.id if first else f"{row.id}#{row.index + 1}"
    started = time.monotonic()
    recording = _Recording()
    status: Status = "infra_error"
    problem = ""
    limit = asyncio.timeout(timeout_seconds)
    try:
        async with limit:
            for pause in (*_pauses(sample_id, infra_retries), None):
                recording = _Recording()
                try:
                    refinement = _storable(
                        await refine(sample_id, row.question, recording.record, image=row.image)
                    )
                    return replace(refinement, flags=(*refinement.flags, *flags)), recording.events
                except BackendUnreachableError:
                    raise
                except InfraError as error:
                    problem = _one_line(error)
                    if pause is None:
                        break
                    await asyncio.sleep(pause)
    except (BackendUnreachableError, ConfigError, UsageError):
        raise
    except ModelOutputError as error:
        status, problem = "model_error", _one_line(error)
    except DataError as error:
        status, problem = "data_error", _one_line(error)
    except Exception as error:
        if limit.expired():
            after = f"; before that: {problem}" if problem else ""
            status, problem = "timeout", f"no result within {timeout_seconds:g} s{after}"
        else:
            problem = f"defect in imc-agents, please report: {_place(error)}"
    failed = Refinement(
        original=row.question,
        refined=row.question,
        status=status,
        flags=flags,
        confidence=0.0,
        calls=recording.calls,
        prompt_tokens=recording.prompt_tokens,
        completion_tokens=recording.completion_tokens,
        milliseconds=(time.monotonic() - started) * 1000,
        error=problem,
    )
    return failed, recording.events


def _pauses(sample_id: str, retries: int) -> Iterator[float]:
    """Yield the pauses in seconds before further attempts: doubling, spread by a jitter that the id determines."""
    for attempt in range(retries):
        digest = hashlib.sha256(f"{sample_id}:{attempt}".encode()).digest()
        jitter = 0.5 + int.from_bytes(digest[:4]) / 2**32
        yield min(_FIRST_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS) * jitter


def _storable(refinement: Refinement) -> Refinement:
    try:
        refinement.refined.encode("utf-8")
    except UnicodeEncodeError:
        raise ModelOutputError("the refined text holds half of a surrogate pair") from None
    if not math.isfinite(refinement.confidence):
        raise ModelOutputError(f"the confidence is {refinement.confidence}, not a number from 0 to 1")
    return refinement


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {_one_line(error)}{where}"
