"""IMC, the whole way of one question and its image, as a LangGraph graph.

The two branches run at the same time; each is a graph of its own with a context of its own::

    question -+-> text (sms)  -+-> answer
              +-> image (pdc) -+

A branch that no answer needs, or that has nothing to work on, is left out.
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from graphs import pdc, sms
from graphs.state import ImcState
from imc_agents.agents.answer import ImcContext, answer, refines
from imc_agents.agents.sight import recorded

__all__ = ["build", "whole"]


def build(text: Any, image: Any) -> Any:
    """Return the compiled graph; ``ImcContext`` is its runtime context.

    Args:
        text: The compiled graph of the text branch.
        image: The compiled graph of the image branch.
    """

    async def _text(state: ImcState, runtime: Runtime[ImcContext]) -> dict[str, Any]:
        question = state["question"]
        done = await text.ainvoke({"original": question, "text": question}, context=runtime.context.text)
        return {"text": done}

    async def _image(state: ImcState, runtime: Runtime[ImcContext]) -> dict[str, Any]:
        sight = runtime.context.sight
        done = await image.ainvoke({"image": state.get("image")}, context=sight)
        if sight is not None and not state["ways"]:
            sight.store.clear()  # nobody reads the features
        return {"treatment": done["treatment"]}

    graph = StateGraph(ImcState, context_schema=ImcContext)
    graph.add_node("text", _text)
    graph.add_node("image", _image)
    graph.add_node("answer", _answer)
    graph.add_conditional_edges(START, _branches, ["text", "image", "answer"])
    graph.add_edge("text", "answer")
    graph.add_edge("image", "answer")
    graph.add_edge("answer", END)
    return graph.compile()


def whole() -> Any:
    """Return the graph with the branches of this package, as ``langgraph.json`` names it."""
    return build(sms.build(), pdc.build())


async def _branches(state: ImcState, runtime: Runtime[ImcContext]) -> list[str]:
    chosen = ["text"] if refines(state["ways"]) else []
    if runtime.context.sight is not None and state.get("image") is not None:
        chosen.append("image")
    return chosen or ["answer"]


async def _answer(state: ImcState, runtime: Runtime[ImcContext]) -> dict[str, Any]:
    context = runtime.context
    done, image = state.get("text"), state.get("image")
    # Here and not in the branch, so that the order of events does not depend on which branch is quicker.
    if image is not None and "treatment" in state:
        context.text.emit(recorded(image, state["treatment"]))
    question = state["question"]
    refined, round_ = (done["text"], done["round"]) if done else (question, 1)
    return {"answers": await answer(context, question, refined, image, state["ways"], round_)}
