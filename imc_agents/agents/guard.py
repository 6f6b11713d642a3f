"""Guard: the clinical invariants veto an edit, or a whole text, whatever the model says."""

from __future__ import annotations

from imc_agents.agents.context import AgentContext
from imc_agents.agents.findings import Ruling
from imc_agents.agents.propose import edit_record
from imc_agents.text.edits import Edit, apply_edits
from imc_agents.text.invariants import Violation, check_text
from imc_agents.trace.events import Flagged, Merged, Vetoed

__all__ = ["AGENT", "guard", "violations"]

AGENT = "guard"
"""The guard is no role of the model; this is its name in events."""


def guard(context: AgentContext, text: str, round_: int, ruling: Ruling) -> tuple[str, Ruling]:
    """Drop the accepted edits that break an invariant, merge the others, and return the text and what is left."""
    kept: list[Edit] = []
    flags = list(ruling.flags)
    for edit in ruling.accepted:
        broken = _broken(context, text, apply_edits(text, [edit]))
        if not broken:
            kept.append(edit)
            continue
        for violation in broken:
            context.emit(
                Vetoed(
                    agent=AGENT,
                    round=round_,
                    role=edit.role,
                    edit=edit_record(text, edit),
                    scope="edit",
                    invariant=violation.invariant,
                    detail=violation.detail,
                )
            )
        flag = f"{broken[0].invariant}:{edit.before(text).strip()[:40]}/{edit.after.strip()[:40]}"
        flags.append(flag)
        context.emit(
            Flagged(agent=AGENT, round=round_, flag=flag, detail="vetoed; a person should look at it")
        )
    merged = apply_edits(text, kept)
    context.emit(Merged(agent=AGENT, round=round_, before=text, after=merged, accepted=len(kept)))
    return merged, Ruling(tuple(kept), tuple(flags), ruling.certainty)


def violations(context: AgentContext, original: str, refined: str, round_: int) -> list[Violation]:
    """What the refined text as a whole breaks against the original, however it came about; each is recorded."""
    broken = _broken(context, original, refined)
    for violation in broken:
        context.emit(
            Vetoed(
                agent=AGENT,
                round=round_,
                role=AGENT,
                edit=None,
                scope="text",
                invariant=violation.invariant,
                detail=violation.detail,
            )
        )
    return broken


def _broken(context: AgentContext, before: str, after: str) -> list[Violation]:
    found = check_text(
        before,
        after,
        is_known=context.lexicon.is_known,
        is_medical=context.lexicon.is_medical,
        protected_terms=context.config.guard.protected_terms,
    )
    return [violation for violation in found if violation.invariant not in context.config.guard.disabled]
