"""PDC, the perturbation-aware calibration of image features, as a LangGraph graph.

The way of one image::

    encode -> identify noise -> calibrate features
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from graphs.state import PdcState
from imc_agents.agents.sight import SightContext, calibrate_features, encode_image, identify_noise

__all__ = ["build"]


async def _encode(state: PdcState, runtime: Runtime[SightContext]) -> dict[str, Any]:
    await encode_image(runtime.context, state["image"])
    return {}


async def _identify(state: PdcState, runtime: Runtime[SightContext]) -> dict[str, Any]:
    return {"finding": await identify_noise(runtime.context, state["image"])}


async def _calibrate(state: PdcState, runtime: Runtime[SightContext]) -> dict[str, Any]:
    return {"treatment": await calibrate_features(runtime.context, state["image"], state["finding"])}


def build() -> Any:
    """Return the compiled graph; ``SightContext`` is its runtime context."""
    graph = StateGraph(PdcState, context_schema=SightContext)
    graph.add_node("encode", _encode)
    graph.add_node("identify", _identify)
    graph.add_node("calibrate", _calibrate)
    graph.add_edge(START, "encode")
    graph.add_edge("encode", "identify")
    graph.add_edge("identify", "calibrate")
    graph.add_edge("calibrate", END)
    return graph.compile()
