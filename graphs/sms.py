"""SMS, the self-instantiated multi-agent system for text, as a LangGraph graph.

The way of one question::

    perceive -> instantiate ==Send==> specialist x k -> adjudicate -> guard -> critique -> final check
        clean: end                                                             again: perceive
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from graphs.state import SmsState, SpecialistTask
from imc_agents.agents.adjudicate import adjudicate
from imc_agents.agents.context import AgentContext
from imc_agents.agents.critique import critique
from imc_agents.agents.guard import guard, violations
from imc_agents.agents.instantiate import instantiate
from imc_agents.agents.perceive import perceive
from imc_agents.agents.propose import propose
from imc_agents.trace.events import Flagged

__all__ = ["build"]


async def _perceive(state: SmsState, runtime: Runtime[AgentContext]) -> dict[str, Any]:
    round_ = state.get("round", 0) + 1
    noisy = state.get("noisy", False)
    perception = await perceive(runtime.context, state["text"], round_, noisy=noisy)
    return {
        "round": round_,
        "perception": perception,
        "noisy": noisy or any(suspicion.misspelt for suspicion in perception.suspicions),
        "flags": [perception.flag] if perception.flag else [],
    }


async def _instantiate(state: SmsState, runtime: Runtime[AgentContext]) -> dict[str, Any]:
    chosen = await instantiate(runtime.context, state["text"], state["round"], state["perception"])
    return {"assignments": chosen}


async def _specialist(state: SpecialistTask, runtime: Runtime[AgentContext]) -> dict[str, Any]:
    proposal = await propose(
        runtime.context, state["text"], state["round"], state["perception"], state["assignment"]
    )
    return {"proposals": [proposal]}


async def _adjudicate(state: SmsState, runtime: Runtime[AgentContext]) -> dict[str, Any]:
    proposals = [proposal for proposal in state["proposals"] if proposal.round == state["round"]]
    ruling = await adjudicate(runtime.context, state["text"], state["round"], proposals, noisy=state["noisy"])
    return {"ruling": ruling}


async def _guard(state: SmsState, runtime: Runtime[AgentContext]) -> dict[str, Any]:
    text, ruling = guard(runtime.context, state["text"], state["round"], state["ruling"])
    return {
        "text": text,
        "ruling": ruling,
        "noisy": state["noisy"] or bool(ruling.accepted),
        "flags": list(ruling.flags),
        "certainty": state.get("certainty", 1.0) * ruling.certainty,
    }


async def _critique(state: SmsState, runtime: Runtime[AgentContext]) -> dict[str, Any]:
    changed = bool(state["ruling"].accepted)
    again = await critique(runtime.context, state["original"], state["text"], state["round"], changed=changed)
    return {"again": again}


async def _final_check(state: SmsState, runtime: Runtime[AgentContext]) -> dict[str, Any]:
    broken = violations(runtime.context, state["original"], state["text"], state["round"])
    if not broken:
        return {}
    flag = f"reverted:{broken[0].invariant}"
    runtime.context.emit(
        Flagged(agent="guard", round=state["round"], flag=flag, detail="the whole text was taken back")
    )
    return {"text": state["original"], "reverted": True, "flags": [flag]}


# Asynchronous like the nodes, although they wait for nothing: LangGraph runs plain functions in threads.
async def _after_perceive(state: SmsState) -> str:
    perception = state["perception"]
    if not perception.clean and perception.flag is None:
        return "instantiate"
    return "final_check" if state["round"] > 1 else END


async def _fan_out(state: SmsState) -> list[Send] | str:
    if not state["assignments"]:
        return "final_check"
    return [
        Send(
            "specialist",
            SpecialistTask(
                text=state["text"],
                round=state["round"],
                perception=state["perception"],
                assignment=assignment,
            ),
        )
        for assignment in state["assignments"]
    ]


async def _after_critique(state: SmsState) -> str:
    return "perceive" if state["again"] else "final_check"


def build() -> Any:
    """Return the compiled graph; ``AgentContext`` is its runtime context."""
    graph = StateGraph(SmsState, context_schema=AgentContext)
    graph.add_node("perceive", _perceive)
    graph.add_node("instantiate", _instantiate)
    graph.add_node("specialist", _specialist)
    graph.add_node("adjudicate", _adjudicate)
    graph.add_node("guard", _guard)
    graph.add_node("critique", _critique)
    graph.add_node("final_check", _final_check)
    graph.add_edge(START, "perceive")
    graph.add_conditional_edges("perceive", _after_perceive, ["instantiate", "final_check", END])
    graph.add_conditional_edges("instantiate", _fan_out, ["specialist", "final_check"])
    graph.add_edge("specialist", "adjudicate")
    graph.add_edge("adjudicate", "guard")
    graph.add_edge("guard", "critique")
    graph.add_conditional_edges("critique", _after_critique, ["perceive", "final_check"])
    graph.add_edge("final_check", END)
    return graph.compile()
