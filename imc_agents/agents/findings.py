"""What the agents hand to each other: plain frozen records, the values of the graph's state."""

from __future__ import annotations

from dataclasses import dataclass

from imc_agents.text.edits import Edit
from imc_agents.text.suspicion import Suspicion

__all__ = ["Assignment", "Perception", "Proposal", "Ruling"]


@dataclass(frozen=True, slots=True)
class Perception:
    """What perceive found.

    Attributes:
        clean: Nothing suspicious: leave the text alone.
        suspicions: Suspicious spans in the order of the text.
        noise: Noise kinds and how much of the evidence speaks for each, summing to 1; from a judgement of the model
            also kinds without a span.
        severity: 0 (clean) to 5.
        flag: Why the text is left alone though it is not clean, or None.
    """

    clean: bool
    suspicions: tuple[Suspicion, ...] = ()
    noise: tuple[tuple[str, float], ...] = ()
    severity: int = 0
    flag: str | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """A specialist to instantiate: its role; for one that the supervisor wrote also its noise and instructions."""

    role: str
    kind: str | None = None
    instructions: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """The edits of one specialist in one round, over the working text of that round."""

    role: str
    round: int
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the adjudicator decided.

    Attributes:
        accepted: Edits over the working text that won, none overlapping another.
        flags: Marks for a person.
        certainty: Product over the decided spans of the probability that the decision is right.
    """

    accepted: tuple[Edit, ...] = ()
    flags: tuple[str, ...] = ()
    certainty: float = 1.0
