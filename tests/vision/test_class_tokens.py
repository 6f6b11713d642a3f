"""Encoders with a class token: noise moves it in another way than the patches, and it is calibrated by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from imc_agents.noise.image import apply_image_noise
from imc_agents.noise.registry import get_noise
from imc_agents.vision.bank import Bank, load_bank, save_bank
from imc_agents.vision.build import Sample, build_bank, split_parts
from imc_agents.vision.calibration import calibrate
from imc_agents.vision.encoders.protocol import PATCHES, Encoded, EncoderInfo, Packed

SIDE, PATCH, WIDTH = 64, 8, 24


@dataclass(frozen=True)
class LinearEncoder:
    """Random projections of patches, and a class token that reads the contrast of the image."""

    info: EncoderInfo
    weight: torch.Tensor
    device: str = "cpu"

    def preprocess(self, images: Sequence[Any]) -> torch.Tensor:
        pixels = [np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32)[..., 0] / 255 for image in images]
        return torch.from_numpy(np.stack(pixels))

    def encode(self, inputs: torch.Tensor, layers: Sequence[int] = ()) -> Encoded:
        blocks = (
            inputs.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).reshape(len(inputs), -1, PATCH * PATCH)
        )
        patches = blocks @ self.weight
        head = 10 * blocks.std((1, 2))[:, None, None] * torch.ones(WIDTH)
        tokens = torch.cat([head, patches], 1)
        packed = {PATCHES: Packed(patches.flatten(0, 1), (patches.shape[1],) * len(inputs))}
        counts = (tokens.shape[1],) * len(inputs)
        return Encoded(Packed(tokens.flatten(0, 1), counts), packed, ((8, 8),) * len(inputs))

    def pool(self, tokens: Packed) -> torch.Tensor:
        return torch.stack([rows[0] for rows in tokens.split()])


def encoder() -> LinearEncoder:
    weight = torch.randn(PATCH * PATCH, WIDTH, generator=torch.Generator().manual_seed(0))
    return LinearEncoder(
        EncoderInfo("test", "test", "0", "0", WIDTH, WIDTH, 1, SIDE, prefix_tokens=1), weight
    )


def drawn(index: int) -> Any:
    random = np.random.default_rng(index)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    wave = np.sin(x / random.uniform(4, 12)) * np.cos(y / random.uniform(4, 12))
    return Image.fromarray((128 + random.uniform(10, 60) * wave).astype(np.uint8)).convert("RGB")


def noisy_batch(found: LinearEncoder) -> tuple[Encoded, Encoded]:
    images = [drawn(1000 + i) for i in range(24)]
    spoilt = [
        Image.fromarray(apply_image_noise(np.asarray(image), "gaussian", 5, sample_id=str(i)))
        for i, image in enumerate(images)
    ]
    clean, noisy = (found.encode(found.preprocess(part), (PATCHES,)) for part in (images, spoilt))
    return clean, noisy


def bank_of(found: LinearEncoder) -> Bank:
    samples = [Sample(str(i), lambda i=i: drawn(i)) for i in range(100)]
    return build_bank(found, samples, [get_noise("gaussian", "image")])


def test_class_tokens_are_corrected_as_what_they_are(tmp_path: Any) -> None:
    found = encoder()
    bank = bank_of(found)
    clean, noisy = noisy_batch(found)
    done = calibrate(bank, noisy)
    assert {item.finding.noise for item in done.treatments} == {"gaussian"}

    def left(tokens: Packed) -> float:
        away = split_parts(tokens, 1)[1].rows - split_parts(clean.tokens, 1)[1].rows
        return float(away.square().mean())

    assert left(done.tokens) < 0.2 * left(noisy.tokens)
    alone = calibrate(replace(bank, classes=None), noisy)
    assert left(alone.tokens) == left(noisy.tokens)
    save_bank(bank, tmp_path / "bank")
    again = calibrate(load_bank(tmp_path / "bank"), noisy)
    assert torch.allclose(again.tokens.rows, done.tokens.rows, atol=1e-2)


def test_parts_are_split_and_in_order() -> None:
    packed = Packed(torch.arange(10.0)[:, None], (4, 6))
    patches, classes = split_parts(packed, 1)
    assert classes.rows[:, 0].tolist() == [0, 4]
    assert patches.rows[:, 0].tolist() == [1, 2, 3, 5, 6, 7, 8, 9]
    assert patches.counts == (3, 5)
    assert split_parts(packed, 0) == [packed]
