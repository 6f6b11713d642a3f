"""Low-rank adapters on the image encoder of a CLIP model, through peft: attention projections, or convolutions.

A vision transformer is adapted in the projections to query, key and value of every block, as RobustMedCLIP does (arXiv
2505.15425), a convolutional encoder in every convolution. The adapter's config lists its targets one by one, so that
``peft.PeftModel.from_pretrained(model, folder)`` needs nothing of ours.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (peft and open_clip ship partial types)

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from imc_agents.adapt.settings import FitSettings
from imc_agents.errors import ConfigError, UsageError
from imc_agents.openmp import wait_passively

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "Targets",
    "attach",
    "check_rank",
    "find_targets",
    "trained",
]

ADAPTER_CONFIG = "adapter_config.json"
"""peft's description of an adapter."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""Its weights."""

_LINEAR = re.compile(r"\.attn\.(qkv|q_proj|k_proj|v_proj)$")
_FUSED = 3  # query, key and value lie behind each other in one weight


@dataclass(frozen=True, slots=True)
class Targets:
    """What of an encoder is adapted.

    Attributes:
        kind: Query, key and value in one weight, in a weight each, or convolutions.
        modules: Names of layers.
        parameters: Names of weights that belong to no layer of their own.
        width: Smallest input width of an attention projection; rank must not exceed it. 0 for convolutions.
    """

    kind: Literal["fused attention", "attention", "convolutions"]
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    width: int = 0


def find_targets(model: Any) -> Targets:
    """Name the weights of a CLIP model's image encoder that are adapted.

    Raises:
        ConfigError: it has neither attention projections nor convolutions that are known.
    """
    from torch import nn

    packed = [name for name, _ in model.named_parameters() if _visual(name, ".attn.in_proj_weight")]
    if packed:
        widths = [model.get_parameter(name).shape[1] for name in packed]
        return Targets("fused attention", (), tuple(packed), min(widths))
    layers = {
        name: module
        for name, module in model.named_modules()
        if _visual(name, "") and isinstance(module, nn.Linear | nn.Conv2d)
    }
    widths = {
        name: layer.in_features
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear) and _LINEAR.search(name)
    }
    if widths:
        fused = any(name.endswith(".qkv") for name in widths)
        return Targets("fused attention" if fused else "attention", tuple(widths), (), min(widths.values()))
    # peft cannot fold an adapter into a grouped convolution, nor into one that does more than its weight says, such as
    # to standardise it.
    convolutions = tuple(
        name
        for name, layer in layers.items()
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and type(layer).forward is nn.Conv2d.forward
    )
    if not convolutions:
        raise ConfigError(
            f"the image encoder {type(model.visual).__name__} has neither attention projections nor convolutions that"
            " can be adapted; take a ViT or a ResNet"
        )
    return Targets("convolutions", convolutions, ())


def check_rank(model: Any, rank: int) -> None:
    """Check that adapters of this rank can be put on a CLIP model's image encoder.

    Raises:
        ConfigError: as ``find_targets``.
        UsageError: the rank is below 1, or above the width of the encoder.
    """
    width = find_targets(model).width
    if rank < 1:
        raise UsageError(f"--rank {rank}: an adapter needs a rank of 1 or more; published are 8 and 16")
    if width and rank > width:
        raise UsageError(f"--rank {rank}: the projections are {width} wide; take that at most, e.g. 16")


def attach(model: Any, settings: FitSettings) -> Any:
    """Put fresh adapters on a CLIP model; they change nothing until they are trained (B is zero).

    Where query, key and value share a weight and ``settings.qkv`` is ``separate``, their three adapters of rank r are
    one of rank 3r whose B is block diagonal, which every LoRA reader takes: gradients outside the blocks are cut off.

    Args:
        model: The model, on its device; layers are replaced in place.
        settings: Rank, alpha, ``qkv`` and seed.

    Returns:
        The ``peft.PeftModel``; only adapters need gradients.

    Raises:
        ConfigError: as ``check_rank``, or the encoder computes with the weights of a layer without calling it, so that
            an adapter would do nothing.
        UsageError: as ``check_rank``.
    """
    import torch

    wait_passively()
    from peft import LoraConfig, get_peft_model

    check_rank(model, settings.rank)
    targets = find_targets(model)
    _check_used(model, targets)
    separate = targets.kind == "fused attention" and settings.qkv == "separate"
    parts = _FUSED if separate else 1
    alpha = settings.rank if settings.alpha is None else settings.alpha
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        adapted: Any = get_peft_model(
            model,
            LoraConfig(
                r=parts * settings.rank,
                lora_alpha=parts * alpha,  # pyright: ignore[reportArgumentType]  # a factor; int is not needed
                target_modules=list(targets.modules),
                target_parameters=list(targets.parameters) or None,
                bias="none",
            ),
        )
    # peft shortens a long list to endings of names, which other encoders have as well.
    adapted.peft_config["default"].target_modules = set(targets.modules)
    if separate:
        for name, weight in trained(adapted).items():
            if "lora_B" in name:
                weight.register_hook(_Within(settings.rank))
    return adapted


def trained(adapted: Any) -> dict[str, Tensor]:
    """The weights of the adapters by name, as they are trained."""
    return {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}


class _Within:
    """Cuts the gradient of B, (3 width, 3 rank), down to its diagonal blocks."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def __call__(self, gradient: Tensor) -> Tensor:
        import torch

        width = len(gradient) // _FUSED
        blocks = [
            gradient[part * width : (part + 1) * width, part * self._rank : (part + 1) * self._rank]
            for part in range(_FUSED)
        ]
        return torch.block_diag(*blocks)


def _check_used(model: Any, targets: Targets) -> None:
    """Run one image through the encoder and see that every layer with an adapter is called."""
    import torch

    names = [*targets.modules, *(name.rpartition(".")[0] for name in targets.parameters)]
    called: set[str] = set()

    def noted(name: str) -> Any:
        def note(_: Any, __: Any) -> None:
            called.add(name)

        return note

    handles = [model.get_submodule(name).register_forward_pre_hook(noted(name)) for name in names]
    size = model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    like = next(model.visual.parameters())
    try:
        with torch.no_grad():
            model.encode_image(torch.zeros(1, 3, height, width, device=like.device, dtype=like.dtype))
    finally:
        for handle in handles:
            handle.remove()
    idle = [name for name in names if name not in called]
    if idle:
        raise ConfigError(
            f"the image encoder never calls {idle[0]} but uses its weights directly, so an adapter there would do"
            " nothing; take another encoder"
        )


def _visual(name: str, ending: str) -> bool:
    return name.startswith("visual.") and name.endswith(ending)
