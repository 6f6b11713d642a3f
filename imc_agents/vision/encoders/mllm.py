"""The vision encoder of a multimodal LLM, without its language model (``mllm:CHECKPOINT``)."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imc_agents.errors import ConfigError, nearest
from imc_agents.vision.encoders.partial import (
    Source,
    check_tensors,
    open_source,
    read_tensors,
    tensor_digest,
)
from imc_agents.vision.encoders.protocol import (
    DTYPES,
    PATCHES,
    Encoded,
    EncoderInfo,
    Packed,
    check_layers,
    on_cpu,
)
from imc_agents.vision.encoders.towers import FAMILIES, Plan

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MllmEncoder", "load"]

# Names and paths in a processor's description that say nothing about the pixels.
_UNRELATED = frozenset({"_name_or_path", "name_or_path", "processor_class", "_processor_class"})


@dataclass(frozen=True, slots=True, eq=False)
class MllmEncoder:
    """A vision tower with its projector; implements ``Encoder``. Made by ``load``.

    ``encode`` is for one thread at a time; ``preprocess`` for any.

    Attributes:
        info: What it is.
        plan: How its family is run.
        tower: Vision tower, in evaluation mode.
        projector: What brings its features to the width of the language model; None where the tower does.
        processor: The checkpoint's own image processor.
        device: Where both modules are.
    """

    info: EncoderInfo
    plan: Plan
    tower: Any
    projector: Any
    processor: Any
    device: str

    def preprocess(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """Turn Pillow images into the input of the tower with the checkpoint's own image processor.

        Args:
            images: At least one, RGB, of any sizes.

        Returns:
            ``pixel_values`` (float32), and ``image_grid_thw`` (images, 3) int64 for the Qwen families; on the CPU.
        """
        made: Mapping[str, Any] = self.processor(images=list(images), return_tensors="pt")
        return {key: made[key] for key in ("pixel_values", "image_grid_thw") if key in made}

    def encode(self, inputs: Mapping[str, Tensor], layers: Sequence[int] = ()) -> Encoded:
        """Run tower and projector.

        Args:
            inputs: From ``preprocess``; moved to the encoder's device here.
            layers: Blocks whose patch tokens are wanted as well: ``PATCHES``, or 0 (before the first) to
                ``info.depth``.

        Returns:
            Tokens as the full model feeds them to its language model. For Qwen3-VL the tokens of the deepstack
            levels stand beside the main ones, as vLLM takes them.

        Raises:
            ConfigError: a layer that the encoder does not have.
        """
        import torch

        check_layers(self.info, layers)
        with torch.inference_mode():
            moved = {key: value.to(self.device, non_blocking=True) for key, value in inputs.items()}
            with _states(self.tower, self.plan, {*layers, *self.plan.states}) as states:
                outcome = self.plan.run(self.tower, self.projector, moved, states)
            found = {layer: self.plan.pack(self._patches(layer, states[layer]), moved) for layer in layers}
        return on_cpu(outcome.tokens, found, outcome.grids)

    def _patches(self, layer: int, state: Tensor) -> Tensor:
        """The hidden states of a layer without class tokens."""
        if layer == PATCHES:
            return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state
        return state[:, self.plan.classes :] if self.plan.classes else state

    def pool(self, tokens: Packed) -> Tensor:
        """Mean over the tokens of each image.

        Args:
            tokens: Of any width and dtype.

        Returns:
            (images, width), float32.
        """
        import torch

        return torch.stack([rows.float().mean(dim=0) for rows in tokens.split()])

    def grid_thw(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The sizes that vLLM wants beside the features of the Qwen families.

        Args:
            inputs: From ``preprocess``.

        Returns:
            (images, 3) int64: frames, rows and columns of unmerged patches; None for the other families.
        """
        return inputs.get("image_grid_thw")


