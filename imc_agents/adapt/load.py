"""Loads saved adapters, after a look whether they are whole and belong to the encoder."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (peft ships partial types)

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imc_agents.adapt.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Targets, find_targets
from imc_agents.errors import UsageError
from imc_agents.openmp import wait_passively

__all__ = ["load_adapter"]


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
    _check_shapes(folder, held, _expected(model, find_targets(model), config.r))
    try:
        adapted: Any = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:
        raise _unreadable(folder, error) from error
    if {name.replace(".default.", ".") for name in adapted.state_dict() if ".lora_" in name} != set(held):
        raise UsageError(
            f"{folder}: {ADAPTER_CONFIG} names other layers than {ADAPTER_WEIGHTS} has; fit it again"
        )
    return adapted.eval().requires_grad_(False)


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
    if held and not set(held) & set(wanted):
        raise UsageError(
            f"{folder}: adapts {_layers(held)}, but this encoder has {_layers(wanted)}; name the encoder that it was"
            " fitted to"
        )
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


def _layers(names: Iterable[str]) -> str:
    layers = dict.fromkeys(name.removeprefix("base_model.model.").partition(".lora_")[0] for name in names)
    return f"{len(layers)} layers such as {next(iter(layers))}"


def _unreadable(folder: Path, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200]
    return UsageError(f"{folder}: the adapter cannot be read ({reason}); fit it again")
