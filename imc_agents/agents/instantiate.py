"""Instantiate: the supervisor picks the specialists that the perceived noise calls for, or writes a new one."""

from __future__ import annotations

from imc_agents.agents.context import AgentContext
from imc_agents.agents.contracts import GENERATED_PROMPT
from imc_agents.agents.findings import Assignment, Perception
from imc_agents.agents.outputs import NewSpecialist
from imc_agents.trace.events import Instantiated

__all__ = ["instantiate"]


async def instantiate(
    context: AgentContext, text: str, round_: int, perception: Perception
) -> list[Assignment]:
    """Return the specialists of this round, in the order of the catalogue."""
    name, supervisor = context.role_of("supervisor")
    kinds = dict(perception.noise)
    chosen: list[Assignment] = []
    handled: set[str] = set()
    for role_name, role in context.config.roles.items():
        wanted = [kind for kind in role.handles if kind in kinds]
        if role.kind != "specialist" or not role.enabled or not wanted:
            continue
        handled.update(wanted)
        chosen.append(Assignment(role_name))
        context.emit(
            Instantiated(
                agent=name,
                round=round_,
                role=role_name,
                source="catalogue",
                reason=_reason(text, wanted, perception),
            )
        )
    settings = context.config.sms.supervisor
    missing = [kind for kind in kinds if kind not in handled]
    if settings.mode == "generate" and missing and settings.max_generated:
        catalogue = [
            {"name": role_name, "description": role.description}
            for role_name, role in context.config.roles.items()
            if role.kind == "specialist" and role.enabled
        ]
        for kind in missing[: settings.max_generated]:
            written = await context.ask(
                name,
                round_,
                supervisor.prompt or name,
                NewSpecialist,
                {"question": text, "noise": [kind], "catalogue": catalogue},
            )
            chosen.append(Assignment(f"{GENERATED_PROMPT}:{written.name}", kind, written.instructions))
            context.emit(
                Instantiated(
                    agent=name,
                    round=round_,
                    role=f"{GENERATED_PROMPT}:{written.name}",
                    source="generated",
                    reason=f"{kind} perceived, which no role of the catalogue handles",
                    instructions=written.instructions,
                )
            )
    return chosen


def _reason(text: str, kinds: list[str], perception: Perception) -> str:
    parts: list[str] = []
    for kind in kinds:
        words = [text[s.start : s.end].strip() for s in perception.suspicions if kind in s.kinds]
        quoted = ", ".join(repr(word if len(word) <= 40 else word[:39] + "\u2026") for word in words[:3])
        more = f" and {len(words) - 3} more" if len(words) > 3 else ""
        parts.append(f"{kind} may explain {quoted}{more}" if words else f"the model perceives {kind}")
    return "; ".join(parts)
