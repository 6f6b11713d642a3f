"""Which checkpoint ``--model`` means, and whether vLLM can load it: found out before minutes are spent on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from imc_agents.errors import BackendUnreachableError, UsageError, nearest
from imc_agents.models.families import refuse_unloadable
from imc_agents.models.weights import DEFAULT_MODEL, locate

__all__ = ["check_layout", "find_checkpoint", "read_config"]

# Some checkpoints in the layout of their authors' own code carry the model type of the layout of transformers.
_ORIGINAL_CLASSES = ("LlavaLlamaForCausalLM", "LlavaMistralForCausalLM", "LlavaQwen2ForCausalLM")


def find_checkpoint(model: str) -> str:
    """Return the checkpoint folder or hub id that a model's name stands for.

    Raises:
        UsageError: it is none of them.
        BackendUnreachableError: the package of the default model is missing.
    """
    if model == DEFAULT_MODEL:
        return locate(model).location
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            if (path / "adapter_config.json").is_file():
                raise UsageError(
                    f"{path} holds a LoRA adapter, not a model; serve its base model and add "
                    f"-- --enable-lora --lora-modules NAME={path}"
                )
            raise UsageError(f"{path} has no config.json; name the folder of a transformers checkpoint")
        if not any(path.glob("*.safetensors")):
            raise UsageError(f"{path} holds no .safetensors file; only safetensors checkpoints are loaded")
        return str(path.resolve())
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise UsageError(
            f"--model {model}: neither a hub id (owner/name), nor a checkpoint folder, nor {DEFAULT_MODEL}"
            f"{nearest(model, [DEFAULT_MODEL])}"
        )
    return model


def read_config(location: str) -> dict[str, Any]:
    """Return the ``config.json`` of a checkpoint folder or a hub id; what the hub's cache holds is not fetched again.

    Raises:
        UsageError: it is damaged, or the hub has no such model.
        BackendUnreachableError: the hub cannot be reached, or wants an account.
    """
    path = Path(location) / "config.json" if Path(location).is_dir() else _from_hub(location)
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; copy the checkpoint again") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds no JSON object; copy the checkpoint again")
    return cast("dict[str, Any]", config)


def check_layout(model: str, config: dict[str, Any]) -> None:
    """Refuse a checkpoint that vLLM cannot load.

    Raises:
        UsageError: it is in a layout of its authors' own.
    """
    try:
        refuse_unloadable(model, config)
    except BackendUnreachableError as error:
        raise UsageError(str(error)) from None
    for name in config.get("architectures") or ():
        if name in _ORIGINAL_CLASSES:
            raise UsageError(
                f"{model}: vLLM cannot load the layout of its authors' own code ({name}); convert the checkpoint to "
                "the layout of transformers (LlavaForConditionalGeneration), or take a converted one"
            )


def _from_hub(model: str) -> Path:
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import logging

    hub: Any = huggingface_hub
    # It would tell of every attempt; what has failed in the end is told below.
    logging.set_verbosity_error()
    try:
        cached = hub.try_to_load_from_cache(model, "config.json")
        return Path(cached if isinstance(cached, str) else hub.hf_hub_download(model, "config.json"))
    except GatedRepoError:
        raise BackendUnreachableError(
            f"the hub gives {model} only to accounts that have accepted its terms; accept them on the model's page, "
            "then `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UsageError(
            f"the hub has no model {model!r} that you may read; check the name (owner/name), or `hf auth login` if "
            "it is private"
        ) from None
    except RemoteEntryNotFoundError:
        raise UsageError(f"{model} has no config.json on the hub; name a transformers checkpoint") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError):
        raise BackendUnreachableError(
            f"cannot fetch {model}: the hub cannot be reached and the model is not in its cache; run "
            f"`hf download {model}` where there is a network, or give a checkpoint folder"
        ) from None
