"""The vision encoders of CLIP models, through open_clip (``open_clip:NAME[:PRETRAINED or PATH]``).

BiomedCLIP, PubMedCLIP, OpenAI CLIP, SigLIP and whatever else open_clip builds with a vision transformer, its own or
that of timm. What is calibrated are the tokens behind the last block; norm, pooling and projection come after them.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (open_clip and timm ship no types)

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imc_agents.errors import ConfigError
from imc_agents.vision.encoders.open_clip_models import Created, create
from imc_agents.vision.encoders.protocol import PATCHES, Encoded, EncoderInfo, Packed, check_layers, on_cpu

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OpenClipEncoder", "has_patch_tokens", "load", "wrap"]


@dataclass(frozen=True, slots=True, eq=False)
class OpenClipEncoder:
    """A vision transformer of open_clip; implements ``Encoder``. Made by ``load``.

    Attributes:
        info: What it is.
        model: The CLIP model, in evaluation mode.
        transform: Its own preprocessing.
        tokenizer: Of its text encoder.
        device: Where it is.
    """

    info: EncoderInfo
    model: Any
    transform: Any
    tokenizer: Any
    device: str

    def preprocess(self, images: Sequence[Any]) -> Tensor:
        """Turn Pillow images (RGB) into (images, 3, height, width) float32."""
        import torch

        return torch.stack([self.transform(image) for image in images])

    def encode(self, inputs: Tensor, layers: Sequence[int] = ()) -> Encoded:
        """Run the transformer up to its last block.

        Args:
            inputs: From ``preprocess``; moved to the encoder's device and dtype here.
            layers: Blocks whose patch tokens are wanted as well: ``PATCHES``, or 0 to ``info.depth``.

        Raises:
            ConfigError: a layer that the encoder does not have.
        """
        import torch

        check_layers(self.info, layers)
        with torch.inference_mode(), _states(self.model.visual, {*layers, self.info.depth}) as states:
            pixels = inputs.to(self.device, getattr(torch, self.info.dtype))
            self.model.visual(pixels)
        tokens = states[self.info.depth]
        found = {
            layer: _packed(states[layer] if layer == PATCHES else states[layer][:, self.info.prefix_tokens :])
            for layer in layers
        }
        side = int((tokens.shape[1] - self.info.prefix_tokens) ** 0.5)
        return on_cpu(_packed(tokens), found, ((side, side),) * len(tokens))

    def pool(self, tokens: Packed) -> Tensor:
        """The model's own embedding of (calibrated) tokens: norm, pooling, projection.

        Args:
            tokens: As many for each image as ``encode`` gives.

        Returns:
            (images, embedding) float32, not normalised.
        """
        import torch

        visual = self.model.visual
        images = len(tokens.counts)
        x = tokens.rows.reshape(images, tokens.counts[0], -1).to(self.device)
        with torch.inference_mode():
            if hasattr(visual, "trunk"):
                return visual.head(visual.trunk.forward_head(visual.trunk.norm(x))).float().cpu()
            pooled = visual._pool(x)[0]
            return (pooled if visual.proj is None else pooled @ visual.proj).float().cpu()

    def text_embeddings(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts for zero-shot use, (texts, embedding) float32 of length 1."""
        import torch

        with torch.inference_mode():
            encoded = self.model.encode_text(self.tokenizer(list(texts)).to(self.device), normalize=True)
        return encoded.float().cpu()


def load(spec: str, *, device: str = "cpu", dtype: str = "auto") -> OpenClipEncoder:
    """Load the vision transformer of a CLIP model.

    Args:
        spec: See ``create``.
        device: Where it runs.
        dtype: Of weights and features; ``auto`` is float32.

    Raises:
        ConfigError: as ``create``, or there is no vision transformer.
        BackendUnreachableError: as ``create``.
    """
    return wrap(create(spec), device=device, dtype=dtype)


