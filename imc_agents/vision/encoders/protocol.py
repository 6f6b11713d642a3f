"""The seam between calibration and vision encoders: patch tokens at chosen layers, and the tokens that are calibrated.

The tokens of all images of a batch lie one behind the other (``packed``), since some families give each image as many
tokens as its size asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from imc_agents.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DTYPES",
    "PATCHES",
    "Encoded",
    "Encoder",
    "EncoderInfo",
    "Packed",
    "check_layers",
    "joined",
    "on_cpu",
]

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""What an encoder can be loaded in; ``auto`` is the dtype of its checkpoint."""

PATCHES = -1
"""The layer of the patch embedding, before positions are added: linear in the pixels, so it sees noise best."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of several images, one image behind the other.

    Attributes:
        rows: (sum of counts, width); the dtype of the encoder.
        counts: Rows of each image.
    """

    rows: Tensor
    counts: tuple[int, ...]

    @property
    def finite(self) -> bool:
        """Whether no value is NaN or infinite; by the sum, which is far quicker than looking at each."""
        import torch

        return bool(self.rows.sum(dtype=torch.float32).isfinite())

    def split(self) -> tuple[Tensor, ...]:
        """The rows of each image, (count, width) each."""
        return self.rows.split(list(self.counts))  # pyright: ignore[reportUnknownVariableType]


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What identifies an encoder and its features; a bank fits only the encoder whose ``identity`` it holds.

    Attributes:
        spec: What the user typed, e.g. ``mllm:/models/llava`` or ``open_clip:ViT-B-16:openai``.
        family: ``model_type`` of an MLLM checkpoint, or ``open_clip``.
        revision: Digest or commit of the weights.
        preprocessing: Digest of everything that turns an image into the encoder's input.
        width: Width of the tokens that are calibrated.
        layer_width: Width of the patch tokens inside the encoder.
        depth: Blocks of the encoder; layers are counted from 0 (before the first block) to ``depth``.
        image_size: Shorter side in pixels to which the encoder brings an image, or 224 where it takes any size.
        prefix_tokens: Tokens of each image that stand for no patch (class token), at the beginning.
        dtype: Of weights and features, e.g. ``bfloat16``; rounding hides weak noise, so banks are made for one.
    """

    spec: str
    family: str
    revision: str
    preprocessing: str
    width: int
    layer_width: int
    depth: int
    image_size: int
    prefix_tokens: int = 0
    dtype: str = "float32"

    @property
    def identity(self) -> str:
        """What a bank must have been made with: weights, preprocessing, shape and dtype of the features."""
        return f"{self.family}:{self.revision}:{self.preprocessing}:{self.width}:{self.dtype}"


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder made of a batch of images.

    Attributes:
        tokens: What calibration acts on: what the language model of an MLLM reads (behind the projector), or the
            tokens behind the last block of a CLIP encoder. Width ``EncoderInfo.width``.
        layers: Patch tokens behind the chosen blocks (``PATCHES``: the patch embedding, 0: before the first block),
            width ``EncoderInfo.layer_width``. Without class tokens; their order within an image is the encoder's.
        grids: (rows, columns) in which the patches among ``tokens`` of each image lie.

    Everything is on the CPU, wherever the encoder runs: banks are there, and so is what reads the tokens.
    """

    tokens: Packed
    layers: dict[int, Packed]
    grids: tuple[tuple[int, int], ...]


def check_layers(info: EncoderInfo, layers: Iterable[int]) -> None:
    """Check that an encoder has these layers.

    Raises:
        ConfigError: it has not.
    """
    wrong = [layer for layer in layers if not PATCHES <= layer <= info.depth]
    if wrong:
        raise ConfigError(f"{info.spec} has the layers 0 to {info.depth}; there is no layer {wrong[0]}")


def joined(parts: Sequence[Encoded]) -> Encoded:
    """What was made of several batches with the same layers, as if it were one."""
    import torch

    def packed(found: Sequence[Packed]) -> Packed:
        counts = tuple(count for part in found for count in part.counts)
        return Packed(torch.cat([part.rows for part in found]), counts)

    return Encoded(
        packed([part.tokens for part in parts]),
        {layer: packed([part.layers[layer] for part in parts]) for layer in parts[0].layers},
        tuple(grid for part in parts for grid in part.grids),
    )


def on_cpu(tokens: Packed, layers: Mapping[int, Packed], grids: tuple[tuple[int, int], ...]) -> Encoded:
    """What an encoder gives, brought to the CPU."""
    return Encoded(
        replace(tokens, rows=tokens.rows.cpu()),
        {layer: replace(found, rows=found.rows.cpu()) for layer, found in layers.items()},
        grids,
    )


@runtime_checkable
class Encoder(Protocol):
    """A vision encoder, loaded, in evaluation mode and without gradients; for any number of threads."""

    @property
    def device(self) -> str:
        """Where it runs: ``cpu``, ``cuda`` or ``cuda:N``."""
        ...

    @property
    def info(self) -> EncoderInfo:
        """What it is."""
        ...

    def preprocess(self, images: Sequence[Any]) -> Any:
        """Turn Pillow images (RGB) into the encoder's input for ``encode``."""
        ...

    def encode(self, inputs: Any, layers: Sequence[int] = ()) -> Encoded:
        """Run the encoder.

        Args:
            inputs: What ``preprocess`` returned for one batch.
            layers: Blocks whose patch tokens are wanted as well: ``PATCHES``, or 0 to ``info.depth``.
        """
        ...

    def pool(self, tokens: Packed) -> Tensor:
        """One embedding per image from its (calibrated) tokens, (images, any width), float32, not normalised."""
        ...
