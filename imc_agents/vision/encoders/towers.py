"""The families of multimodal models: what each one's image path is made of, and how it is run.

Each family repeats the image path of its class in transformers (``get_image_features``) with the vision tower and
the projector alone; the tests hold both against each other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from imc_agents.errors import ConfigError
from imc_agents.vision.encoders.protocol import Packed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FAMILIES", "Outcome", "Plan"]

# Qwen takes images of any size; this one stands for it where a single number is asked for.
_ANY_SIZE = 224


@dataclass(frozen=True, slots=True)
class Outcome:
    """Tokens of a batch and the grids in which their patches lie."""

    tokens: Packed
    grids: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the image path of one checkpoint is built and run.

    Attributes:
        part: Name of the vision tower within the model.
        tower: Class of the vision tower.
        tower_config: What it is built from.
        blocks: Attribute path of its list of blocks.
        patches: Attribute path of its patch embedding.
        ignored: Beginnings of the names of tensors that checkpoints hold and the image path never uses.
        projector_part: Name of the projector within the model; None where the tower holds it.
        projector: Builds it.
        states: Layers whose hidden states ``run`` reads.
        selection: What else of the config decides on the features; enters the revision.
        width: Width of the tokens.
        layer_width: Width inside the tower.
        depth: Blocks of the tower.
        image_size: As in ``EncoderInfo``.
        prefix_tokens: As in ``EncoderInfo``.
        run: (tower, projector, inputs, hidden states by layer) to tokens; the states are there once the tower ran.
        pack: (hidden states of one layer, inputs) to rows of images.
        classes: Class tokens inside the tower.
    """

    part: str
    tower: Any
    tower_config: Any
    blocks: str
    patches: str
    ignored: tuple[str, ...]
    projector_part: str | None
    projector: Callable[[], Any] | None
    states: tuple[int, ...]
    selection: str
    width: int
    layer_width: int
    depth: int
    image_size: int
    prefix_tokens: int
    run: Callable[[Any, Any, Mapping[str, Tensor], Mapping[int, Tensor]], Outcome]
    pack: Callable[[Tensor, Mapping[str, Tensor]], Packed]
    classes: int = 0


def _packed(tokens: Tensor) -> Packed:
    """(images, n, width) as rows of equal counts."""
    images, count, width = tokens.shape
    return Packed(tokens.reshape(images * count, width), (count,) * images)


def _pixels(inputs: Mapping[str, Tensor], size: int, name: str) -> Tensor:
    pixels = inputs["pixel_values"]
    height, width = pixels.shape[-2:]
    if (height, width) != (size, size):
        raise ConfigError(
            f"{name}: its image processor makes images of {width} by {height} pixels, its vision tower takes "
            f"{size} by {size}"
        )
    return pixels


def _image_tower(vision: Any, name: str) -> tuple[Any, Any, int]:
    """Class and config of a CLIP or SigLIP tower, and its class tokens."""
    from transformers import CLIPVisionModel, SiglipVisionModel

    config = copy.deepcopy(vision)
    if config.model_type == "clip_vision_model":
        return CLIPVisionModel, config, 1
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = False  # pools an image to one vector, which no language model reads
        return SiglipVisionModel, config, 0
    raise ConfigError(
        f"{name} has a vision tower of the type {config.model_type!r}; known are clip_vision_model, "
        "siglip_vision_model"
    )


def _llava(config: Any, name: str) -> Plan:
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    tower, vision, classes = _image_tower(config.vision_config, name)
    depth: int = vision.num_hidden_layers
    asked: Any = config.vision_feature_layer
    listed: list[int] = [asked] if isinstance(asked, int) else list(asked)
    if not listed or any(not -depth - 1 <= layer <= depth for layer in listed):
        raise ConfigError(f"{name}: vision_feature_layer is {asked!r}; the vision tower has {depth} layers")
    states = tuple(layer if layer >= 0 else depth + 1 + layer for layer in listed)
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    if dropped > classes:
        raise ConfigError(
            f"{name}: vision_feature_select_strategy 'default' drops a class token, but its SigLIP tower has none; "
            "set it to 'full'"
        )
    side = vision.image_size // vision.patch_size

    def run(tower: Any, projector: Any, inputs: Mapping[str, Tensor], found: Mapping[int, Tensor]) -> Outcome:
        import torch

        tower(_pixels(inputs, vision.image_size, name))
        features = [found[layer][:, dropped:] for layer in states]
        # Joining a single one would change its strides, and with them the last bits of the projection.
        tokens = projector(features[0] if isinstance(asked, int) else torch.cat(features, dim=-1))
        return Outcome(_packed(tokens), ((side, side),) * tokens.shape[0])

    return Plan(
        part="vision_tower",
        tower=tower,
        tower_config=vision,
        blocks="encoder.layers",
        patches="embeddings.patch_embedding",
        ignored=("head.", "embeddings.position_ids"),
        projector_part="multi_modal_projector",
        projector=lambda: LlavaMultiModalProjector(config),
        states=states,
        selection=f"{states} {dropped}",
        width=config.text_config.hidden_size,
        layer_width=vision.hidden_size,
        depth=depth,
        image_size=vision.image_size,
        prefix_tokens=classes - dropped,
        run=run,
        pack=lambda state, _: _packed(state),
        classes=classes,
    )


