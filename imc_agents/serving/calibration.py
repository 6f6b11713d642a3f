"""A vLLM plugin: image features are calibrated inside the engine, right behind vision tower and projector.

Outside the engine only features of some families can be calibrated, those which vLLM takes from a request. Here the
features are corrected where the engine makes them, from the same patch tokens of the same tower:

- once the model is loaded, the patch embedding and the blocks that the bank looks at keep a copy of what they return
  (or of what they are given, for layer 0). A copy, since vLLM's kernels go on to work in place;
- the model's ``_process_image_input``, where pixels become the tokens of the language model, hands copies and tokens
  to ``calibrate`` and returns what that makes of them.

Features that come with a request have been calibrated by whoever sent them and pass as they are, and so do videos. Of
an image that the processor cuts into crops, each crop counts as an image. A result that is not finite is dropped: that
image keeps its own tokens, and the first time the log says so.

The engine caches features and prefixes by a digest of the image, which knows nothing of a bank. That is right as long
as the bank is fixed, as it is within one engine; a cache that outlives it (LMCache and the like) must not be shared by
engines with different banks. With tensor parallelism the states between blocks are the same on all ranks, so each
computes the same correction by itself.

Off unless ``IMC_VLLM_CALIBRATION`` names the folder of a bank. ``IMC_VLLM_CALIBRATION_OPERATOR`` (``auto``,
``identity``) and ``IMC_VLLM_CALIBRATION_STRENGTH`` say how it is applied.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from imc_agents.errors import ConfigError, DataError
from imc_agents.vision.encoders.protocol import PATCHES, Encoded, EncoderInfo, Packed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ENABLED_BY", "OPERATOR", "STRENGTH", "Taps", "calibrated", "register"]

_LOG = logging.getLogger(__name__)
ENABLED_BY = "IMC_VLLM_CALIBRATION"
OPERATOR = "IMC_VLLM_CALIBRATION_OPERATOR"
STRENGTH = "IMC_VLLM_CALIBRATION_STRENGTH"

# Families whose models in vLLM make one tensor per image, or per image all its crops of equal size.
_FAMILIES = ("gemma3", "idefics3", "llava", "mistral3", "qwen2_5_vl", "qwen3_vl", "smolvlm")
_PROCESS = "_process_image_input"
_BLOCKS = ("layers", "blocks")
_PATCHES = ("patch_embedding", "patch_embed")
# Pixtral's tower reads the weights of its patch embedding without calling it; this module is given what comes of it.
_BEHIND_PATCHES = ("ln_pre",)


@dataclass(frozen=True, slots=True)
class Taps:
    """Where a vision tower is listened to, and what was heard.

    Attributes:
        layers: As in ``Bank.layers``; the patch embedding is listened to in any case, as it tells images apart.
        states: While a call runs, copies of the states of each layer, one for each time it ran; empty otherwise.
    """

    layers: tuple[int, ...]
    states: dict[int, list[Tensor]] = field(default_factory=dict[int, "list[Tensor]"])

    def insert(self, tower: Any) -> None:
        """Make the modules of a tower keep their states.

        Args:
            tower: A vision tower of vLLM.

        Raises:
            ConfigError: it has no patch embedding or no list of blocks, or fewer blocks than the layers need.
        """
        modules: dict[str, Any] = dict(tower.named_modules())
        patches = _named(modules, _PATCHES)
        behind_patches = _named(modules, _BEHIND_PATCHES)
        blocks = _named(modules, _BLOCKS)
        if (patches is None and behind_patches is None) or blocks is None:
            raise ConfigError(
                f"{ENABLED_BY}: the vision tower {type(tower).__name__} has no blocks that are known"
            )
        count = len(blocks)
        missing = [layer for layer in self.layers if not PATCHES <= layer <= count]
        if missing:
            raise ConfigError(
                f"{ENABLED_BY}: the bank looks at layer {missing[0]} of the vision tower, and vLLM runs no more than "
                f"{count} blocks of this model; make the bank with layers up to {count}"
            )
        if patches is not None:
            self._keep(patches, PATCHES)
        else:
            self._keep(behind_patches, PATCHES, before=True)
        for layer in self.layers:
            if layer == 0:
                self._keep(blocks[0], 0, before=True)
            elif layer != PATCHES:
                self._keep(blocks[layer - 1], layer)

    def listen(self) -> None:
        """Begin to keep states."""
        self.states.update({layer: [] for layer in {PATCHES, *self.layers}})

    def _keep(self, module: Any, layer: int, *, before: bool = False) -> None:
        # A forward hook would not do: vLLM's wrapper for torch.compile calls forward itself.
        forward = module.forward

        @functools.wraps(forward)
        def keeping(*arguments: Any, **named: Any) -> Any:
            kept = self.states.get(layer)
            if before and kept is not None:
                kept.append(arguments[0].clone())
            output = forward(*arguments, **named)
            if not before and kept is not None:
                kept.append((output[0] if isinstance(output, tuple) else output).clone())
            return output

        module.forward = keeping


def _named(modules: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((found for name, found in modules.items() if name.rpartition(".")[2] in names), None)


def register() -> None:
    """Have each loaded model calibrated; called by vLLM in each of its processes (``vllm.general_plugins``)."""
    if not os.environ.get(ENABLED_BY):
        return
    from vllm.model_executor.model_loader import BaseModelLoader

    loaders: list[Any] = [BaseModelLoader]
    for loader in loaders:
        loaders.extend(loader.__subclasses__())
        load = vars(loader).get("load_model")
        if load is not None and not getattr(load, "calibrates", False):
            loader.load_model = _calibrating(load)


def _calibrating(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def load_model(self: Any, vllm_config: Any, model_config: Any, *further: Any, **named: Any) -> Any:
        model = load(self, vllm_config, model_config, *further, **named)
        folder = os.environ.get(ENABLED_BY)
        # A draft model is given the features that the main one has made.
        if folder and model_config.runner_type != "draft" and not hasattr(model, "imc_taps"):
            _attach(model, vllm_config, model_config, folder)
        return model

    made: Any = load_model
    made.calibrates = True
    return made


def _attach(model: Any, vllm_config: Any, model_config: Any, folder: str) -> None:
    """Put the bank into a loaded model.

    Raises:
        ConfigError: bank, model and engine do not go together.
        UsageError: there is no such operator.
    """
    from imc_agents.vision.bank import load_bank
    from imc_agents.vision.operators import AUTO, IDENTITY, get_operator

    bank = load_bank(Path(folder))
    operator = os.environ.get(OPERATOR) or AUTO
    if operator not in (AUTO, IDENTITY):
        get_operator(operator)
    strength = _strength()
    _check_engine(vllm_config, model_config)
    _check_family(bank.encoder, model_config)
    if not hasattr(model, _PROCESS) or not hasattr(model, "get_mm_mapping"):
        raise ConfigError(
            f"{ENABLED_BY}: vLLM runs {model_config.model} as {type(model).__name__}, which keeps its image path "
            "elsewhere; leave out --model-impl"
        )
    _check_identity(bank.encoder, model_config)
    taps = Taps(tuple(bank.layers))
    tower = _tower(model)
    taps.insert(tower)
    model.imc_taps = taps
    setattr(
        model,
        _PROCESS,
        calibrated(getattr(model, _PROCESS), taps, bank, operator=operator, strength=strength),
    )
    _LOG.warning(
        "image features are calibrated with %s (operator %s, strength %g)", folder, operator, strength
    )


def _strength() -> float:
    text = os.environ.get(STRENGTH) or "1"
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise ConfigError(f"{STRENGTH} is {text!r}; it must be a number")
    return strength


def _check_engine(vllm_config: Any, model_config: Any) -> None:
    compilation = vllm_config.compilation_config
    for name in ("compile_mm_encoder", "cudagraph_mm_encoder"):
        if getattr(compilation, name, False):
            raise ConfigError(
                f"{ENABLED_BY}: vision towers that are compiled or captured cannot be calibrated; leave out {name}"
            )
    if getattr(model_config.multimodal_config, "mm_encoder_tp_mode", "weights") == "data":
        raise ConfigError(
            f"{ENABLED_BY}: with --mm-encoder-tp-mode data no rank sees all images; leave it out"
        )


def _check_family(encoder: EncoderInfo, model_config: Any) -> None:
    """Compare with the bank what the model's config says of its features."""
    config = model_config.hf_config
    family: str = config.model_type
    if family not in _FAMILIES:
        raise ConfigError(
            f"{ENABLED_BY}: models of the family {family!r} cannot be calibrated inside vLLM; known are "
            f"{', '.join(_FAMILIES)}"
        )
    vision = config.vision_config
    levels: Sequence[int] = getattr(vision, "deepstack_visual_indexes", None) or ()
    width: int = config.get_text_config().hidden_size * (1 + len(levels))
    dtype = str(model_config.dtype).removeprefix("torch.")
    facts = (
        ("family", encoder.family, family),
        ("width of the tokens", encoder.width, width),
        ("width of the patches", encoder.layer_width, vision.hidden_size),
        ("dtype", encoder.dtype, dtype),
    )
    for name, wanted, found in facts:
        if wanted != found:
            raise ConfigError(
                f"{ENABLED_BY}: the bank was made with {encoder.spec} and does not fit this model: its {name} is "
                f"{wanted}, not {found}; make one with {model_config.model} in {dtype}"
            )


