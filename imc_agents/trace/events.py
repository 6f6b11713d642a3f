"""Decisions of the agents as events: the agents emit them, the run store keeps them, the views draw them.

Events are plain frozen records; ``dump`` and ``load`` turn them into JSON and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = [
    "Answered",
    "Assessed",
    "Calibrated",
    "Called",
    "Critiqued",
    "EditRecord",
    "Event",
    "Flagged",
    "Instantiated",
    "Merged",
    "Perceived",
    "Proposed",
    "Recorder",
    "SuspiciousSpan",
    "Vetoed",
    "dump",
    "load",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EditRecord(_Record):
    """One proposed change: characters ``start:end`` of ``text`` (the working text of that round) become ``after``."""

    start: int
    end: int
    before: str
    after: str
    kind: str


class SuspiciousSpan(_Record):
    """A word or span that perceive marked.

    Attributes:
        start: Offset of the first character.
        end: Offset behind the last character.
        text: The characters.
        surprisal: Negative log-probability of the span's tokens in nats.
        reason: Why it was marked, in words a person understands.
    """

    start: int
    end: int
    text: str
    surprisal: float
    reason: str


class Perceived(_Record):
    """Perceive's verdict on the working text."""

    type: Literal["perceived"] = "perceived"
    agent: str
    round: int
    text: str
    clean: bool
    noise: dict[str, float] = Field(default_factory=dict)
    severity: int = 0
    spans: tuple[SuspiciousSpan, ...] = ()
    mean_surprisal: float = 0.0


class Instantiated(_Record):
    """A specialist was instantiated, by whom, and why."""

    type: Literal["instantiated"] = "instantiated"
    agent: str
    round: int
    role: str
    source: Literal["catalogue", "generated"]
    reason: str
    instructions: str | None = None


class Proposed(_Record):
    """A specialist proposed edits (possibly none)."""

    type: Literal["proposed"] = "proposed"
    agent: str
    round: int
    text: str
    edits: tuple[EditRecord, ...]


class Assessed(_Record):
    """The MLLM's own assessment of one edit.

    Attributes:
        gain: Log-probability of the window with the edit minus without it, in nats.
        slip_cost: Channel cost in nats: how unlikely that slip is.
        margin: gain minus slip_cost: by how much the edit beats leaving the text as it is.
        meaning: Probability that the meaning is unchanged, where a judge was asked.
        verdict: What became of the edit.
    """

    type: Literal["assessed"] = "assessed"
    agent: str
    round: int
    role: str
    edit: EditRecord
    gain: float
    slip_cost: float
    margin: float
    meaning: float | None = None
    verdict: Literal["accepted", "rejected", "outranked", "ambiguous"]


class Vetoed(_Record):
    """The guard stopped an edit (or reverted a whole text: ``scope`` is ``text``)."""

    type: Literal["vetoed"] = "vetoed"
    agent: str
    round: int
    role: str
    edit: EditRecord | None
    scope: Literal["edit", "text"]
    invariant: str
    detail: str


class Merged(_Record):
    """The accepted edits were applied."""

    type: Literal["merged"] = "merged"
    agent: str
    round: int
    before: str
    after: str
    accepted: int


class Critiqued(_Record):
    """The critic's verdict on the merged text."""

    type: Literal["critiqued"] = "critiqued"
    agent: str
    round: int
    again: bool
    reason: str


class Flagged(_Record):
    """Something a person should look at."""

    type: Literal["flagged"] = "flagged"
    agent: str
    round: int
    flag: str
    detail: str


class Calibrated(_Record):
    """Which noise an image was found to have, and what was done to its features.

    Attributes:
        image: Path of the image within the folder of images.
        noise: Name of the noise, ``clean`` or ``unknown``.
        variant: Which of the noise's variants, where it has some.
        severity: 1 to 5; 0 where it is clean or unknown.
        probabilities: By noise.
        operator: What corrected the features; ``identity`` where they were left alone.
        gate: 1 - p(clean) where corrected, else 0.
        change: Length of the correction over that of the tokens' deviation from their mean.
    """

    type: Literal["calibrated"] = "calibrated"
    agent: str
    round: int
    image: str
    noise: str
    variant: str = ""
    severity: int
    probabilities: dict[str, float]
    operator: str
    gate: float
    change: float


class Answered(_Record):
    """The model's answer.

    Attributes:
        way: What it read: everything as it came, the refined text, the calibrated image, or both.
        question: The text that it read.
        answer: Its answer.
    """

    type: Literal["answered"] = "answered"
    agent: str
    round: int
    way: Literal["raw", "text", "image", "full"]
    question: str
    answer: str


class Called(_Record):
    """One call of the model by an agent. Prompt and reply are kept for ``imc trace show --prompts``."""

    type: Literal["called"] = "called"
    agent: str
    round: int
    operation: Literal["score", "generate"]
    backend: str
    prompt: str
    reply: str
    prompt_tokens: int
    completion_tokens: int
    milliseconds: float
    error: str | None = None


Event = Annotated[
    Perceived
    | Instantiated
    | Proposed
    | Assessed
    | Vetoed
    | Merged
    | Critiqued
    | Flagged
    | Calibrated
    | Answered
    | Called,
    Field(discriminator="type"),
]

Recorder = Callable[[Event], None]
"""Takes the events of one question, in the order they happen."""

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def dump(event: Event) -> str:
    """Return the event as one line of JSON."""
    return event.model_dump_json()


def load(line: str | bytes) -> Event:
    """Return the event that ``dump`` wrote."""
    return _ADAPTER.validate_json(line)