def _gemma3(config: Any, name: str) -> Plan:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector

    tower, vision, classes = _image_tower(config.vision_config, name)
    side = int(config.mm_tokens_per_image**0.5)

    def run(tower: Any, projector: Any, inputs: Mapping[str, Tensor], _: Mapping[int, Tensor]) -> Outcome:
        tokens = projector(tower(_pixels(inputs, vision.image_size, name)).last_hidden_state)
        return Outcome(_packed(tokens), ((side, side),) * tokens.shape[0])

    return Plan(
        part="vision_tower",
        tower=tower,
        tower_config=vision,
        blocks="encoder.layers",
        patches="embeddings.patch_embedding",
        ignored=("head.", "embeddings.position_ids"),
        projector_part="multi_modal_projector",
        projector=lambda: Gemma3MultiModalProjector(config),
        states=(),
        selection=str(side),
        width=config.text_config.hidden_size,
        layer_width=vision.hidden_size,
        depth=vision.num_hidden_layers,
        image_size=vision.image_size,
        prefix_tokens=0,
        run=run,
        pack=lambda state, _: _packed(state),
        classes=classes,
    )


def _sizes(inputs: Mapping[str, Tensor]) -> list[tuple[int, int, int]]:
    """Frames, rows and columns of the unmerged patches of each image."""
    return cast("list[tuple[int, int, int]]", inputs["image_grid_thw"].tolist())


def _qwen2_5_vl(config: Any, _: str) -> Plan:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    return _qwen(config.vision_config, Qwen2_5_VisionTransformerPretrainedModel, 0)


def _qwen3_vl(config: Any, _: str) -> Plan:
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    vision = config.vision_config
    return _qwen(vision, Qwen3VLVisionModel, len(vision.deepstack_visual_indexes))


def _qwen(vision: Any, tower: Any, levels: int) -> Plan:
    merge: int = vision.spatial_merge_size

    def run(tower: Any, _: Any, inputs: Mapping[str, Tensor], __: Mapping[int, Tensor]) -> Outcome:
        import torch

        output = tower(inputs["pixel_values"].type(tower.dtype), grid_thw=inputs["image_grid_thw"])
        tokens = output.pooler_output
        if levels:
            tokens = torch.cat([tokens, *output.deepstack_features], dim=-1)
        grids = tuple((t * h // merge, w // merge) for t, h, w in _sizes(inputs))
        return Outcome(Packed(tokens, tuple(rows * columns for rows, columns in grids)), grids)

    def pack(state: Tensor, inputs: Mapping[str, Tensor]) -> Packed:
        return Packed(state, tuple(t * h * w for t, h, w in _sizes(inputs)))

    return Plan(
        part="visual",
        tower=tower,
        tower_config=copy.deepcopy(vision),
        blocks="blocks",
        patches="patch_embed",
        ignored=("rotary_pos_emb.",),
        projector_part=None,
        projector=None,
        states=(),
        selection=str(levels),
        width=vision.out_hidden_size * (1 + levels),
        layer_width=vision.hidden_size,
        depth=vision.depth,
        image_size=_ANY_SIZE,
        prefix_tokens=0,
        run=run,
        pack=pack,
    )


FAMILIES: dict[str, Callable[[Any, str], Plan]] = {
    "gemma3": _gemma3,
    "llava": _llava,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
}
"""By ``model_type``: (config of transformers, name for messages) to the plan."""
