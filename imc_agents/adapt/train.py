"""Trains adapters on a few clean images, and keeps those that do best on validation images.

The text encoder and everything of the image encoder but the adapters stay as they are, in evaluation mode. Whatever
happens to the process, the same call goes on from the last epoch, and comes to the same bytes as without interruption.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import cos, isfinite, pi
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.adapt.classifier import Head
from imc_agents.adapt.labelled import LabelledImages
from imc_agents.adapt.lora import attach, trained
from imc_agents.adapt.pixels import Pixels
from imc_agents.adapt.settings import FitSettings, check_precision
from imc_agents.adapt.state import Epoch, Progress, load_state, save_adapter, save_state
from imc_agents.errors import DataError
from imc_agents.vision.encoders.open_clip_models import Created

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["InterruptedFitError", "Step", "embed", "open_step", "train"]

_NAMED = 5


class InterruptedFitError(Exception):
    """Training was asked to stop; its state is stored."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the optimizer.

    Attributes:
        adapted: The ``peft.PeftModel``.
        head: Of the classes.
        optimizer: Of the adapters' weights.
        scaler: Scales gradients where they are of 16 bits.
        labels: (all images,) int64.
        weights: (classes,) float32 in the loss; on the model's device.
        precision: Of the forward pass.
    """

    adapted: Any
    head: Head
    optimizer: Any
    scaler: Any
    labels: Tensor
    weights: Tensor
    precision: str

    def take(self, parts: Iterator[tuple[Sequence[int], Tensor]], count: int) -> float:
        """Go one step; return its loss, which is not finite where nothing was changed.

        Args:
            parts: Batches to draw from: the images' indices and pixels (images, 3, height, width).
            count: How many of the parts belong to this step.
        """
        drawn = [next(parts) for _ in range(count)]
        rows = [self.labels[list(indices)] for indices, _ in drawn]
        device = self.weights.device
        whole = sum(self.weights[found.to(device)].sum() for found in rows)
        total = 0.0
        for (_, pixels), truth in zip(drawn, rows, strict=True):
            loss = self._loss(pixels.to(device), truth.to(device)) / whole
            total += float(loss.detach())
            self.scaler.scale(loss).backward()
        if isfinite(total):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _loss(self, pixels: Tensor, truth: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        logits = self.head.logits(embed(self.adapted, pixels, self.precision))
        return cross_entropy(logits, truth, self.weights, reduction="sum")


def open_step(
    created: Created, head: Head, shots: LabelledImages, settings: FitSettings, device: str = "cpu"
) -> Step:
    """Put fresh adapters on a model, and make what trains them.

    Raises:
        ConfigError: as ``attach``, or the precision needs a GPU.
        UsageError: as ``attach``.
    """
    import torch

    check_precision(settings.precision, device)
    adapted = attach(created.model.to(device), settings)
    optimizer = torch.optim.AdamW(
        trained(adapted).values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    return Step(
        adapted=adapted,
        head=head.to(device),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.partition(":")[0], enabled=settings.precision == "float16"),
        labels=torch.from_numpy(shots.labels),
        weights=_weights(shots, settings).to(device),
        precision=settings.precision,
    )


def embed(model: Any, pixels: Tensor, precision: str) -> Tensor:
    """Image embeddings (images, embedding), computed in a precision."""
    import torch

    with torch.autocast(pixels.device.type, getattr(torch, precision), enabled=precision != "float32"):
        return model.encode_image(pixels)


def train(
    created: Created,
    head: Head,
    shots: LabelledImages,
    validation: LabelledImages,
    settings: FitSettings,
    folder: Path,
    made_with: Mapping[str, Any],
    *,
    device: str = "cpu",
    advance: Callable[[int], None] = lambda _: None,
    tell: Callable[[int, Epoch], None] = lambda _, __: None,
    stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train, or go on with it; the folder holds the best adapter in the end.

    Args:
        created: The model; its layers are replaced in place.
        head: Of the classes, on the CPU.
        shots: Clean training images.
        validation: Clean images that choose the epoch.
        settings: How to train.
        folder: Where adapter and state are kept; it exists.
        made_with: What another call must agree in to go on.
        device: Where to train.
        advance: Told how many steps more have been done.
        tell: Told each epoch and its number from 0.
        stop: Asked after each step; training then ends as if it was interrupted.

    Raises:
        InterruptedFitError: ``stop`` said so.
        DataError: an image cannot be read, or the loss is not finite, of training or of validation images.
        ConfigError, UsageError: as ``attach`` and ``load_state``.
    """
    step = open_step(created, head, shots, settings, device)
    adapted, optimizer, scaler = step.adapted, step.optimizer, step.scaler
    pixels, judged = Pixels(shots, created), Pixels(validation, created)
    progress = load_state(folder, adapted, optimizer, scaler, made_with)

    def keep() -> None:
        save_state(folder, adapted, optimizer, scaler, progress, made_with)

    if progress.zero_shot is None:
        found = _judged(step, judged, validation, settings, stop)
        if found is None:
            raise InterruptedFitError
        if not isfinite(found[0]):
            raise DataError(
                f"{validation.name}: the encoder gives values that are not finite for validation images; check its"
                " weights, or take --precision float32"
            )
        progress = replace(progress, zero_shot=found)
        keep()  # so that a folder with an adapter always says what it is of
    plan = _steps(len(shots), settings)
    advance(len(progress.history) * len(plan) + progress.step)
    while len(progress.history) < settings.epochs:
        epoch = len(progress.history)
        order = _order(len(shots), settings.seed, epoch)
        left = [[order[row] for row in part] for parts in plan[progress.step :] for part in parts]
        ready = pixels.batches(left)
        for parts in plan[progress.step :]:
            share = (epoch + progress.step / len(plan)) / settings.epochs
            step.optimizer.param_groups[0]["lr"] = settings.learning_rate * _factor(settings, share)
            loss = step.take(ready, len(parts))
            if not isfinite(loss):
                rows = [order[row] for part in parts for row in part]
                what = f"epoch {epoch + 1}, step {progress.step + 1}: the loss is not finite on {_named(shots, rows)}"
                raise DataError(_diverged(what, folder, progress))
            progress = progress.stepped(loss)
            advance(1)
            if stop():
                keep()
                raise InterruptedFitError
        found = _judged(step, judged, validation, settings, stop)
        if found is None:
            keep()
            raise InterruptedFitError
        if not isfinite(found[0]):
            what = f"epoch {epoch + 1}: the loss is not finite on validation images"
            raise DataError(_diverged(what, folder, progress))
        done = Epoch(sum(progress.losses) / len(progress.losses), *found)
        progress = progress.ended(done)
        if progress.best == epoch:
            save_adapter(adapted, folder)
        keep()
        tell(epoch, done)
    return progress


