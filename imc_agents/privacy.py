"""Keeps clinical text on this machine: switches off everything in our dependencies that reports elsewhere."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

__all__ = ["keep_text_local"]

_TRACING = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
_REPORTING = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


def keep_text_local(environment: MutableMapping[str, str] | None = None) -> None:
    """Turn LangSmith tracing and usage statistics off, whatever the user's shell says.

    LangChain sends prompts and replies to LangSmith as soon as one of its variables is set, which many shells do
    for other projects. Patient text must not leave by such an accident: tracing stays off unless
    ``IMC_ALLOW_LANGSMITH=1`` asks for it.
    """
    env = os.environ if environment is None else environment
    env.update(_REPORTING)
    if env.get("IMC_ALLOW_LANGSMITH") != "1":
        for name in _TRACING:
            env[name] = "false"
