"""Records the model calls of a run as they are made, by a backend that hands them on and a refiner that is watched.

Both stay open from one run to the next, so that no run pays for loading.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from imc_agents.agents.refiner import Refiner
from imc_agents.config.schema import BackendConfig, Config
from imc_agents.errors import ImcError, InfraError, UsageError
from imc_agents.models.protocol import Backend, Capabilities, Generation, Message, Sampling, Score, Usage
from imc_agents.refinement import Refinement
from imc_agents.runs.execute import execute_run
from imc_agents.runs.start import start_run
from imc_agents.trace.events import Recorder

__all__ = [
    "Call",
    "GenerateCall",
    "ObservedRefiner",
    "Outcome",
    "Recording",
    "RecordingBackend",
    "ReplayBackend",
    "ScoreCall",
    "make_call",
    "only_backend",
    "run_pipeline",
    "write_questions",
]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """The arguments of one ``score``."""

    context: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """The arguments of one ``generate``."""

    messages: tuple[Message, ...]
    sampling: Sampling
    schema: dict[str, Any] | None = field(hash=False)


Call = ScoreCall | GenerateCall
Outcome = tuple[list[Score], Usage] | Generation | ImcError
"""What a call gave: its result, or the error that it ended with."""


@dataclass(slots=True)
class Recording:
    """What was asked, in order of asking, and what each different call gave where that is kept."""

    keeps_outcomes: bool = False
    calls: list[Call] = field(default_factory=list[Call])
    outcomes: dict[Call, Outcome] = field(default_factory=dict[Call, Outcome])


@dataclass(slots=True)
class _Clock:
    """How long at least one call of a question was in flight."""

    seconds: float = 0.0
    _in_flight: int = 0
    _since: float = 0.0

    def begin(self) -> None:
        if not self._in_flight:
            self._since = time.perf_counter()
        self._in_flight += 1

    def end(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self.seconds += time.perf_counter() - self._since


# Tasks copy the context that they are made in, so the graph's tasks find the clock of their question here.
_CLOCK: ContextVar[_Clock | None] = ContextVar("clock of the question", default=None)


class RecordingBackend:
    """A backend that notes each call in ``recording`` and hands it on to one that is open already."""

    def __init__(self, backend: Backend, capabilities: Capabilities, recording: Recording) -> None:
        self._backend = backend
        self._capabilities = capabilities
        self.recording = recording

    async def open(self) -> Capabilities:
        """See ``Backend``; it is open already."""
        return self._capabilities

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """See ``Backend``."""
        call = GenerateCall(tuple(messages), sampling, schema)
        return await self._noted(call, self._backend.generate(messages, sampling=sampling, schema=schema))

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """See ``Backend``."""
        return await self._noted(ScoreCall(context, tuple(texts)), self._backend.score(context, texts))

    async def close(self) -> None:
        """Stays open for the next run."""

    async def _noted(self, call: Call, work: Awaitable[_T]) -> _T:
        recording, clock = self.recording, _CLOCK.get() or _Clock()
        recording.calls.append(call)
        outcome: Any
        clock.begin()
        try:
            outcome = await work
        except ImcError as error:
            outcome = error
        finally:
            clock.end()
        if recording.keeps_outcomes:
            # A server may answer the same request a little differently; a replay can only give one of the answers.
            kept = recording.outcomes.setdefault(call, outcome)
            outcome = outcome if isinstance(kept, InfraError) else kept
        if isinstance(outcome, ImcError):
            raise outcome
        return cast("_T", outcome)


class ReplayBackend:
    """A backend that answers from a recording at once."""

    def __init__(self, capabilities: Capabilities, outcomes: dict[Call, Outcome]) -> None:
        self._capabilities = capabilities
        self._outcomes = outcomes

    async def open(self) -> Capabilities:
        """See ``Backend``."""
        return self._capabilities

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """See ``Backend``."""
        return self._given(GenerateCall(tuple(messages), sampling, schema))

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """See ``Backend``."""
        return self._given(ScoreCall(context, tuple(texts)))

    async def close(self) -> None:
        """See ``Backend``."""

    def _given(self, call: Call) -> Any:
        found = self._outcomes.get(call)
        if found is None:
            raise UsageError(
                "the agents ask for something else than while it was recorded; is a prompt changing?"
            )
        if isinstance(found, ImcError):
            raise found
        return found


class ObservedRefiner:
    """The refiner on a backend that stays open between runs; keeps what each question came to."""

    def __init__(self, config: Config, backend: Backend) -> None:
        def kept(_spec: BackendConfig) -> Backend:
            return backend

        self._refiner = Refiner(config, create=kept)
        self._capabilities: dict[str, Capabilities] = {}
        self.forget()

    def forget(self) -> None:
        """Begin anew: for the next run."""
        self.texts: dict[str, str] = {}
        self.outside_seconds = 0.0

    async def load(self) -> None:
        """Open the vocabulary and the graph, once for all runs."""
        self._capabilities = await self._refiner.open()

    async def warm_up(self, text: str) -> None:
        """Refine the first question, so that no run pays for what it fills; its errors come again in the runs."""
        with suppress(ImcError):
            await self.refine("q0", text, lambda _event: None)

    async def open(self) -> dict[str, Capabilities]:
        """See ``Refines``; it is open already."""
        return self._capabilities

    def prompt_hashes(self) -> dict[str, str]:
        """See ``Refines``."""
        return self._refiner.prompt_hashes()

    async def refine(
        self, sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        """Refine, and note the text and how long the question was with none of its calls in flight."""
        clock, started = _Clock(), time.perf_counter()
        token = _CLOCK.set(clock)
        try:
            found = await self._refiner.refine(sample_id, question, record, image=image)
        finally:
            _CLOCK.reset(token)
            self.outside_seconds += time.perf_counter() - started - clock.seconds
        self.texts[sample_id] = found.refined
        return found

    async def engine_work(self) -> None:
        """Not told: the bench asks the backend itself."""

    async def close(self) -> None:
        """Stays open for the next run."""


def make_call(backend: Backend, call: Call) -> Awaitable[Any]:
    """Make a recorded call once more."""
    if isinstance(call, ScoreCall):
        return backend.score(call.context, call.texts)
    return backend.generate(call.messages, sampling=call.sampling, schema=call.schema)


def only_backend(config: Config) -> BackendConfig:
    """Return ``backends.default``, which all roles in use must be on.

    Raises:
        UsageError: some role is on another one.
    """
    others = {
        f"roles.{name}.backend = {role.backend}"
        for name, role in config.roles.items()
        if role.enabled and role.backend != "default"
    }
    if others:
        raise UsageError(
            f"this measures one backend: let every role use backends.default ({', '.join(sorted(others))})"
        )
    return config.backends["default"]


def write_questions(texts: Sequence[str], folder: Path) -> Path:
    """Write the questions as the input of runs and return the file."""
    source = folder / "questions.jsonl"
    with source.open("w", encoding="utf-8") as stream:
        for number, text in enumerate(texts):
            stream.write(json.dumps({"id": f"q{number}", "question": text}, ensure_ascii=False) + "\n")
    return source


async def run_pipeline(
    source: Path, refiner: ObservedRefiner, config: Config, in_flight: int
) -> tuple[float, int]:
    """Run the batch runner over a file, its folder beside it; return its seconds and how many questions failed.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    run = start_run(
        source,
        directory=source.parent / "runs",
        name="bench",
        config_yaml="{}\n",
        seed=config.seed,
        command=("imc", "bench", "serving"),
        output=None,
    )
    done = await execute_run(
        run,
        refiner,
        config.run.model_copy(update={"concurrency": in_flight}),
        on_start=lambda _total, _done: None,
        on_progress=lambda _refinement: None,
    )
    if not done.finished:
        raise KeyboardInterrupt
    return done.seconds, done.totals.failed
