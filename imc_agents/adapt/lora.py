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
from pathlib import Path
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
    "load_adapter",
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
    linear = {name: layer for name, layer in layers.items() if _LINEAR.search(name)}
    if linear:
        fused = any(name.endswith(".qkv") for name in linear)
        width = min(layer.in_features for layer in linear.values() if isinstance(layer, nn.Linear))
        return Targets("fused attention" if fused else "attention", tuple(linear), (), width)
    # peft cannot fold an adapter into a grouped convolution.
    convolutions = tuple(
        name for name, layer in layers.items() if isinstance(layer, nn.Conv2d) and layer.groups == 1
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
    if separate:
        for name, weight in trained(adapted).items():
            if "lora_B" in name:
                weight.register_hook(_Within(settings.rank))
    return adapted


def trained(adapted: Any) -> dict[str, Tensor]:
    """The weights of the adapters by name, as they are trained."""
    return {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}


def load_adapter(model: Any, folder: Path) -> Any:
    """Put an adapter that was saved on a CLIP model; layers are replaced in place.

    Returns:
        The ``peft.PeftModel``.

    Raises:
        UsageError: there is no adapter, it cannot be read, is not whole, or was made for another architecture.
    """
    wait_passively()
    from peft import PeftConfig, PeftModel, PeftType

    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            raise UsageError(
                f"{folder}: holds no {file}; an adapter is a folder that `imc adapt fit` or peft wrote"
            )
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
        held = _shapes(folder / ADAPTER_WEIGHTS)
    except Exception as error:
        raise _unreadable(folder, error) from error
    if config.peft_type != PeftType.LORA:
        raise UsageError(f"{folder}: is of the kind {config.peft_type.value}; name a LoRA adapter")
    wanted = [*(config.target_modules or ()), *(config.target_parameters or ())]
    targets = find_targets(model)
    if set(wanted) != {*targets.modules, *targets.parameters}:
        raise UsageError(
            f"{folder}: adapts {len(wanted)} weights such as {wanted[0] if wanted else 'none'}, but this encoder has"
            f" {len(targets.modules + targets.parameters)} such as {(targets.modules + targets.parameters)[0]};"
            " name the encoder that it was fitted to"
        )
    _check_shapes(folder, held, _expected(model, targets, config.r))
    try:
        adapted: Any = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:
        raise _unreadable(folder, error) from error
    return adapted.eval().requires_grad_(False)


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


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as stored:
        return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118


def _expected(model: Any, targets: Targets, rank: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an adapter that fits."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in (*targets.modules, *targets.parameters):
        path = name.rpartition(".")[0] if name in targets.parameters else name
        weight = model.get_parameter(name if name in targets.parameters else f"{name}.weight")
        first, second, *window = weight.shape
        shapes[f"base_model.model.{path}.lora_A.weight"] = (rank, second, *window)
        shapes[f"base_model.model.{path}.lora_B.weight"] = (first, rank, *(1 for _ in window))
    return shapes


def _check_shapes(folder: Path, held: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    for name in {**wanted, **held}:
        if name not in held:
            raise UsageError(f"{folder}: {name} is missing in {ADAPTER_WEIGHTS}; fit the adapter again")
        if name not in wanted:
            raise UsageError(
                f"{folder}: {name} in {ADAPTER_WEIGHTS} is no part of a plain LoRA adapter of this encoder; name"
                " another one"
            )
        if held[name] != wanted[name]:
            raise UsageError(
                f"{folder}: {name} has the shape {list(held[name])}, this encoder needs {list(wanted[name])}; name the"
                " encoder that it was fitted to"
            )


def _unreadable(folder: Path, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200]
    return UsageError(f"{folder}: the adapter cannot be read ({reason}); fit it again")
