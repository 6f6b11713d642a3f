"""Fits an adapter: opens encoder, data and prompts, checks that they belong together, and trains."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from imc_agents.adapt.class_prompts import load_class_prompts
from imc_agents.adapt.classifier import Head, make_head
from imc_agents.adapt.files import held
from imc_agents.adapt.labelled import LabelledImages, digest_of, open_labelled, splits_of
from imc_agents.adapt.lora import check_rank
from imc_agents.adapt.settings import FitSettings
from imc_agents.adapt.shots import few_shots, hold_out
from imc_agents.adapt.state import Epoch, Progress, finished_record, write_record
from imc_agents.adapt.train import train
from imc_agents.errors import UsageError
from imc_agents.openmp import wait_passively
from imc_agents.vision.encoders.open_clip_models import Created, create

__all__ = ["FitPlan", "create_encoder", "finished", "fit", "plan_fit"]

_PREFIX = "open_clip:"
_HELD_OUT = 0.2
_PACKAGES = ("open_clip_torch", "peft", "torch")


@dataclass(frozen=True, slots=True, eq=False)
class FitPlan:
    """Everything that a fit needs.

    Attributes:
        created: The model.
        head: Of the classes.
        shots: What is trained on.
        validation: What chooses the epoch.
        held_out: Whether the validation images were set aside from the training images, for want of a split of theirs.
        settings: How to train.
        made_with: What makes two fits the same.
    """

    created: Created
    head: Head
    shots: LabelledImages
    validation: LabelledImages
    held_out: bool
    settings: FitSettings
    made_with: dict[str, Any]


def create_encoder(spec: str) -> Created:
    """Load a CLIP model by the spec that users type.

    Raises:
        UsageError: it is no ``open_clip:`` encoder.
        ConfigError, BackendUnreachableError: as ``create``.
    """
    wait_passively()
    if not spec.startswith(_PREFIX):
        raise UsageError(
            f"encoder {spec!r}: adaptation needs a text encoder beside it; name open_clip:NAME[:PRETRAINED or PATH]"
        )
    return create(spec.removeprefix(_PREFIX))


def plan_fit(encoder: str, data: Path, prompts: Path | None, settings: FitSettings) -> FitPlan:
    """Open everything and choose the shots; nothing is trained or written yet.

    Args:
        encoder: ``open_clip:...``.
        data: Source of labelled images with a split ``train``; ``val`` chooses the epoch, and where there is none, one
            in five training images is set aside for that. ``test`` is never looked at.
        prompts: File of class prompts; None takes those that are built in.
        settings: How to train.

    Raises:
        UsageError, ConfigError, DataError: data, prompts or encoder cannot be used; see the functions that open them.
    """
    if "train" not in splits_of(data):
        raise UsageError(
            f"{data}: has no split train to draw shots from; it has {', '.join(splits_of(data))}"
        )
    images = open_labelled(data, "train")
    held_out = "val" not in splits_of(data)
    if held_out:
        rest, held = hold_out(images, _HELD_OUT, settings.seed)
        images, validation = images.subset(rest), images.subset(held)
    else:
        validation = open_labelled(data, "val")
    shots = images.subset(few_shots(images, settings.shots, settings.seed))
    texts = load_class_prompts(images.name, images.classes, prompts)
    created = create_encoder(encoder)
    check_rank(created.model, settings.rank)
    made_with = {
        **settings.model_dump(),
        "encoder": encoder,
        "revision": created.revision,
        "data": images.name,
        "classes": list(images.classes),
        "images": digest_of(shots),
        "validation images": digest_of(validation),
        "prompts": texts.digest,
    }
    head = make_head(created, texts.texts)
    return FitPlan(created, head, shots, validation, held_out, settings, made_with)


def finished(plan: FitPlan, folder: Path) -> dict[str, Any] | None:
    """The record of the adapter in a folder where this fit is finished already, or None.

    Raises:
        UsageError: as ``finished_record``.
    """
    return finished_record(folder, plan.made_with)


def fit(
    plan: FitPlan,
    folder: Path,
    *,
    device: str = "cpu",
    advance: Callable[[int], None] = lambda _: None,
    tell: Callable[[int, Epoch], None] = lambda _, __: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train an adapter, go on with one, or find it finished; return its record.

    Args:
        plan: From ``plan_fit``; its model is changed.
        folder: For the adapter; created where it is not there.
        device: Where to train.
        advance: As in ``train``.
        tell: As in ``train``.
        stop: As in ``train``.

    Raises:
        InterruptedFitError, DataError, ConfigError, UsageError: as ``train``.
    """
    there = finished(plan, folder)
    if there is not None:
        return there
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be created ({error.strerror}); name another folder") from error
    with held(folder):
        progress = train(
            plan.created,
            plan.head,
            plan.shots,
            plan.validation,
            plan.settings,
            folder,
            plan.made_with,
            device=device,
            advance=advance,
            tell=tell,
            stop=stop,
        )
        record = _record(plan, progress)
        write_record(folder, record)
    return record


def _record(plan: FitPlan, progress: Progress) -> dict[str, Any]:
    import numpy as np

    assert progress.best is not None  # there is at least one epoch
    assert progress.zero_shot is not None  # known before the first
    counts = np.bincount(plan.shots.labels, minlength=len(plan.shots.classes))
    loss, accuracy = progress.zero_shot
    return {
        "made_with": plan.made_with,
        "shots": dict(zip(plan.shots.classes, counts.tolist(), strict=True)),
        "validation": {"images": len(plan.validation), "held_out_of_train": plan.held_out},
        "zero_shot": {"validation_loss": loss, "balanced_accuracy": accuracy},
        "best_epoch": progress.best + 1,
        "history": [asdict(epoch) for epoch in progress.history],
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }
