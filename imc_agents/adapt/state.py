"""The folder of an adapter: peft's two files, a record of how it was made, and while it is being made its state.

Every file is replaced as a whole, so a process that is killed leaves the last good state.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (peft and torch ship partial types)

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.adapt.files import replaced
from imc_agents.adapt.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, trained
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "RECORD",
    "Epoch",
    "Progress",
    "finished_record",
    "load_state",
    "read_record",
    "save_adapter",
    "save_state",
    "write_record",
]

RECORD = "imc_adapter.json"
"""How an adapter was made; written when it is finished."""

_STATE = "training.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_NEEDED = (("made_with", "encoder"), ("made_with", "revision"), ("zero_shot", "balanced_accuracy"))


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the shots, and how the adapter did on validation images after it.

    Attributes:
        loss: Mean over the steps, in training.
        validation_loss: Cross-entropy, in nats.
        balanced_accuracy: In [0, 1], on validation images.
    """

    loss: float
    validation_loss: float
    balanced_accuracy: float

    def better_than(self, other: Epoch) -> bool:
        """Whether this one is to be kept: more right, or as many with a lower loss."""
        ours, theirs = ((epoch.balanced_accuracy, -epoch.validation_loss) for epoch in (self, other))
        return ours > theirs


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is.

    Attributes:
        zero_shot: Loss and balanced accuracy on validation images before the first step; None before they are known.
        history: Finished epochs.
        best: Index of the epoch whose adapter is kept; None before the first.
        step: Steps done in the current epoch.
        losses: Loss of each of these steps.
    """

    zero_shot: tuple[float, float] | None = None
    history: tuple[Epoch, ...] = ()
    best: int | None = None
    step: int = 0
    losses: tuple[float, ...] = field(default=())

    def stepped(self, loss: float) -> Progress:
        """One step further."""
        return replace(self, step=self.step + 1, losses=(*self.losses, loss))

    def ended(self, epoch: Epoch) -> Progress:
        """One epoch further."""
        history = (*self.history, epoch)
        found = self.best is None or epoch.better_than(self.history[self.best])
        return Progress(self.zero_shot, history, len(history) - 1 if found else self.best)


def save_adapter(adapted: Any, folder: Path) -> None:
    """Write an adapter as peft does, both files as a whole.

    Raises:
        UsageError: the folder cannot be written.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
    }
    config = adapted.peft_config["default"].to_dict() | {"inference_mode": True}
    config["target_modules"] = sorted(config["target_modules"] or ())  # a set, whose order is that of no run
    text = json.dumps(config, indent=2, sort_keys=True, default=str) + "\n"
    replaced(folder / ADAPTER_CONFIG, text.encode())
    replaced(folder / ADAPTER_WEIGHTS, save(tensors, {"format": "pt"}))


def save_state(
    folder: Path,
    adapted: Any,
    optimizer: Any,
    scaler: Any,
    progress: Progress,
    made_with: Mapping[str, Any],
) -> None:
    """Write everything that going on needs: adapters, moments of the optimizer, progress.

    Raises:
        UsageError: the folder cannot be written.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for name, weight in trained(adapted).items():
        tensors[f"weight {name}"] = weight.detach().cpu()
        for moment in _MOMENTS:
            if weight in optimizer.state:
                tensors[f"{moment} {name}"] = optimizer.state[weight][moment].detach().cpu().clone()
    facts = {
        "progress": json.dumps(asdict(progress)),
        "scaler": json.dumps(scaler.state_dict()),
        "made_with": json.dumps(made_with),
    }
    replaced(folder / _STATE, save(tensors, {"format": "pt", **facts}))


def load_state(
    folder: Path, adapted: Any, optimizer: Any, scaler: Any, made_with: Mapping[str, Any]
) -> Progress:
    """Put weights and moments back to where training was interrupted, if it was.

    Raises:
        UsageError: it was training something else, or its state is damaged.
    """
    import torch

    if not (folder / _STATE).is_file():
        return Progress()
    with _stored(folder) as (stored, facts):
        _check_same(folder, json.loads(facts["made_with"]), made_with)
        weights = trained(adapted)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(stored.get_tensor(f"weight {name}"))
                if f"step {name}" in stored.keys():  # noqa: SIM118  # no mapping
                    optimizer.state[weight] = {
                        moment: _beside(stored.get_tensor(f"{moment} {name}"), weight, moment)
                        for moment in _MOMENTS
                    }
        scaler.load_state_dict(json.loads(facts["scaler"]))
        told: dict[str, Any] = json.loads(facts["progress"])
    return Progress(
        zero_shot=tuple(told["zero_shot"]),
        history=tuple(Epoch(**epoch) for epoch in told["history"]),
        best=told["best"],
        step=told["step"],
        losses=tuple(told["losses"]),
    )


def finished_record(folder: Path, made_with: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of an adapter that is finished already, or None.

    Raises:
        UsageError: the folder holds an adapter that was made, or is being made, with something else or in ways that are
            not known; or what it holds is damaged.
    """
    record = read_record(folder) if (folder / RECORD).is_file() else None
    there = (folder / ADAPTER_WEIGHTS).is_file()
    if record is not None:
        _check_same(folder, record["made_with"], made_with)
        if not there:
            raise UsageError(f"{folder}: {ADAPTER_WEIGHTS} is missing; delete {folder} and fit again")
    elif (folder / _STATE).is_file():
        with _stored(folder) as (_, facts):
            _check_same(folder, json.loads(facts["made_with"]), made_with)
    elif there:
        raise UsageError(
            f"{folder}: holds an adapter, but neither {RECORD} nor {_STATE} to tell how it was made; name another"
            " --output"
        )
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """How the adapter of a folder was made.

    Raises:
        UsageError: there is no record, or it is damaged.
    """
    path = folder / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for part, key in _NEEDED:
            record[part][key]
        return record
    except OSError as error:
        raise UsageError(
            f"{folder}: holds no {RECORD} ({error.strerror}); name a folder that `imc adapt fit` finished"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged ({error}); delete {folder} and fit the adapter again") from error


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of an adapter that is finished, and drop the state of training.

    Raises:
        UsageError: the folder cannot be written.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    replaced(folder / RECORD, text.encode())
    (folder / _STATE).unlink(missing_ok=True)


def _check_same(folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key in {**there, **wanted}:
        if there.get(key) != wanted.get(key):
            raise UsageError(
                f"{folder}: holds an adapter made with {key} {there.get(key)!r}, not {wanted.get(key)!r}; give the"
                " same options to go on with it, or another --output"
            )


@contextmanager
def _stored(folder: Path) -> Generator[tuple[Any, dict[str, str]]]:
    """The state of training: its tensors, and what else is stored with them."""
    from safetensors import SafetensorError, safe_open

    path = folder / _STATE
    try:
        with safe_open(path, "pt") as stored:
            yield stored, stored.metadata()
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({error}); delete {folder} and fit again") from error


def _beside(tensor: Tensor, weight: Any, moment: str) -> Tensor:
    """Moments lie where the weights do; the count of steps stays on the CPU, as AdamW keeps it."""
    return tensor if moment == "step" else tensor.to(weight.device)