def _check_identity(encoder: EncoderInfo, model_config: Any) -> None:
    """Compare weights and preprocessing as well, where the encoder can be had outside the engine."""
    from imc_agents.vision.encoders.mllm import load
    from imc_agents.vision.encoders.towers import FAMILIES

    if encoder.family not in FAMILIES:
        return
    try:
        found = load(model_config.model, dtype=cast("Any", encoder.dtype)).info
    except Exception as error:
        _LOG.warning("whether the bank was made with this model's encoder is not known: %s", error)
        return
    if found.identity != encoder.identity:
        raise ConfigError(
            f"{ENABLED_BY}: the bank was made with another encoder ({encoder.spec}, {encoder.identity}) than this "
            f"model has ({found.identity}); make one with {model_config.model}"
        )


def _tower(model: Any) -> Any:
    names: list[str] = model.get_mm_mapping().tower_model
    return model.get_submodule(names[0].rstrip("."))


def calibrated(
    process: Callable[[Any], Any], taps: Taps, bank: Any, *, operator: str, strength: float
) -> Callable[[Any], Any]:
    """Return a model's ``_process_image_input`` with calibration behind it.

    Args:
        process: The model's own; takes the parsed input of some images, returns their tokens.
        taps: Inserted into its vision tower.
        bank: From ``load_bank``.
        operator: As in ``calibrate``.
        strength: As in ``calibrate``.
    """
    warned: list[bool] = []

    def calibrating(image_input: Any) -> Any:
        if image_input["type"] == "image_embeds":
            return process(image_input)
        taps.listen()
        try:
            found = process(image_input)
            encoded = _encoded(found, image_input, taps, bank.encoder)
        finally:
            taps.states.clear()
        rows, dropped = _correct(bank, encoded, operator, strength)
        if dropped and not warned:
            warned.append(True)
            _LOG.warning(
                "calibration came to values that are not finite; %d images stay as they are", dropped
            )
        return found if rows is encoded.tokens.rows else _as_found(found, rows)

    return calibrating


