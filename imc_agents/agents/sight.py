"""The image branch: encode an image, name its noise, calibrate its features, each as a node of the graph.

State carries paths and findings; tensors stay in the store of the context, under the path of their image.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from imc_agents.config.schema import PdcConfig
from imc_agents.errors import ConfigError, UsageError
from imc_agents.models.protocol import ImageFeatures
from imc_agents.trace.events import Calibrated
from imc_agents.vision.bank import Bank, check_encoder, load_bank
from imc_agents.vision.calibration import Treatment, correct, perceive
from imc_agents.vision.encoders.protocol import Encoded, Encoder, Packed
from imc_agents.vision.encoders.specs import load_encoder
from imc_agents.vision.operators import AUTO, IDENTITY, get_operator
from imc_agents.vision.perception import Finding
from imc_agents.vision.reading import inside, read_image

__all__ = [
    "Seen",
    "SightContext",
    "bank_digest",
    "calibrate_features",
    "encode_image",
    "for_one",
    "identify_noise",
    "load_sight",
    "open_sight",
    "recorded",
]


_KEPT = 16
"""Images of which everything is kept for the next questions about them; a few hundred MB for a model of 7B."""


@dataclass(slots=True)
class Seen:
    """What is held of one image while its questions are worked on.

    Attributes:
        encoded: What the encoder made of it.
        grid: Frames, rows and columns of its patches, for families that need them.
        finding: Which noise it has.
        treatment: What was done to its features.
        features: Calibrated; what goes to the language model.
    """

    encoded: Encoded
    grid: tuple[int, int, int] | None
    finding: Finding | None = None
    treatment: Treatment | None = None
    features: ImageFeatures | None = None

    @property
    def raw(self) -> ImageFeatures:
        """The same without any calibration."""
        return self.features_of(self.encoded.tokens)

    def features_of(self, tokens: Packed) -> ImageFeatures:
        """Tokens of this one image as the model takes them."""
        rows: Any = tokens.rows.float().numpy()
        return ImageFeatures(rows, self.grid, hashlib.sha256(rows.tobytes()).hexdigest())


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
        recent: The same of the last images of all questions, by what identifies the file.
        turn: The encoder runs one image at a time.
    """

    encoder: Encoder
    bank: Bank
    folder: Path
    operator: str = "auto"
    strength: float = 1.0
    store: dict[str, Seen] = field(default_factory=dict[str, Seen])
    recent: OrderedDict[tuple[str, int, int], Seen] = field(
        default_factory=OrderedDict[tuple[str, int, int], Seen]
    )
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


def load_sight(settings: PdcConfig, folder: Path, *, answers: bool) -> SightContext:
    """Load the bank that the configuration names, and its encoder.

    Args:
        settings: Section ``pdc``, with a bank.
        folder: Where images lie.
        answers: Whether a language model is to read the features.

    Raises:
        ConfigError: bank, encoder or operator cannot be used.
        BackendUnreachableError: a hub does not give the encoder, or there is no such device.
    """
    if settings.operator not in (AUTO, IDENTITY):
        try:
            get_operator(settings.operator)
        except UsageError as error:
            raise ConfigError(f"pdc.operator: {error}") from error
    bank = load_bank(Path(settings.bank))
    known = bank.encoder
    if answers and known.family == "open_clip":
        raise ConfigError(
            f"{settings.bank} was made with {known.spec}, whose features no language model reads; build one with "
            "the vision encoder of the model that answers: imc prototypes build --encoder mllm:CHECKPOINT"
        )
    encoder = load_encoder(settings.encoder or known.spec, device=settings.device, dtype=known.dtype)
    check_encoder(bank, encoder.info, settings.bank)
    return SightContext(encoder, bank, folder, settings.operator, settings.strength)


def bank_digest(folder: Path) -> str:
    """SHA-256 of a bank, which says whether a run goes on with the one that it began with."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("bank.*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def for_one(context: SightContext) -> SightContext:
    """The same for one question; only what is held of the last images outlasts it."""
    return replace(context, store={})


async def encode_image(context: SightContext, image: str) -> None:
    """Read and encode an image of the folder, unless it was one of the last; the outcome goes to the store.

    Raises:
        DataError: the path leads out of the folder, or the image cannot be read.
    """
    path = inside(context.folder, image)
    async with context.turn:
        context.store[image] = await _seen(context, path)


async def _seen(context: SightContext, path: Path) -> Seen:
    try:
        found = path.stat()
    except OSError:
        return await asyncio.to_thread(_encode, context, path)  # which says what is wrong
    key = (str(path), found.st_size, found.st_mtime_ns)
    seen = context.recent.pop(key, None) or await asyncio.to_thread(_encode, context, path)
    context.recent[key] = seen
    while len(context.recent) > _KEPT:
        context.recent.popitem(last=False)
    return seen


def _encode(context: SightContext, path: Path) -> Seen:
    image = read_image(path)
    inputs: Any = context.encoder.preprocess([image])
    encoded = context.encoder.encode(inputs, context.bank.layers)
    sizes: Any = (
        cast("Mapping[str, Any]", inputs).get("image_grid_thw") if isinstance(inputs, Mapping) else None
    )
    grid = None if sizes is None else (int(sizes[0, 0]), int(sizes[0, 1]), int(sizes[0, 2]))
    return Seen(encoded, grid)


async def identify_noise(context: SightContext, image: str) -> Finding:
    """Name the noise of an encoded image.

    Raises:
        DataError: its features are not finite.
    """
    seen = context.store[image]
    if seen.finding is None:
        seen.finding = perceive(context.bank, seen.encoded)[0]
    return seen.finding


async def calibrate_features(context: SightContext, image: str, finding: Finding) -> Treatment:
    """Calibrate the features of an image whose noise is named; they go to the store as the model takes them."""
    seen = context.store[image]
    if seen.treatment is None:
        done = correct(
            context.bank, seen.encoded.tokens, [finding], operator=context.operator, strength=context.strength
        )
        seen.features = seen.features_of(done.tokens)
        seen.treatment = done.treatments[0]
    return seen.treatment


def recorded(image: str, treatment: Treatment) -> Calibrated:
    """What was done to an image, as an event of its trace."""
    finding = treatment.finding
    return Calibrated(
        agent="pdc",
        round=1,
        image=image,
        noise=finding.noise,
        variant=finding.variant,
        severity=finding.severity if finding.noisy else 0,
        probabilities={name: round(value, 4) for name, value in finding.probabilities.items()},
        operator=treatment.operator,
        gate=round(treatment.gate, 4),
        change=round(treatment.change, 4),
    )
