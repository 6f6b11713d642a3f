"""Events of one question, put together as they belong: rounds, specialists, and what became of each edit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from imc_agents.trace.events import (
    Answered,
    Assessed,
    Calibrated,
    Called,
    Critiqued,
    EditRecord,
    Event,
    Flagged,
    Instantiated,
    Merged,
    Perceived,
    Proposed,
    Vetoed,
)

__all__ = ["FATES", "Candidate", "Cost", "Fate", "Round", "Specialist", "group_rounds"]

Fate = Literal["accepted", "ambiguous", "vetoed", "outranked", "shared", "rejected", "unjudged"]
"""What became of an edit in the end: a veto outranks every verdict.

shared: another specialist proposed the same change, and it was judged there; unjudged: pruned before it was judged.
"""

FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an agent's calls of the model took.

    Attributes:
        calls: Model calls.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        milliseconds: Wall time, summed over calls.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    milliseconds: float = 0.0

    def plus(self, other: Cost) -> Cost:
        """Return the sum of both."""
        return Cost(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.milliseconds + other.milliseconds,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One proposed edit and what became of it.

    Attributes:
        edit: The edit.
        text: What it edits.
        assessed: Its assessment, if there is one.
        vetoed: Its veto, if there is one.
        judged_for: The other specialist for which the same change was judged.
    """

    edit: EditRecord
    text: str
    assessed: Assessed | None = None
    vetoed: Vetoed | None = None
    judged_for: str | None = None

    @property
    def fate(self) -> Fate:
        """What became of the edit."""
        if self.vetoed:
            return "vetoed"
        if self.assessed:
            return self.assessed.verdict
        return "shared" if self.judged_for else "unjudged"


@dataclass(frozen=True, slots=True)
class Specialist:
    """One specialist of a round; ``candidates`` are grouped by the place they edit, in the order of the text."""

    role: str
    instantiated: Instantiated | None
    candidates: tuple[tuple[Candidate, ...], ...]


@dataclass(slots=True)
class Round:
    """Everything that happened in one round.

    Attributes:
        number: The round, from 1.
        order: The agents in the order in which they first took part.
        calls: The calls of the model by agent.
    """

    number: int
    order: list[str] = field(default_factory=list[str])
    perceived: list[Perceived] = field(default_factory=list[Perceived])
    specialists: list[Specialist] = field(default_factory=list[Specialist])
    assessed: list[Assessed] = field(default_factory=list[Assessed])
    vetoed: list[Vetoed] = field(default_factory=list[Vetoed])
    merged: list[Merged] = field(default_factory=list[Merged])
    critiqued: list[Critiqued] = field(default_factory=list[Critiqued])
    flagged: list[Flagged] = field(default_factory=list[Flagged])
    calibrated: list[Calibrated] = field(default_factory=list[Calibrated])
    answered: list[Answered] = field(default_factory=list[Answered])
    calls: dict[str, list[Called]] = field(default_factory=dict[str, list[Called]])

    def cost(self, agent: str) -> Cost:
        """What the calls of one agent took."""
        total = Cost()
        for call in self.calls.get(agent, ()):
            total = total.plus(Cost(1, call.prompt_tokens, call.completion_tokens, call.milliseconds))
        return total


def group_rounds(events: Iterable[Event]) -> list[Round]:
    """Return the rounds in order; events may come in any order within a question."""
    by_round: dict[int, list[Event]] = {}
    for event in events:
        by_round.setdefault(event.round, []).append(event)
    return [_round(number, by_round[number]) for number in sorted(by_round)]


def _round(number: int, events: list[Event]) -> Round:
    found = Round(number, list(dict.fromkeys(event.agent for event in events)))
    instantiated: dict[str, Instantiated] = {}
    proposed: list[Proposed] = []
    for event in events:
        match event:
            case Perceived():
                found.perceived.append(event)
            case Instantiated():
                instantiated.setdefault(event.role, event)
            case Proposed():
                proposed.append(event)
            case Assessed():
                found.assessed.append(event)
            case Vetoed():
                found.vetoed.append(event)
            case Merged():
                found.merged.append(event)
            case Critiqued():
                found.critiqued.append(event)
            case Flagged():
                found.flagged.append(event)
            case Calibrated():
                found.calibrated.append(event)
            case Answered():
                found.answered.append(event)
            case Called():
                found.calls.setdefault(event.agent, []).append(event)
    candidates = _candidates(found, proposed)
    roles = dict.fromkeys([*instantiated, *(event.agent for event in proposed), *candidates])
    found.specialists = [
        Specialist(role, instantiated.get(role), _by_place(candidates.get(role, []))) for role in roles
    ]
    return found


_Change = tuple[int, int, str]


def _change(edit: EditRecord) -> _Change:
    return edit.start, edit.end, edit.after


def _candidates(found: Round, proposed: list[Proposed]) -> dict[str, list[Candidate]]:
    """Join proposals, assessments and vetoes by role and change; what was never proposed on record is kept too."""
    text = found.perceived[0].text if found.perceived else ""
    edits: dict[tuple[str, _Change], tuple[EditRecord, str]] = {}
    for event in proposed:
        for edit in event.edits:
            edits.setdefault((event.agent, _change(edit)), (edit, event.text))
    assessed: dict[tuple[str, _Change], Assessed] = {}
    for event in found.assessed:
        key = event.role, _change(event.edit)
        assessed[key] = event
        edits.setdefault(key, (event.edit, text))
    vetoed: dict[tuple[str, _Change], Vetoed] = {}
    for event in found.vetoed:
        if event.edit is not None:
            key = event.role, _change(event.edit)
            vetoed[key] = event
            edits.setdefault(key, (event.edit, text))
    judged_for = {change: role for role, change in (*assessed, *vetoed)}
    joined: dict[str, list[Candidate]] = {}
    for key, (edit, edited) in edits.items():
        role, change = key
        other = judged_for.get(change)
        candidate = Candidate(
            edit, edited, assessed.get(key), vetoed.get(key), other if other != role else None
        )
        joined.setdefault(role, []).append(candidate)
    return joined


def _by_place(candidates: list[Candidate]) -> tuple[tuple[Candidate, ...], ...]:
    """Group candidates that touch a common place; best first within a place."""
    places: list[list[Candidate]] = []
    end = -1
    for candidate in sorted(candidates, key=lambda c: (c.edit.start, c.edit.end)):
        if places and (candidate.edit.start < end or candidate.edit.start == places[-1][0].edit.start):
            places[-1].append(candidate)
        else:
            places.append([candidate])
        end = max(end, candidate.edit.end)
    return tuple(tuple(sorted(place, key=_rank)) for place in places)


_ORDER: dict[Fate, int] = {
    "accepted": 0,
    "vetoed": 1,
    "ambiguous": 2,
    "shared": 3,
    "outranked": 4,
    "rejected": 4,
    "unjudged": 5,
}


def _rank(candidate: Candidate) -> tuple[int, float]:
    margin = candidate.assessed.margin if candidate.assessed else float("-inf")
    return _ORDER[candidate.fate], -margin