def _correct(bank: Any, encoded: Encoded, operator: str, strength: float) -> tuple[Tensor, int]:
    """The calibrated rows, and of how many images the rows were left as they are since others are not finite."""
    import torch

    from imc_agents.vision.calibration import calibrate

    tokens = encoded.tokens
    try:
        made = calibrate(bank, encoded, operator=operator, strength=strength).tokens.rows
        if made is tokens.rows:
            return made, 0
        good = [bool(part.isfinite().all()) for part in made.split(list(tokens.counts))]
    except DataError:
        # The features of one image are not finite, which must not be the loss of those beside it.
        if len(tokens.counts) == 1:
            return tokens.rows, 1
        each = [_correct(bank, one, operator, strength) for one in _each(encoded)]
        return torch.cat([rows for rows, _ in each]), sum(dropped for _, dropped in each)
    if all(good):
        return made, 0
    pairs = zip(made.split(list(tokens.counts)), tokens.split(), good, strict=True)
    return torch.cat([new if fine else old for new, old, fine in pairs]), good.count(False)


def _each(encoded: Encoded) -> list[Encoded]:
    """The images of a batch one by one."""
    layers = {layer: packed.split() for layer, packed in encoded.layers.items()}
    return [
        Encoded(
            Packed(rows, (len(rows),)),
            {layer: Packed(parts[i], (len(parts[i]),)) for layer, parts in layers.items()},
            (encoded.grids[i],),
        )
        for i, rows in enumerate(encoded.tokens.split())
    ]


