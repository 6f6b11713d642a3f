"""CLIP models by name, through open_clip: built-in names, hubs, and folders in the layout that is pushed to hubs."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (open_clip ships no types)

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_agents.errors import BackendUnreachableError, ConfigError, nearest
from imc_agents.vision.encoders.partial import tensor_digest

__all__ = ["HUB_CONFIG", "HUB_WEIGHTS", "Created", "create", "revision_of"]

HUB_CONFIG = "open_clip_config.json"
"""Architecture and preprocessing in a folder of open_clip's layout."""

HUB_WEIGHTS = "open_clip_model.safetensors"
"""Weights in that folder."""

_SCHEMAS = ("hf-hub", "local-dir")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True, eq=False)
class Created:
    """A CLIP model with what belongs to it; the image encoder may be of any kind.

    Attributes:
        spec: What the user typed behind ``open_clip:``.
        name: What open_clip calls it.
        model: The model, float32, in evaluation mode and without gradients.
        transform: Turns a Pillow image into the input of its image encoder.
        tokenizer: Of its text encoder.
        image_size: Shorter side of that input in pixels.
        revision: Digest of the weights of the image encoder and its activation.
        config: Its architecture, as open_clip writes it into folders (``model_cfg``).
    """

    spec: str
    name: str
    model: Any
    transform: Any
    tokenizer: Any
    image_size: int
    revision: str
    config: Mapping[str, Any]


def create(spec: str) -> Created:
    """Load a CLIP model, image and text encoder.

    Args:
        spec: ``NAME``, ``NAME:PRETRAINED`` with a tag that open_clip knows, ``NAME:PATH`` with safetensors weights,
            ``hf-hub:REPOSITORY``, or a folder in the layout that open_clip pushes to hubs.

    Raises:
        ConfigError: an unknown name or tag, or weights that do not fit or would be unpickled.
        BackendUnreachableError: the weights are on a hub that does not give them.
    """
    name, pretrained = _split(spec)
    model, transform, tokenizer, config = _created(spec, name, pretrained)
    size = model.visual.image_size
    shortest = min(size) if isinstance(size, tuple) else size
    model = model.float().eval().requires_grad_(False)
    return Created(spec, name, model, transform, tokenizer, int(shortest), revision_of(model), config)


def revision_of(model: Any) -> str:
    """Digest of the weights of a model's image encoder, which is on the CPU, and of the activation that they need."""
    quick = any(type(module).__name__ == "QuickGELU" for module in model.visual.modules())
    salt = type(model.visual).__name__ + (" with QuickGELU" if quick else "")
    return tensor_digest(dict(model.visual.state_dict()), salt)


def _split(spec: str) -> tuple[str, str | None]:
    """Name and weights of a spec; a folder becomes open_clip's own name for it."""
    folder = Path(spec).expanduser()
    if folder.is_dir():
        for file in (HUB_CONFIG, HUB_WEIGHTS):
            if not (folder / file).is_file():
                raise ConfigError(
                    f"{folder} holds no {file}; an open_clip folder has {HUB_CONFIG} and {HUB_WEIGHTS}"
                )
        return f"local-dir:{folder}", None
    if spec.partition(":")[0] in _SCHEMAS:
        return spec, None
    name, _, pretrained = spec.partition(":")
    return name, pretrained or None


def _created(spec: str, name: str, pretrained: str | None) -> tuple[Any, Any, Any, dict[str, Any]]:
    import open_clip
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from open_clip import factory

    library: Any = open_clip
    if name.partition(":")[0] not in _SCHEMAS:
        known: list[str] = library.list_models()
        if name not in known:
            raise ConfigError(
                f"open_clip knows no model {name!r}{nearest(name, known)}; a folder in its layout is named by its path"
            )
        tags: list[str] = library.list_pretrained_tags_by_model(name)
        if pretrained is None:
            raise ConfigError(
                f"open_clip:{name} names no weights, and random ones see nothing; write open_clip:{name}:TAG with one "
                f"of {', '.join(tags) or 'no tags'}, or open_clip:{name}:FILE.safetensors"
            )
        if pretrained not in tags:
            path = Path(pretrained).expanduser()
            if path.suffix in _PICKLES:
                raise ConfigError(f"{path}: pickled weights can run code; convert them to safetensors")
            if not path.is_file():
                raise ConfigError(
                    f"open_clip:{spec}: {pretrained!r} is no file and no tag of {name}{nearest(pretrained, tags)}; its "
                    f"tags: {', '.join(tags)}"
                )
    quick = _quick_gelu(library, name, pretrained)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the activation that a name implies; that of the tag is taken
            made: Any = factory.create_model_from_pretrained(
                name, pretrained=pretrained, weights_only=True, force_quick_gelu=quick
            )
            config: dict[str, Any] = library.get_model_config(name)
            return (
                made[0],
                made[1],
                library.get_tokenizer(name),
                config | ({"quick_gelu": True} if quick else {}),
            )
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise BackendUnreachableError(
            f"open_clip:{spec}: its weights cannot be fetched ({' '.join(str(error).split())[:200]}); "
            "name a local folder"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"open_clip:{spec} cannot be loaded: {reason}") from error


def _quick_gelu(library: Any, name: str, tag: str | None) -> bool:
    """Whether the weights of a tag were trained with QuickGELU, which open_clip itself only warns about.

    ``ViT-B-16`` means GELU and its tag ``openai`` means QuickGELU: with the wrong one every feature is a little wrong.
    """
    if tag is None or name.partition(":")[0] in _SCHEMAS:
        return False
    return bool(library.get_pretrained_cfg(name, tag).get("quick_gelu", False))
