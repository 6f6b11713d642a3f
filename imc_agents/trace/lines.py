"""JSON lines of samples, events and statistics, for other programs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

from imc_agents.trace.events import Called, Event
from imc_agents.trace.rounds import FATES
from imc_agents.trace.sample import Sample
from imc_agents.trace.stats import AgentStats, TraceStats

__all__ = ["event_record", "json_line", "sample_record", "stats_records"]

_UNUSUAL = re.compile(r"[^ -~]")


def json_line(record: dict[str, Any], *, ascii_only: bool = False) -> str:
    """Return a record as one line of JSON that is safe to show on a terminal.

    Everything invisible (control and bidi characters, lone surrogates) is escaped, letters of all scripts only with
    ``ascii_only``. Numbers that JSON does not know (infinite, not a number) become null.
    """
    line = json.dumps(_finite(record), ensure_ascii=ascii_only, allow_nan=False)
    return _UNUSUAL.sub(_escape, line)


def sample_record(sample: Sample) -> dict[str, Any]:
    """Return where a sample came from and its outcome."""
    outcome = sample.refinement
    return {
        "type": "sample",
        "row_index": sample.row_index,
        "id": sample.id,
        "changed": outcome.changed,
        **asdict(outcome),
    }


def event_record(sample: Sample, event: Event, *, prompts: bool) -> dict[str, Any]:
    """Return one event of a sample; a call's prompt and reply only if asked for."""
    left_out = {"prompt", "reply"} if isinstance(event, Called) and not prompts else None
    return {"row_index": sample.row_index, "id": sample.id, **event.model_dump(exclude=left_out)}


def stats_records(stats: TraceStats) -> Iterator[dict[str, Any]]:
    """Yield one record for each agent, one with the sums, and one for each invariant that was broken."""
    for agent in stats.agents.values():
        yield {"type": "agent", **_agent_record(stats, agent)}
    yield {"type": "total", "questions": stats.questions, **_agent_record(stats, stats.total())}
    for invariant in dict.fromkeys([*stats.vetoed_edits, *stats.vetoed_texts]):
        edits, texts = stats.vetoed_edits.get(invariant, 0), stats.vetoed_texts.get(invariant, 0)
        yield {"type": "invariant", "invariant": invariant, "vetoed_edits": edits, "vetoed_texts": texts}


def _agent_record(stats: TraceStats, agent: AgentStats) -> dict[str, Any]:
    return {
        "agent": agent.agent,
        "instantiated": agent.instantiated,
        "proposals": agent.proposals,
        **{fate: agent.fates.get(fate, 0) for fate in FATES},
        **asdict(agent.cost),
        "milliseconds_per_question": stats.milliseconds_per_question(agent),
    }


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast(dict[str, object], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast(list[object], value)]
    return value


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char.isprintable():
        return char
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]