def _weights(shots: LabelledImages, settings: FitSettings) -> Tensor:
    """Weights of the classes in the loss, (classes,) float32; 1 on average over the images."""
    import torch

    counts = torch.bincount(torch.from_numpy(shots.labels), minlength=len(shots.classes)).float()
    if settings.class_weights == "none":
        return torch.ones_like(counts)
    return len(shots) / (len(counts) * counts)


def _factor(settings: FitSettings, share: float) -> float:
    """Of the learning rate, when a share of the training is done; depends on nothing else, so it needs no state."""
    return 1.0 if settings.schedule == "constant" else (1 + cos(pi * share)) / 2


def _steps(images: int, settings: FitSettings) -> list[list[range]]:
    """The positions of each step of an epoch, in parts that go through the encoder one by one."""
    each = max(1, -(-min(settings.batch, images) // settings.accumulate))
    return [
        [
            range(part, min(part + each, first + settings.batch, images))
            for part in range(first, min(first + settings.batch, images), each)
        ]
        for first in range(0, images, settings.batch)
    ]


def _order(images: int, seed: int, epoch: int) -> list[int]:
    import numpy as np

    return np.random.default_rng([seed, epoch]).permutation(images).tolist()


def _judged(
    step: Step, pixels: Pixels, validation: LabelledImages, settings: FitSettings, stop: Callable[[], bool]
) -> tuple[float, float] | None:
    """Loss and balanced accuracy on validation images; None where it was asked to stop."""
    import torch
    from torch.nn.functional import cross_entropy

    truth = torch.from_numpy(validation.labels)
    size = max(1, settings.batch // settings.accumulate)
    rows = [list(range(first, min(first + size, len(truth)))) for first in range(0, len(truth), size)]
    logits: list[Tensor] = []
    with torch.no_grad():
        for _, batch in pixels.batches(rows):
            found = embed(step.adapted, batch.to(step.weights.device), step.precision)
            logits.append(step.head.logits(found).cpu())
            if stop():
                return None
    known = torch.cat(logits)
    right = (known.argmax(1) == truth).double()
    shares = [right[truth == number].mean() for number in truth.unique()]
    return float(cross_entropy(known, truth)), float(torch.stack(shares).mean())


def _named(shots: LabelledImages, rows: Sequence[int]) -> str:
    named = ", ".join(shots.ids[row] for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
    return f"the {len(rows)} images {named}"


def _diverged(what: str, folder: Path, progress: Progress) -> str:
    kept = (
        f"{folder} keeps the adapter of epoch {progress.best + 1}"
        if progress.best is not None
        else "no epoch was finished"
    )
    return f"{what}; {kept}; try a lower --learning-rate, or --precision float32"
