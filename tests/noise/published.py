"""The images that figures of the published corruptions were recorded on, and which corruptions draw at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RECORDED = Path(__file__).with_name("published.json")

PIXELS = 64
"""Values that are recorded of each image with a corruption that draws nothing."""

DRAWN = {
    "gaussian_noise": 2,
    "speckle_noise": 2,
    "impulse_noise": 4,
    "shot_noise": 2,
    "motion_blur": 24,
    "stain_deposit": 60,
    "bubble": 24,
    "characters": 60,
    "glass_blur": 1,
    "snow": 12,
    "frost": 160,
    "fog": 120,
}
"""How many draws the figures of each corruption that draws at random are means of."""


def images(data: Path) -> dict[str, Any]:
    """Two chest X-rays of PneumoniaMNIST and two pictures of VQA-RAD, one of them in colour; [224, 224, 3]."""
    with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz", allow_pickle=False) as stored:
        small = {f"pneumonia-{number}": Image.fromarray(stored["test_images"][number]) for number in (0, 100)}
    for name in ("synpic44865", "synpic100132"):
        with Image.open(data / "vqa_rad" / "images" / f"{name}.jpg") as picture:
            small[name] = picture.convert("RGB")
    resized = {name: picture.resize((224, 224), Image.Resampling.BICUBIC) for name, picture in small.items()}
    return {name: np.asarray(picture.convert("RGB")) for name, picture in resized.items()}


def sampled(image: Any) -> Any:
    """Values of an image at fixed places of all its channels."""
    places = np.random.Generator(np.random.PCG64(7)).choice(image.size, PIXELS, replace=False)
    return image.ravel()[places]


def as_grey(noisy: Any) -> Any:
    """The luminance of a picture in all three channels."""
    return np.asarray(Image.fromarray(noisy).convert("L").convert("RGB"))


def figures(clean: Any, noisy: list[Any]) -> list[float]:
    """Mean, variance and PSNR in dB of images with a corruption, over all of them."""
    made = np.stack(noisy).astype(np.float64)
    error = np.square(made - clean).mean()
    psnr = 10 * np.log10(255**2 / max(error, 1e-3))
    return [
        round(float(made.mean()), 3),
        round(float(made.var(axis=(1, 2, 3)).mean()), 2),
        round(float(psnr), 3),
    ]
