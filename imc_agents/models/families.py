"""What vLLM does with the families of multimodal models, by the ``model_type`` of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from imc_agents.errors import BackendUnreachableError

__all__ = ["checkpoint_config", "context_length", "refuse_unloadable", "takes_features"]

# Those to which precomputed image features can be sent (vLLM 0.32, --enable-mm-embeds).
_TAKE_FEATURES = frozenset(
    {
        "llava",
        "llava_next",
        "llava_onevision",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "internvl",
        "internvl_chat",
        "paligemma",
        "phi3_v",
    }
)
# Checkpoints as their authors published them, before transformers knew the family.
_OLD_LAYOUTS = {
    "llava_mistral": "LLaVA-Med as published",
    "llava_llama": "LLaVA as published",
    "llava_qwen2": "HuatuoGPT-Vision as published",
}


def checkpoint_config(location: str) -> dict[str, Any]:
    """Return the ``config.json`` of a checkpoint; empty where it cannot be had.

    Args:
        location: A directory or a hub id; of the hub the cache is asked first.
    """
    path = Path(location) / "config.json"
    if not Path(location).is_dir():
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        hub: Any = huggingface_hub
        try:
            cached = hub.try_to_load_from_cache(location, "config.json")
            path = Path(cached if isinstance(cached, str) else hub.hf_hub_download(location, "config.json"))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
            return {}
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def takes_features(config: dict[str, Any]) -> bool:
    """Whether vLLM takes image features that were computed elsewhere for this family."""
    return config.get("model_type") in _TAKE_FEATURES


def context_length(config: dict[str, Any]) -> int | None:
    """The context length that a checkpoint names, if it does."""
    text: Any = config.get("text_config")
    parts: list[dict[str, Any]] = [config, cast("dict[str, Any]", text) if isinstance(text, dict) else {}]
    lengths = [part.get("max_position_embeddings") for part in parts]
    return next((length for length in lengths if isinstance(length, int)), None)


def refuse_unloadable(location: str, config: dict[str, Any]) -> None:
    """Raise where vLLM cannot load the checkpoint's layout.

    Raises:
        BackendUnreachableError: names the layout and what to do.
    """
    kind = config.get("model_type")
    if kind in _OLD_LAYOUTS:
        raise BackendUnreachableError(
            f"{location}: vLLM cannot load this layout (model_type {kind}: {_OLD_LAYOUTS[kind]}); convert the "
            "checkpoint to the layout of transformers (LlavaForConditionalGeneration), or take a converted one"
        )
