"""What a server does at this moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from imc_agents.models.served import Served
from imc_agents.models.vllm_metrics import EngineState, read_metrics
from imc_agents.serving.log import read_stage
from imc_agents.serving.process import is_healthy

__all__ = ["ServerState", "look"]


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server and, where it answers, its engine.

    Attributes:
        served: Its record.
        state: What can be said of it as a whole.
        stage: How far it is while it starts, else empty.
        engine: What its engine does; None where it does not answer.
    """

    served: Served
    state: Literal["starting", "healthy", "not answering"]
    stage: str
    engine: EngineState | None

    def record(self, *, show_key: bool) -> dict[str, Any]:
        """The state as plain data; the key only where it is asked for."""
        served, engine = self.served, self.engine
        found: dict[str, Any] = {
            "base_url": served.base_url,
            "model": served.model,
            "checkpoint": served.checkpoint,
            "pid": served.pid,
            "started": served.started,
            "state": self.state,
            "stage": self.stage,
            "running": engine and round(engine.running),
            "waiting": engine and round(engine.waiting),
            "kv_cache_usage": engine and engine.kv_cache,
            "prefix_cache_hit_rate": engine and engine.work.hit_rate,
            "log": served.log,
        }
        return found | ({"api_key": served.api_key} if show_key else {})


def look(served: Served) -> ServerState:
    """Ask a server how it is."""
    if not served.ready:
        return ServerState(served, "starting", read_stage(Path(served.log)), None)
    if not is_healthy(served):
        return ServerState(served, "not answering", "", None)
    url = f"{served.base_url.removesuffix('/v1')}/metrics"
    try:
        # vLLM asks for the key below /v1 only, but a later one may ask for it everywhere.
        headers = {"Authorization": f"Bearer {served.api_key}"}
        text = httpx.get(url, headers=headers, timeout=5.0, trust_env=False).text
    except httpx.HTTPError:
        return ServerState(served, "not answering", "", None)
    return ServerState(served, "healthy", "", read_metrics(text))
