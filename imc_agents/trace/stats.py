"""What each agent did and cost over a whole run, in one pass that holds one question at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from imc_agents.trace.events import Event
from imc_agents.trace.rounds import Cost, Fate, Round, group_rounds

__all__ = ["AgentStats", "TraceStats", "collect_stats"]


@dataclass(slots=True)
class AgentStats:
    """What one agent did.

    Attributes:
        agent: Its name; for a specialist its role.
        specialist: Whether it proposes edits.
        instantiated: How often a supervisor instantiated it, once a round at most.
        fates: What became of the edits it proposed; an accepted edit that the guard stopped counts as vetoed.
        cost: What its calls took.
    """

    agent: str
    specialist: bool = False
    instantiated: int = 0
    fates: dict[Fate, int] = field(default_factory=dict[Fate, int])
    cost: Cost = field(default_factory=Cost)

    @property
    def proposals(self) -> int:
        """Edits proposed; the same edit proposed twice in a round counts once."""
        return sum(self.fates.values())

    def add_fate(self, fate: Fate, count: int = 1) -> None:
        """Count edits."""
        self.fates[fate] = self.fates.get(fate, 0) + count


@dataclass(slots=True)
class TraceStats:
    """What all agents did.

    Attributes:
        questions: Questions with a trace.
        agents: By name, in the order in which they first took part.
        vetoed_edits: Edits that the guard stopped, by the invariant that they broke.
        vetoed_texts: Whole texts that the guard reverted, by invariant.
    """

    questions: int = 0
    agents: dict[str, AgentStats] = field(default_factory=dict[str, AgentStats])
    vetoed_edits: dict[str, int] = field(default_factory=dict[str, int])
    vetoed_texts: dict[str, int] = field(default_factory=dict[str, int])

    def total(self) -> AgentStats:
        """Return the sums over all agents."""
        total = AgentStats("total")
        for agent in self.agents.values():
            total.instantiated += agent.instantiated
            total.cost = total.cost.plus(agent.cost)
            for fate, count in agent.fates.items():
                total.add_fate(fate, count)
        return total

    def milliseconds_per_question(self, agent: AgentStats) -> float:
        """Time that an agent's calls took, spread over all questions."""
        return agent.cost.milliseconds / self.questions if self.questions else 0.0


def collect_stats(events: Iterable[tuple[int, Event]]) -> TraceStats:
    """Sum up ``(row_index, event)`` pairs; those of one question must follow each other."""
    stats = TraceStats()
    for _, question in groupby(events, key=itemgetter(0)):
        stats.questions += 1
        for found in group_rounds(event for _, event in question):
            _add_round(stats, found)
    return stats


def _add_round(stats: TraceStats, found: Round) -> None:
    def agent(name: str) -> AgentStats:
        return stats.agents.setdefault(name, AgentStats(name))

    for name in found.order:
        agent(name).cost = agent(name).cost.plus(found.cost(name))
    for specialist in found.specialists:
        mine = agent(specialist.role)
        mine.specialist = True
        mine.instantiated += specialist.instantiated is not None
        for place in specialist.candidates:
            for candidate in place:
                mine.add_fate(candidate.fate)
    for event in found.vetoed:
        counted = stats.vetoed_texts if event.edit is None else stats.vetoed_edits
        counted[event.invariant] = counted.get(event.invariant, 0) + 1
