"""Propose: a specialist's span edits, from a lexicon channel or written by the model."""

from __future__ import annotations

from imc_agents.agents.context import AgentContext
from imc_agents.agents.contracts import GENERATED_PROMPT
from imc_agents.agents.findings import Assignment, Perception, Proposal
from imc_agents.agents.outputs import SpanEdits
from imc_agents.config.schema import RoleConfig
from imc_agents.text.channels import CHANNELS
from imc_agents.text.edits import Edit
from imc_agents.trace.events import EditRecord, Proposed

__all__ = ["edit_record", "propose", "role_config"]


def role_config(context: AgentContext, role: str) -> RoleConfig:
    """The config of a role; a specialist that the supervisor wrote takes its sampling and backend from it."""
    if role in context.config.roles:
        return context.config.roles[role]
    _, supervisor = context.role_of("supervisor")
    return RoleConfig(
        kind="specialist", prompt=GENERATED_PROMPT, backend=supervisor.backend, sampling=supervisor.sampling
    )


def edit_record(text: str, edit: Edit) -> EditRecord:
    """The edit as it stands in events."""
    return EditRecord(
        start=edit.start,
        end=edit.end,
        before=edit.before(text),
        after=edit.after,
        kind=edit.kind or "unnamed",
    )


async def propose(
    context: AgentContext, text: str, round_: int, perception: Perception, assignment: Assignment
) -> Proposal:
    """Return the edits that one specialist proposes for the working text."""
    role = role_config(context, assignment.role)
    if role.source == "lexicon":
        edits = _from_channel(context, text, perception, assignment.role, role)
    else:
        edits = await _from_model(context, text, round_, assignment, role)
    context.emit(
        Proposed(
            agent=assignment.role,
            round=round_,
            text=text,
            edits=tuple(edit_record(text, edit) for edit in edits),
        )
    )
    return Proposal(assignment.role, round_, tuple(edits))


def _from_channel(
    context: AgentContext, text: str, perception: Perception, name: str, role: RoleConfig
) -> list[Edit]:
    channel = CHANNELS[role.channel or ""]
    return [
        Edit(edit.start, edit.end, edit.after, edit.kind, name, edit.slips)
        for suspicion in perception.suspicions
        if set(suspicion.kinds).intersection(role.handles)
        for edit in channel(text, suspicion.start, suspicion.end, context.lexicon)[: role.max_candidates]
    ]


async def _from_model(
    context: AgentContext, text: str, round_: int, assignment: Assignment, role: RoleConfig
) -> list[Edit]:
    variables = {
        "question": text,
        "description": role.description,
        "instructions": assignment.instructions or role.description,
    }
    reply = await context.ask(
        assignment.role, round_, role.prompt or GENERATED_PROMPT, SpanEdits, variables, role=role
    )
    kind = assignment.kind or role.handles[0]
    edits: list[Edit] = []
    for proposed in reply.edits[: role.max_candidates]:
        at = text.find(proposed.find)
        # Only a span that stands in the text exactly once says where to edit.
        if at >= 0 and text.find(proposed.find, at + 1) < 0 and proposed.replace != proposed.find:
            edits.append(Edit(at, at + len(proposed.find), proposed.replace, kind, assignment.role))
    return edits
