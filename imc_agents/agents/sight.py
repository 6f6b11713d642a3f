"""The image branch: encode an image, name its noise, calibrate its features, each as a node of the graph.

State carries paths and findings; tensors stay in the store of the context, under the path of their image.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from imc_agents.models.protocol import ImageFeatures
from imc_agents.vision.bank import Bank, check_encoder
from imc_agents.vision.calibration import Treatment, correct, perceive
from imc_agents.vision.encoders.protocol import Encoded, Encoder
from imc_agents.vision.perception import Finding
from imc_agents.vision.reading import inside, read_image

__all__ = ["Seen", "SightContext", "calibrate_features", "encode_image", "identify_noise", "open_sight"]


@dataclass(slots=True)
class Seen:
    """What is held of one image while its question is worked on.

    Attributes:
        encoded: What the encoder made of it.
        grid: Frames, rows and columns of its patches, for families that need them.
        content: Digest of the pixels.
        features: Calibrated; what goes to the language model.
    """

    encoded: Encoded
    grid: tuple[int, int, int] | None
    content: str
    features: ImageFeatures | None = None


@dataclass(frozen=True, slots=True)
class SightContext:
    """What the image branch works with. Lives in the graph's runtime, never in its state.

    Attributes:
        encoder: The model's own vision encoder.
        bank: Prototypes made with it.
        folder: Where images lie; paths must not lead out of it.
        operator: As in ``calibrate``.
        strength: As in ``calibrate``.
        store: By path, what is held of the images that are being worked on.
        turn: The encoder runs one image at a time.
    """

    encoder: Encoder
    bank: Bank
    folder: Path
    operator: str = "auto"
    strength: float = 1.0
    store: dict[str, Seen] = field(default_factory=dict[str, Seen])
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


def open_sight(encoder: Encoder, bank: Bank, folder: Path, **options: Any) -> SightContext:
    """Put an encoder and a bank together.

    Args:
        encoder: The encoder.
        bank: The bank.
        folder: Where images lie.
        options: ``operator`` and ``strength``.

    Raises:
        ConfigError: the bank was made with another encoder.
    """
    check_encoder(bank, encoder.info, "the bank")
    return SightContext(encoder, bank, folder, **options)


async def encode_image(context: SightContext, image: str) -> None:
    """Read and encode an image of the folder; the outcome goes to the store.

    Raises:
        DataError: the path leads out of the folder, or the image cannot be read.
    """
    path = inside(context.folder, image)
    async with context.turn:
        context.store[image] = await asyncio.to_thread(_encode, context, path)


def _encode(context: SightContext, path: Path) -> Seen:
    image = read_image(path)
    inputs: Any = context.encoder.preprocess([image])
    encoded = context.encoder.encode(inputs, context.bank.layers)
    sizes: Any = (
        cast("Mapping[str, Any]", inputs).get("image_grid_thw") if isinstance(inputs, Mapping) else None
    )
    grid = None if sizes is None else (int(sizes[0, 0]), int(sizes[0, 1]), int(sizes[0, 2]))
    return Seen(encoded, grid, hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest())


async def identify_noise(context: SightContext, image: str) -> Finding:
    """Name the noise of an encoded image.

    Raises:
        DataError: its features are not finite.
    """
    return perceive(context.bank, context.store[image].encoded)[0]


async def calibrate_features(context: SightContext, image: str, finding: Finding) -> Treatment:
    """Calibrate the features of an image whose noise is named; they go to the store as the model takes them."""
    seen = context.store[image]
    done = correct(
        context.bank, seen.encoded.tokens, [finding], operator=context.operator, strength=context.strength
    )
    facts = (
        context.encoder.info.identity,
        seen.content,
        done.treatments[0].operator,
        str(context.strength),
        str(context.bank.facts),
    )
    digest = hashlib.sha256("\0".join(facts).encode()).hexdigest()
    rows: Any = done.tokens.rows.float().cpu().numpy()
    seen.features = ImageFeatures(rows, seen.grid, digest)
    return done.treatments[0]
