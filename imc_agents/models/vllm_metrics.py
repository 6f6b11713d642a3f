"""What a vLLM server tells about itself at ``/metrics`` (Prometheus text format)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from imc_agents.models.protocol import EngineWork

__all__ = ["EngineState", "WorkCounter", "read_metrics"]

_LINE = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|prompt_tokens_total|"
    r"prompt_tokens_cached_total|generation_tokens_total|prefix_cache_queries_total)(?:\{[^}]*\})? (\S+)$",
    re.MULTILINE,
)
_NOTHING = EngineWork(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class EngineState:
    """One look at a server.

    Attributes:
        running: Requests that the engine works on.
        waiting: Requests that it has no room for yet.
        kv_cache: Share of the KV cache in use, 0 to 1.
        work: What it has done since it was started.
    """

    running: float
    waiting: float
    kv_cache: float
    work: EngineWork


def read_metrics(text: str) -> EngineState | None:
    """Return the state in the text of ``/metrics``, all engines of the server together; None where it is no vLLM's."""
    sums: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    if "num_requests_waiting" not in sums:
        return None

    def count(name: str) -> int:
        return round(sums.get(name, 0.0))

    work = EngineWork(
        count("prompt_tokens_total"),
        count("prompt_tokens_cached_total"),
        count("generation_tokens_total"),
        count("prefix_cache_queries_total"),
    )
    running, waiting = sums.get("num_requests_running", 0.0), sums["num_requests_waiting"]
    return EngineState(running, waiting, sums.get("kv_cache_usage_perc", 0.0), work)


class WorkCounter:
    """Sums up what servers do from looks at their counters, which begin at 0 again where a server is restarted."""

    def __init__(self) -> None:
        self._last: dict[str, EngineWork] = {}
        self.done: dict[str, EngineWork] = {}
        """What each server did since it was first looked at."""

    def see(self, server: str, now: EngineWork) -> None:
        """Note the counters of a server; the first look is where counting begins."""
        last = self._last.get(server, now)
        if now.prompt_tokens < last.prompt_tokens:
            last = _NOTHING
        self._last[server] = now
        self.done[server] = self.done.get(server, _NOTHING) + (now - last)
