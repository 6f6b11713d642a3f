"""Critique: is anything still noisy, and is another round worth it?"""

from __future__ import annotations

from imc_agents.agents.context import AgentContext
from imc_agents.agents.outputs import CritiqueVerdict
from imc_agents.trace.events import Critiqued

__all__ = ["critique"]


async def critique(context: AgentContext, original: str, text: str, round_: int, *, changed: bool) -> bool:
    """Return whether another round should run.

    Args:
        context: What the agents share.
        original: The question as it came.
        text: The text after this round.
        round_: The round that just ended.
        changed: Whether this round changed the text; if not, another one would find the same.
    """
    name, role = context.role_of("critic")
    settings = context.config.sms.critique
    if settings.mode == "none":
        again, reason = False, "no critique in this configuration"
    elif not changed:
        again, reason = False, "this round changed nothing, so another one would not either"
    elif round_ >= settings.max_rounds:
        again, reason = False, f"round {round_} was the last one allowed"
    elif settings.mode == "model":
        verdict = await context.ask(
            name, round_, role.prompt or name, CritiqueVerdict, {"original": original, "question": text}
        )
        again, reason = verdict.noisy, verdict.reason
    else:
        again, reason = True, "the text changed: perceive it again with the repairs in place"
    context.emit(Critiqued(agent=name, round=round_, again=again, reason=reason))
    return again
