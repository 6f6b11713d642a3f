"""Read only some tensors of a checkpoint: the vision tower and projector of a model whose other weights stay unread."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from imc_agents.errors import BackendUnreachableError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Source", "check_tensors", "open_source", "read_tensors", "tensor_digest"]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DESCRIPTIONS = ("config.json", "preprocessor_config.json", "processor_config.json", _INDEX)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WHOLE_BYTES = 100 * 2**20
_SAMPLES = 16
_SAMPLE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint whose descriptions (config, processor, index of shards) are on disk.

    Attributes:
        name: What the user typed.
        folder: Where its files lie.
        hub: The hub id from which further files come; None for a local folder.
    """

    name: str
    folder: Path
    hub: str | None

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``.

        Raises:
            ConfigError: it is no JSON object.
        """
        return _json_object(self.folder / "config.json")


def open_source(checkpoint: str) -> Source:
    """Find a checkpoint; of a hub id only the descriptions are downloaded.

    Args:
        checkpoint: A folder with ``config.json``, or a hub id (owner/name).

    Raises:
        ConfigError: it is neither.
        BackendUnreachableError: the hub does not give it.
    """
    path = Path(checkpoint).expanduser()
    if (path / "config.json").is_file():
        return Source(checkpoint, path, None)
    if path.exists() or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1:
        raise ConfigError(
            f"checkpoint {checkpoint!r} is neither a folder with config.json nor a hub id (owner/name)"
        )
    folder = _download(checkpoint, _DESCRIPTIONS)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"the hub's {checkpoint!r} holds no config.json")
    return Source(checkpoint, folder, checkpoint)


def read_tensors(source: Source, parts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Read the tensors of some parts of a model, from those safetensors files alone that hold any of them.

    Published checkpoints write ``model.`` before the part or not, and ``vision_model.`` behind it or not; both are
    dropped from the names.

    Args:
        source: From ``open_source``.
        parts: Names of submodules, such as ``vision_tower``.

    Returns:
        For each part its tensors by their name within it, on the CPU, as they are stored.

    Raises:
        ConfigError: no safetensors file, an unreadable or missing one, or one tensor under two names.
        BackendUnreachableError: the hub does not give a file.
    """
    pattern = re.compile(rf"(?:model\.)?({'|'.join(map(re.escape, parts))})\.(?:vision_model\.)?(.+)")
    found: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for file, names in _files(source, pattern).items():
        for name, tensor in _read(file, names, pattern):
            part, short = _groups(pattern, name)
            if short in found[part]:
                raise ConfigError(f"{source.name}: the tensor {name!r} is there twice, under two names")
            found[part][short] = tensor
    return found


def check_tensors(
    source: Source, part: str, shapes: Mapping[str, Sequence[int]], found: Mapping[str, Tensor]
) -> None:
    """Compare what was read with what the model needs.

    Args:
        source: For the message.
        part: For the message.
        shapes: Shape of each tensor that is needed.
        found: What was read.

    Raises:
        ConfigError: a tensor is missing, surplus, of another shape, or quantised; it is named.
    """
    missing = [name for name in shapes if name not in found]
    surplus = [name for name in found if name not in shapes]
    for names, problem in ((missing, "is missing"), (surplus, "has no place in the model of config.json")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ConfigError(f"{source.name}: the tensor '{part}.{names[0]}' {problem}{more}")
    for name, tensor in found.items():
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise ConfigError(
                f"{source.name}: the tensor '{part}.{name}' has the shape {tuple(tensor.shape)}, "
                f"config.json asks for {tuple(shapes[name])}"
            )
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ConfigError(
                f"{source.name}: the tensor '{part}.{name}' is quantised ({tensor.dtype}); "
                "take the checkpoint whose vision tower is in bfloat16, float16 or float32"
            )


def tensor_digest(tensors: Mapping[str, Tensor], salt: str = "") -> str:
    """Digest of names, shapes, dtypes and bytes; beyond 100 MB evenly spread blocks of each tensor stand for it.

    Args:
        tensors: On the CPU.
        salt: What else the digest must depend on.

    Returns:
        16 hexadecimal digits.
    """
    import torch

    whole = sum(tensor.nbytes for tensor in tensors.values()) <= _WHOLE_BYTES
    digest = hashlib.sha256(salt.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        content: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        size = int(content.size)
        if whole or size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(content)
            continue
        for place in range(0, size, size // _SAMPLES):
            digest.update(content[place : place + _SAMPLE_BYTES])
    return digest.hexdigest()[:16]


def _groups(pattern: re.Pattern[str], name: str) -> tuple[str, str]:
    match = pattern.fullmatch(name)
    assert match is not None
    return match[1], match[2]


def _files(source: Source, pattern: re.Pattern[str]) -> dict[Path, list[str] | None]:
    """The files that hold wanted tensors, and which; None where the file itself must say."""
    index = source.folder / _INDEX
    shards: dict[str, list[str] | None] = {}
    if index.is_file():
        listed = _json_object(index).get("weight_map")
        if not isinstance(listed, dict):
            raise ConfigError(f"{index} has no weight_map")
        by_shard: dict[str, list[str]] = {}
        for name, shard in cast("dict[str, str]", listed).items():
            if pattern.fullmatch(name):
                by_shard.setdefault(shard, []).append(name)
        shards.update(by_shard)
    elif source.hub is not None or (source.folder / _SINGLE).is_file():
        shards[_SINGLE] = None
    else:
        shards.update(dict.fromkeys(path.name for path in sorted(source.folder.glob("*.safetensors"))))
    if source.hub is not None and shards:
        # The folder of a snapshot is named by its commit, and the shards must be of that one.
        _download(source.hub, tuple(shards), source.folder.name)
    if not index.is_file() and not any((source.folder / shard).is_file() for shard in shards):
        pickled = next((path for kind in _PICKLES for path in sorted(source.folder.glob(kind))), None)
        what = f" (there is {pickled.name}; pickles are not loaded)" if pickled else ""
        raise ConfigError(
            f"{source.name} holds no safetensors file{what}; save the model with save_pretrained first"
        )
    return {source.folder / shard: names for shard, names in shards.items()}


def _read(file: Path, names: list[str] | None, pattern: re.Pattern[str]) -> list[tuple[str, Tensor]]:
    import safetensors

    opened: Any = safetensors.safe_open
    try:
        with opened(str(file), framework="pt", device="cpu") as handle:
            present: list[str] = list(handle.keys())
            chosen = [name for name in present if pattern.fullmatch(name)] if names is None else names
            absent = sorted(set(chosen) - set(present))
            if absent:
                raise ConfigError(f"{file} lacks the tensor {absent[0]!r}, which {_INDEX} says it holds")
            return [(name, handle.get_tensor(name)) for name in chosen]
    except FileNotFoundError as error:
        raise ConfigError(f"{file} is missing; the checkpoint is incomplete") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{file} is no readable safetensors file: {error}") from error


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no JSON object")
    return cast("dict[str, Any]", content)


def _download(hub: str, names: Sequence[str], revision: str | None = None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    library: Any = huggingface_hub
    try:
        return Path(library.snapshot_download(hub, revision=revision, allow_patterns=list(names)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackendUnreachableError(f"cannot get {hub!r} from the hub: {reason}") from error