def _encoded(found: Any, image_input: Any, taps: Taps, encoder: EncoderInfo) -> Encoded:
    """What the call computed, image by image."""
    import torch

    grids = _patch_grids(taps.states[PATCHES], image_input)
    counts = tuple(rows * columns for rows, columns in grids)
    tokens: Sequence[Tensor] = list(found)
    lengths = [len(item) for item in tokens]
    if len(lengths) != len(grids):
        # One tensor holds all crops of an image, one behind the other.
        crops: list[int] = image_input["num_patches"].tolist()
        lengths = [length // crop for length, crop in zip(lengths, crops, strict=True) for _ in range(crop)]
    # On the CPU, where the bank is: the features are small.
    rows = torch.cat([item.reshape(-1, item.shape[-1]) for item in tokens]).cpu()
    layers = {layer: Packed(_rows(taps.states[layer], counts).cpu(), counts) for layer in taps.layers}
    placed = tuple(
        _token_grid(grid, length - encoder.prefix_tokens) for grid, length in zip(grids, lengths, strict=True)
    )
    return Encoded(Packed(rows, tuple(lengths)), layers, placed)


def _patch_grids(states: Sequence[Tensor], image_input: Any) -> list[tuple[int, int]]:
    """Rows and columns of the patches of each image, in the order in which the patch embedding met them."""
    if not states:
        raise RuntimeError(f"{ENABLED_BY}: this vision tower runs without its patch embedding")
    if states[0].ndim == 4:
        return [(state.shape[2], state.shape[3]) for state in states for _ in range(state.shape[0])]
    grids: Any = image_input.get("image_grid_thw")
    if grids is not None:
        return [(t * h, w) for t, h, w in cast("list[tuple[int, int, int]]", grids.tolist())]
    sizes = [(image.shape[-2], image.shape[-1]) for image in image_input["pixel_values"]]
    patches = sum(state.shape[:-1].numel() for state in states)
    side = math.isqrt(sum(height * width for height, width in sizes) // patches)
    return [(height // side, width // side) for height, width in sizes]


def _rows(states: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The patch tokens of a layer as rows, without class tokens."""
    import torch

    flat = [state.flatten(2).transpose(1, 2) if state.ndim == 4 else state for state in states]
    surplus = sum(state.shape[:-1].numel() for state in flat) - sum(counts)
    classes, rest = divmod(surplus, len(counts))
    if rest or classes < 0:
        raise RuntimeError(f"{ENABLED_BY}: the vision tower has states of {sum(counts) + surplus} tokens")
    if classes:
        flat = [state[:, classes:] for state in flat]
    return torch.cat([state.reshape(-1, state.shape[-1]) for state in flat])


def _token_grid(patches: tuple[int, int], tokens: int) -> tuple[int, int]:
    """The grid of tokens that were each made of a square of patches."""
    rows, columns = patches
    side = max(1, math.isqrt(rows * columns // max(1, tokens)))
    return (rows // side, columns // side)


def _as_found(found: Any, rows: Tensor) -> Any:
    """The rows in the form in which the model returned its own."""
    import torch

    if isinstance(found, torch.Tensor):
        return rows.to(found).reshape(found.shape)
    parts = rows.to(found[0]).split([len(item) for item in found])
    return list(parts) if isinstance(found, list) else parts
