"""The seam between agents and models: the two calls that every backend serves.

Both calls take *one* request; concurrency is many calls in flight, and a backend batches across them as it likes.
The result of a call depends on that request alone, never on what else is in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
    "Backend",
    "Capabilities",
    "EngineWork",
    "Generation",
    "ImageFeatures",
    "Measured",
    "Message",
    "Sampling",
    "Score",
    "TokenScore",
    "Usage",
]


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """An image as the language model reads it, computed outside the model.

    Attributes:
        rows: (tokens, width) float32 numpy array, behind the projector.
        grid: Frames, rows and columns of its patches, for families that need them (Qwen).
        digest: Identifies image, encoder and calibration; part of the key of a cached call.
    """

    rows: Any
    grid: tuple[int, int, int] | None
    digest: str


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message.

    Attributes:
        role: Who speaks.
        content: What is said.
        images: The images that stand before the text: files, or features in their place.
        fixed: Whether every prompt of the role has just this message here, so that what the model computes for the
            leading fixed ones is worth keeping. The reply does not depend on it.
    """

    role: Literal["system", "user", "assistant"]
    content: str
    images: tuple[Path | ImageFeatures, ...] = ()
    fixed: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample a reply. Temperature 0 is greedy; the seed is used only above 0."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost.

    Attributes:
        prompt_tokens: Tokens that the model read; tokens served from a prefix cache are not counted.
        completion_tokens: Tokens that the model wrote.
        milliseconds: Wall time of the call, waiting for a batch slot included.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Generation:
    """A model's reply. ``parsed`` is the decoded JSON where a schema was given."""

    text: str
    parsed: Any | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The log-probability (natural log) of one token.

    ``start`` and ``end`` are character offsets into the scored text (not into context + text). A token that
    straddles the boundary between context and text has ``start`` 0.
    """

    start: int
    end: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Score:
    """Token log-probabilities of one text, in order; their spans cover the whole text."""

    tokens: tuple[TokenScore, ...]

    @property
    def total(self) -> float:
        """Sum of the token log-probabilities in nats."""
        return sum(token.logprob for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, known once it is open.

    Attributes:
        model: Name or path of the model.
        revision: Identifies the weights (commit, hash or file digest); part of the run manifest.
        scores: Whether ``score`` works.
        max_tokens: Context length in tokens.
        images: Whether messages may hold images.
        features: Whether the model takes image features that were computed elsewhere.
    """

    model: str
    revision: str
    scores: bool
    max_tokens: int
    images: bool = False
    features: bool = False


@dataclass(frozen=True, slots=True)
class EngineWork:
    """What one engine has done since the backend was opened, for all its clients together.

    Attributes:
        prompt_tokens: Tokens of all prompts.
        cached_tokens: Those of them that came from the prefix cache.
        written_tokens: Tokens of all replies.
        queried_tokens: Prompt tokens that were looked up in the prefix cache.
    """

    prompt_tokens: int
    cached_tokens: int
    written_tokens: int
    queried_tokens: int

    def __add__(self, other: EngineWork) -> EngineWork:
        return EngineWork(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.written_tokens + other.written_tokens,
            self.queried_tokens + other.queried_tokens,
        )

    def __sub__(self, other: EngineWork) -> EngineWork:
        return EngineWork(
            self.prompt_tokens - other.prompt_tokens,
            self.cached_tokens - other.cached_tokens,
            self.written_tokens - other.written_tokens,
            self.queried_tokens - other.queried_tokens,
        )

    @property
    def computed_tokens(self) -> int:
        """Tokens that went through the model: read and not cached, or written."""
        return self.prompt_tokens - self.cached_tokens + self.written_tokens

    @property
    def hit_rate(self) -> float | None:
        """Share of the tokens looked up in the prefix cache that were there; None where none was looked up."""
        return self.cached_tokens / self.queried_tokens if self.queried_tokens else None


@runtime_checkable
class Measured(Protocol):
    """A backend whose engines count what they do."""

    async def engine_work(self) -> dict[str, EngineWork]:
        """What each engine has done since the backend was opened, by its address; those that tell it."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A served model. Safe to call from many tasks of one event loop."""

    async def open(self) -> Capabilities:
        """Load or reach the model.

        Raises:
            BackendUnreachableError: if that is impossible; the message names the cure.
        """
        ...

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """Answer a chat, constrained to a JSON schema where one is given.

        Raises:
            ModelOutputError: the reply was cut by ``max_tokens`` or is not valid JSON for the schema.
            InfraError: the backend failed.
            DataError: the request does not fit the model's context.
        """
        ...

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """Log-probability of each token of each text behind the same context, in the order of ``texts``.

        ``context`` must not be empty and should end at a word boundary; a text then starts with the blank.

        Raises:
            InfraError: the backend failed.
            DataError: context and a text do not fit the model's context.
        """
        ...

    async def close(self) -> None:
        """Free the model; calls in flight are cancelled. Idempotent."""
        ...
