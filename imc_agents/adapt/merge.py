"""Folds an adapter into its encoder, and writes the result as a folder that open_clip loads by its path."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (peft and open_clip ship partial types)

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.adapt.files import part_of
from imc_agents.adapt.load import load_adapter
from imc_agents.adapt.state import RECORD, read_record
from imc_agents.errors import UsageError
from imc_agents.vision.encoders.open_clip_models import (
    HUB_CONFIG,
    HUB_WEIGHTS,
    Created,
    create,
    revision_of,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Folded", "check_encoder", "fold", "write_folded"]

_IMAGES = 8
_TEXTS = ["a chest x-ray without pneumonia", "MRI of the brain (T2/FLAIR), 12 mm"]
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Folded:
    """An encoder with its adapter folded in.

    Attributes:
        created: The model; its ``revision`` is that of the new weights.
        difference: Largest change of an element of the normalised embeddings of a few images of noise.
    """

    created: Created
    difference: float


def check_encoder(folder: Path, spec: str, created: Created) -> None:
    """Check that an adapter was made for these weights; one without a record is only checked by its shapes.

    Raises:
        UsageError: it was made for others.
    """
    if not (folder / RECORD).is_file():
        return
    made_with = read_record(folder)["made_with"]
    if made_with["revision"] != created.revision:
        raise UsageError(
            f"{folder}: was fitted to {made_with['encoder']} with the weights {made_with['revision']}, but {spec} has"
            f" {created.revision}; name the encoder that it was fitted to"
        )


def fold(created: Created, folder: Path) -> Folded:
    """Fold an adapter into a model in place.

    Raises:
        UsageError: as ``load_adapter``; or the adapter holds values that are not finite, or cannot be folded in.
    """
    adapted = load_adapter(created.model, folder)
    before = _embeddings(adapted, created)
    try:
        model: Any = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UsageError(f"{folder}: the adapter holds values that are not finite; fit it again") from error
    model = model.eval().requires_grad_(False)
    difference = float((_embeddings(model, created) - before).abs().max())
    if not difference <= _TOLERANCE:
        raise UsageError(
            f"{folder}: cannot be folded into {created.spec}, whose layers do more than multiply by their weights"
            f" (embeddings would differ by {difference:.2g}); use the adapter through peft instead"
        )
    return Folded(replace(created, model=model, revision=revision_of(model)), difference)


def write_folded(folded: Folded, output: Path) -> float:
    """Write a folder in open_clip's layout, load it again and compare; it is there whole or not at all.

    Args:
        folded: The model.
        output: A folder that is not there yet, or is empty.

    Returns:
        Largest difference between the normalised embeddings of the model and of what was read back.

    Raises:
        UsageError: the folder cannot be written or is not empty, or what was read back is not the same model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output}: is there already; name a new folder")
    created = folded.created
    config = {"model_cfg": created.config, "preprocess_cfg": dict(created.model.visual.preprocess_cfg)}
    tensors = {name: tensor.contiguous().clone() for name, tensor in created.model.state_dict().items()}
    part = part_of(output)
    try:
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True)
        (part / HUB_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        save_file(tensors, part / HUB_WEIGHTS, metadata={"format": "pt"})
        _write_tokenizer(created, part)
        difference = _compared(created, part, output)
        part.replace(output)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{output}: cannot be written ({reason}); check the folder and the disk") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return difference


def _compared(created: Created, part: Path, output: Path) -> float:
    again = create(str(part))
    if again.tokenizer(_TEXTS).tolist() != created.tokenizer(_TEXTS).tolist():
        raise UsageError(
            f"{output}: the tokenizer of {created.spec} cannot be written, so texts would be read otherwise; use the"
            " adapter instead"
        )
    difference = float((_embeddings(again.model, again) - _embeddings(created.model, created)).abs().max())
    if difference > _TOLERANCE:
        raise UsageError(
            f"{output}: what would be written is not the same encoder (embeddings differ by {difference:.2g}), since"
            f" the architecture {created.spec} is described incompletely; use the adapter instead"
        )
    return difference


def _embeddings(model: Any, created: Created) -> Tensor:
    """Normalised embeddings of a few images of noise."""
    import torch
    from torch.nn.functional import normalize

    size = created.model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    images = torch.randn(_IMAGES, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return normalize(model.encode_image(images), dim=1)


def _write_tokenizer(created: Created, output: Path) -> None:
    """Write the tokenizer where it is one of transformers; open_clip's own comes with open_clip."""
    inner = getattr(created.tokenizer, "tokenizer", None)
    if inner is not None:
        inner.save_pretrained(str(output))
