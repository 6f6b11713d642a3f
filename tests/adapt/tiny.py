"""Tiny random CLIP models of each kind, written as folders of open_clip, and drawn images with labels."""

from __future__ import annotations

import json
import resource
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file

from imc_agents.adapt.settings import FitSettings
from imc_agents.vision.encoders.open_clip_models import Created, create

TEXT = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TIMM = {"timm_model_pretrained": False, "timm_pool": "token", "timm_proj": "linear"}
VISION: dict[str, dict[str, Any]] = {
    "native": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "timm": {**TIMM, "timm_model_name": "test_vit", "image_size": 160},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 2], "width": 8, "head_width": 64},
    "grouped": {**TIMM, "timm_model_name": "test_convnext", "timm_pool": "avg", "image_size": 64},
}
SETTINGS = FitSettings(shots=1.0, rank=4, epochs=3, batch=8, learning_rate=1e-2)


def write_model(
    folder: Path, kind: str = "native", *, seed: int = 0, text: dict[str, Any] | None = None
) -> str:
    """Write a model with seeded weights, and open_clip's own text encoder or another; return its spec."""
    folder.mkdir(parents=True)
    architecture = {"embed_dim": 24, "vision_cfg": VISION[kind], "text_cfg": text or TEXT}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = (open_clip.CustomTextCLIP if text else open_clip.CLIP)(**architecture)
    save_model(folder, model.state_dict())
    text = json.dumps({"model_cfg": architecture, "preprocess_cfg": {}})
    (folder / "open_clip_config.json").write_text(text)
    return f"open_clip:{folder}"


def save_model(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    kept = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(kept, folder / "open_clip_model.safetensors")


def opened(spec: str) -> Created:
    return create(spec.removeprefix("open_clip:"))


def pictures(created: Created, count: int = 3) -> torch.Tensor:
    """Inputs of its image encoder."""
    random = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, created.image_size, created.image_size, generator=random)


def draw(folder: Path, counts: dict[str, int], *, name: str = "pneumoniamnist", seed: int = 0) -> Path:
    """Draw a set in the layout of MedMNIST: stripes that lie in one class and stand in the other, in noise."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for split, count in counts.items():
        labels = np.arange(count, dtype=np.uint8) % 2
        images = random.integers(0, 90, (count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            stripes = image.T if label else image
            stripes[random.integers(0, 4) :: 7] += 140
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None]}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)
    return path


def weights_of(folder: Path) -> bytes:
    """The file of an adapter's weights."""
    return (folder / "adapter_model.safetensors").read_bytes()


@contextmanager
def quickly() -> Generator[None]:
    """For models so small that threads only wait for each other, and reading the vocabulary takes longest of all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "SimpleTokenizer", cache(factory.SimpleTokenizer))
        yield
    torch.set_num_threads(threads)


@contextmanager
def full_disk(size: int) -> Generator[None]:
    """No file may become larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