def has_patch_tokens(visual: Any) -> bool:
    """Whether an image encoder is a vision transformer, of which tokens can be calibrated."""
    if hasattr(visual, "trunk"):
        parts = ("blocks", "patch_embed", "norm", "num_prefix_tokens")
        return all(hasattr(visual.trunk, part) for part in parts)
    return hasattr(visual, "transformer") and hasattr(visual, "conv1")


def wrap(created: Created, *, device: str = "cpu", dtype: str = "auto") -> OpenClipEncoder:
    """Make an encoder of a CLIP model that is there already, which is moved to the device.

    Args:
        created: The model.
        device: As in ``load``.
        dtype: As in ``load``.

    Raises:
        ConfigError: it has no vision transformer.
    """
    import torch

    visual = created.model.visual
    blocks, patches = _parts(visual, created.spec)
    kind: Any = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    model = created.model.to(device=device, dtype=kind)
    width = int(patches.out_channels if hasattr(patches, "out_channels") else patches.proj.out_channels)
    prefix = int(visual.trunk.num_prefix_tokens) if hasattr(visual, "trunk") else 1
    facts = json.dumps(visual.preprocess_cfg, sort_keys=True, default=str)
    info = EncoderInfo(
        spec=f"open_clip:{created.spec}",
        family="open_clip",
        revision=created.revision,
        preprocessing=hashlib.sha256(facts.encode()).hexdigest()[:16],
        width=width,
        layer_width=width,
        depth=len(blocks),
        image_size=created.image_size,
        prefix_tokens=prefix,
        dtype=str(kind).removeprefix("torch."),
    )
    return OpenClipEncoder(info, model, created.transform, created.tokenizer, device)


def _parts(visual: Any, spec: str) -> tuple[Any, Any]:
    """The list of blocks and the patch embedding of a vision transformer."""
    if not has_patch_tokens(visual):
        raise ConfigError(
            f"open_clip:{spec} has a vision encoder {type(visual).__name__} without patch tokens; take a model with a "
            "vision transformer (ViT)"
        )
    if hasattr(visual, "trunk"):
        return visual.trunk.blocks, visual.trunk.patch_embed
    return visual.transformer.resblocks, visual.conv1


def _packed(tokens: Tensor) -> Packed:
    images, count, width = tokens.shape
    return Packed(tokens.reshape(images * count, width), (count,) * images)


def _in_a_row(state: Any, patches: Any) -> Any:
    """The output of a patch embedding as (images, tokens, width)."""
    if state.ndim != 4:
        return state
    # timm puts the width last where images may be of any size.
    return state.flatten(1, 2) if getattr(patches, "output_fmt", "") == "NHWC" else state.flatten(2).mT


@contextmanager
def _states(visual: Any, layers: set[int]) -> Generator[dict[int, Tensor]]:
    """Collect (images, tokens, width) behind the given blocks of this thread's run; 0: what the first is given."""
    states: dict[int, Any] = {}
    handles: list[Any] = []
    blocks, patches = _parts(visual, "")
    last_first = not getattr(getattr(visual, "transformer", None), "batch_first", True)

    thread = threading.get_ident()

    def keep(layer: int, state: Any) -> None:
        if threading.get_ident() != thread:
            return  # of another thread that uses the model at the same time
        if layer == PATCHES:
            states[layer] = _in_a_row(state, patches)
        else:
            states[layer] = state.transpose(0, 1) if last_first else state

    def before(_: Any, arguments: tuple[Any, ...]) -> None:
        keep(0, arguments[0])

    def behind(layer: int) -> Any:
        def kept(_: Any, __: Any, output: Any) -> None:
            keep(layer, output)

        return kept

    for layer in sorted(layers):
        if layer == PATCHES:
            handles.append(patches.register_forward_hook(behind(layer)))
        elif layer == 0:
            handles.append(blocks[0].register_forward_pre_hook(before))
        else:
            handles.append(blocks[layer - 1].register_forward_hook(behind(layer)))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