def load(checkpoint: str, *, device: str = "cpu", dtype: str = "auto") -> MllmEncoder:
    """Load the vision encoder of a multimodal model; of its language model nothing is read.

    Args:
        checkpoint: A folder in the layout of transformers, or a hub id; safetensors only.
        device: Where it runs.
        dtype: Of weights and features; ``auto`` takes the checkpoint's own.

    Raises:
        ConfigError: no such checkpoint, a family that is not known, or a tensor that does not fit.
        BackendUnreachableError: the hub does not give it.
    """
    import torch
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    library: Any = transformers
    source = open_source(checkpoint)
    family = source.config().get("model_type")
    if family not in FAMILIES:
        raise ConfigError(
            f"{checkpoint} is of the family {family!r}{nearest(str(family), set(FAMILIES))}; vision encoders are "
            f"taken from {', '.join(FAMILIES)}"
        )
    with _usable(checkpoint, "config.json"):
        config: Any = library.AutoConfig.from_pretrained(source.folder)
        plan = FAMILIES[family](config, checkpoint)
    with _usable(checkpoint, "the description of the image processor"):
        processor: Any = library.AutoImageProcessor.from_pretrained(source.folder)
    if getattr(processor, "do_pan_and_scan", None):
        raise ConfigError(f"{checkpoint}: do_pan_and_scan makes several images of one; set it to false")
    tensors = _read(source, plan)
    kind = _dtype(config, dtype, tensors[plan.part])
    info = EncoderInfo(
        spec=f"mllm:{checkpoint}",
        family=family,
        revision=tensor_digest(
            {f"{part}.{name}": tensor for part, found in tensors.items() for name, tensor in found.items()},
            plan.selection,
        ),
        preprocessing=_processor_digest(processor),
        width=plan.width,
        layer_width=plan.layer_width,
        depth=plan.depth,
        image_size=plan.image_size,
        prefix_tokens=plan.prefix_tokens,
        dtype=str(kind).removeprefix("torch."),
    )
    # Its own loader fills in the buffers that no checkpoint holds.
    tower: Any = plan.tower.from_pretrained(
        None, config=plan.tower_config, state_dict=tensors[plan.part], dtype=kind
    )
    projector: Any = None
    if plan.projector is not None and plan.projector_part is not None:
        with torch.device("meta"):
            projector = plan.projector()
        cast_tensors = {name: tensor.to(kind) for name, tensor in tensors[plan.projector_part].items()}
        projector.load_state_dict(cast_tensors, assign=True)
        projector = projector.to(device).eval().requires_grad_(False)
    tower = tower.to(device).eval().requires_grad_(False)
    return MllmEncoder(info, plan, tower, projector, processor, device)


def _read(source: Source, plan: Plan) -> dict[str, dict[str, Tensor]]:
    """The tensors of tower and projector, checked against what the modules need."""
    import torch

    builders = {plan.part: lambda: plan.tower(plan.tower_config)}
    if plan.projector is not None and plan.projector_part is not None:
        builders[plan.projector_part] = plan.projector
    tensors = read_tensors(source, list(builders))
    for part, build in builders.items():
        with _usable(source.name, "config.json"), torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
        tensors[part] = {
            name: tensor for name, tensor in tensors[part].items() if not name.startswith(plan.ignored)
        }
        check_tensors(source, part, shapes, tensors[part])
    return tensors


@contextmanager
def _usable(checkpoint: str, what: str) -> Generator[None]:
    """Turn what transformers raises about values that make no sense into one line."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{checkpoint}: {what} cannot be used: {reason}") from error


def _dtype(config: Any, asked: str, tensors: Mapping[str, Tensor]) -> Any:
    import torch

    if asked != "auto":
        if asked not in DTYPES:
            raise ConfigError(f"dtype {asked!r} is not known; take one of {', '.join(DTYPES)}")
        return getattr(torch, asked)
    named: Any = config.dtype
    if isinstance(named, str):
        named = getattr(torch, named, None)
    return named if named is not None else next(iter(tensors.values())).dtype


def _processor_digest(processor: Any) -> str:
    facts = {key: value for key, value in processor.to_dict().items() if key not in _UNRELATED}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def _states(tower: Any, plan: Plan, layers: set[int]) -> Generator[dict[int, Tensor]]:
    """Collect the hidden states behind the given blocks of this thread's runs; 0 is what the first block is given."""
    blocks: Any = tower.get_submodule(plan.blocks)
    states: dict[int, Any] = {}
    handles: list[Any] = []
    thread = threading.get_ident()

    def before(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if threading.get_ident() == thread:
            states[0] = arguments[0] if arguments else named["hidden_states"]

    def behind(layer: int) -> Any:
        def keep(_: Any, __: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                states[layer] = output[0] if isinstance(output, tuple) else output

        return keep

    for layer in sorted(layers):
        if layer == PATCHES:
            handles.append(tower.get_submodule(plan.patches).register_forward_hook(behind(layer)))
        elif layer == 0:
            handles.append(blocks[0].register_forward_pre_hook(before, with_kwargs=True))
        else:
            handles.append(blocks[layer - 1].register_forward_hook(behind(layer)))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
