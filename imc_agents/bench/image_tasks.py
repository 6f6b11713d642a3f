"""Labelled images of two published data sets, and what reads a label from an encoder's embedding.

The readout is trained on clean images only and in closed form, so that nothing but the features is compared.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.errors import UsageError
from imc_agents.vision.build import Sample
from imc_agents.vision.reading import read_image

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Labelled", "Readout", "Task", "fit_readout", "load_tasks"]

_ORGANS = ("HEAD", "CHEST", "ABD")
_RIDGE = 0.1


@dataclass(frozen=True, slots=True)
class Labelled:
    """A clean image and its label."""

    sample: Sample
    label: int


@dataclass(frozen=True, slots=True)
class Task:
    """A classification task.

    Attributes:
        name: Of the data set.
        classes: Labels run from 0 to this.
        train: Trains the readout.
        bank: For the bank; disjoint from the test images.
        test: Never seen by the encoder, the bank or the readout.
    """

    name: str
    classes: int
    train: tuple[Labelled, ...]
    bank: tuple[Labelled, ...]
    test: tuple[Labelled, ...]


def load_tasks(root: Path | None = None) -> tuple[Task, ...]:
    """Read PneumoniaMNIST (pneumonia or not) and VQA-RAD (head, chest or abdomen).

    Args:
        root: Folder with ``pneumoniamnist/`` and ``vqa_rad/``; None is ``$IMC_SHARED/data``, or
            ``../shared/data``.

    Raises:
        UsageError: they are not there.
    """
    shared = Path(os.environ.get("IMC_SHARED", "../shared"))
    root = root or shared / "data"
    held_out = shared / "models" / "tinymed" / "heldout_images.json"
    for path in (root / "pneumoniamnist" / "pneumoniamnist.npz", root / "vqa_rad" / "images", held_out):
        if not path.exists():
            raise UsageError(f"no {path}: set IMC_SHARED to the folder that holds data/ and models/")
    return _pneumonia(root), _organs(root, set(json.loads(held_out.read_text())))


def _pneumonia(root: Path) -> Task:
    import numpy as np

    stored: Any = np.load(root / "pneumoniamnist" / "pneumoniamnist.npz", allow_pickle=False)

    def part(split: str) -> tuple[Labelled, ...]:
        images, labels = stored[f"{split}_images"], stored[f"{split}_labels"].ravel()
        return tuple(
            Labelled(Sample(f"pneumoniamnist/{split}/{i}", _array_loader(images[i])), int(label))
            for i, label in enumerate(labels)
        )

    return Task("PneumoniaMNIST", 2, part("train"), part("val"), part("test"))


def _array_loader(array: Any) -> Any:
    def load() -> Any:
        from PIL import Image

        return Image.fromarray(array).convert("RGB")

    return load


def _organs(root: Path, held_out: set[str]) -> Task:
    labels: dict[str, int] = {}
    for name in ("trainset.json", "testset.json"):
        for row in json.loads((root / "vqa_rad" / name).read_text(encoding="utf-8")):
            labels[row["image_name"]] = _ORGANS.index(row["image_organ"])
    found = [
        (name, Labelled(Sample(f"vqa_rad/{name}", _file_loader(root / "vqa_rad" / "images" / name)), label))
        for name, label in sorted(labels.items())
    ]
    train = tuple(item for name, item in found if name not in held_out)
    return Task("VQA-RAD organ", 3, train, train, tuple(item for name, item in found if name in held_out))


def _file_loader(path: Path) -> Any:
    def load() -> Any:
        return read_image(path)

    return load


@dataclass(frozen=True, slots=True)
class Readout:
    """Nearest class mean in the space of a ridge regression on the labels.

    Attributes:
        mean: (embedding,).
        weight: (embedding, classes).
        centres: (classes, classes).
    """

    mean: Tensor
    weight: Tensor
    centres: Tensor

    def predict(self, embeddings: Tensor) -> Tensor:
        """Labels of (images, embedding), int64."""
        import torch

        return torch.cdist((embeddings.double() - self.mean) @ self.weight, self.centres).argmin(1)


def fit_readout(embeddings: Tensor, labels: Sequence[int], classes: int) -> Readout:
    """Train on the embeddings of clean images, (images, embedding)."""
    import torch

    x, y = embeddings.double(), torch.tensor(labels)
    mean = x.mean(0)
    centred = x - mean
    target = torch.nn.functional.one_hot(y, classes).double()
    covariance = centred.T @ centred
    penalty = _RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    weight: Tensor = torch.linalg.solve(covariance + penalty, centred.T @ (target - target.mean(0)))
    scores = centred @ weight
    centres = torch.stack([scores[y == label].mean(0) for label in range(classes)])
    return Readout(mean, weight, centres)
