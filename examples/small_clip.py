#!/usr/bin/env python3
"""Train a small CLIP model from scratch, in minutes on a CPU, on clean medical images only.

usage: python examples/small_clip.py OUT [--data DIR] [--epochs N] [--seed N] [--limit N]

Reads PneumoniaMNIST (train) and VQA-RAD (all images but the 64 that are held out) from DIR, default $IMC_SHARED/data or
../shared/data, and writes an open_clip folder that `imc prototypes build --encoder open_clip:OUT` takes; one that is
there already, made with the same options, is kept. Images are only cropped and mirrored, never corrupted: it is a test
bed for calibration, not a medical model.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, normalize

SIZE = 128
MEAN = STD = (0.5, 0.5, 0.5)
ARCHITECTURE = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIZE, "layers": 6, "width": 192, "head_width": 48, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
CAPTIONS = {
    "normal": ("a normal chest x-ray", "chest x-ray of healthy lungs", "a chest x-ray without pneumonia"),
    "pneumonia": (
        "a chest x-ray showing pneumonia",
        "chest x-ray with pneumonia",
        "pneumonia on a chest x-ray",
    ),
    "HEAD": ("an image of the head", "a scan of the brain", "head imaging"),
    "CHEST": ("an image of the chest", "a scan of the thorax", "chest imaging"),
    "ABD": ("an image of the abdomen", "a scan of the abdomen", "abdominal imaging"),
}
WEIGHTS = "open_clip_model.safetensors"
PNEUMONIA, ORGANS = ("normal", "pneumonia"), ("HEAD", "CHEST", "ABD")


def load(data: Path, limit: int | None) -> dict[str, tuple[torch.Tensor, list[str]]]:
    """Images as uint8 (n, 3, 144, 144) with labels, by part: both sources, for training and for testing."""
    stored = np.load(data / "pneumoniamnist" / "pneumoniamnist.npz", allow_pickle=False)
    held_out = set(json.loads((data.parent / "models" / "tinymed" / "heldout_images.json").read_text()))
    organs = {
        row["image_name"]: row["image_organ"]
        for name in ("trainset.json", "testset.json")
        for row in json.loads((data / "vqa_rad" / name).read_text(encoding="utf-8"))
    }

    def arrays(images: list[Image.Image]) -> torch.Tensor:
        side = SIZE + 16
        made = [np.asarray(cropped(image.convert("RGB"), side)) for image in images]
        return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()

    def pneumonia(split: str) -> tuple[torch.Tensor, list[str]]:
        images = [Image.fromarray(array) for array in stored[f"{split}_images"][:limit]]
        return arrays(images), [PNEUMONIA[int(label)] for label in stored[f"{split}_labels"].ravel()[:limit]]

    def scans(names: list[str]) -> tuple[torch.Tensor, list[str]]:
        names = names[:limit]
        return arrays([Image.open(data / "vqa_rad" / "images" / name) for name in names]), [
            organs[name] for name in names
        ]

    return {
        "pneumonia": pneumonia("train"),
        "organs": scans(sorted(set(organs) - held_out)),
        "pneumonia test": pneumonia("test"),
        "organs test": scans(sorted(set(organs) & held_out)),
    }


def cropped(image: Image.Image, side: int) -> Image.Image:
    """The middle of an image, its shorter side brought to ``side``."""
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))


def batch(images: torch.Tensor, chosen: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Random crops of 128 pixels, half of them mirrored, normalised."""
    slack = images.shape[-1] - SIZE
    top, left = (int(torch.randint(slack + 1, (1,), generator=random)) for _ in range(2))
    pixels = images[chosen][..., top : top + SIZE, left : left + SIZE].float() / 127.5 - 1
    mirrored = torch.rand(len(chosen), generator=random) < 0.5
    return torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)


def train(parts: dict, epochs: int, seed: int) -> open_clip.CLIP:
    """Contrastive training; captions of one label are positives of each other."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    model = open_clip.CLIP(**ARCHITECTURE, output_dict=False)
    tokenizer = open_clip.SimpleTokenizer(context_length=ARCHITECTURE["text_cfg"]["context_length"])
    names = list(CAPTIONS)
    texts = torch.stack([tokenizer(list(captions)) for captions in CAPTIONS.values()])
    sources = [parts["pneumonia"], parts["organs"]]
    labels = [torch.tensor([names.index(label) for label in found]) for _, found in sources]
    steps = max(4, len(sources[0][0]) // 96)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=epochs * steps, pct_start=0.1)
    for epoch in range(epochs):
        started, losses = time.perf_counter(), []
        for _ in range(steps):
            # Two thirds chest x-rays, balanced by label, and one third of all organs.
            picked = [balanced(labels[0], 64, random), balanced(labels[1], 32, random)]
            pixels = torch.cat(
                [batch(images, chosen, random) for (images, _), chosen in zip(sources, picked, strict=True)]
            )
            label = torch.cat([found[chosen] for found, chosen in zip(labels, picked, strict=True)])
            variant = torch.randint(3, (len(label),), generator=random)
            image = normalize(model.encode_image(pixels), dim=1)
            caption = normalize(model.encode_text(texts[label, variant]), dim=1)
            logits = model.logit_scale.exp().clamp_max(100) * image @ caption.T
            target = (label[:, None] == label).float()
            target = target / target.sum(1, keepdim=True)
            loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(
            f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.3f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return model.eval()


def balanced(labels: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
    """Positions of ``count`` samples, every label equally likely."""
    weights = 1 / torch.bincount(labels, minlength=len(CAPTIONS)).clamp_min(1)[labels].float()
    return torch.multinomial(weights, count, replacement=True, generator=random)


@torch.inference_mode()
def accuracy(model: open_clip.CLIP, images: torch.Tensor, labels: list[str], names: tuple[str, ...]) -> float:
    """Zero-shot accuracy on the middle crops."""
    tokenizer = open_clip.SimpleTokenizer(context_length=ARCHITECTURE["text_cfg"]["context_length"])
    texts = torch.stack(
        [normalize(model.encode_text(tokenizer(list(CAPTIONS[name]))), dim=1).mean(0) for name in names]
    )
    edge = (images.shape[-1] - SIZE) // 2
    pixels = images[..., edge : edge + SIZE, edge : edge + SIZE].float() / 127.5 - 1
    found = torch.cat([model.encode_image(part).matmul(texts.T).argmax(1) for part in pixels.split(64)])
    return float((found == torch.tensor([names.index(label) for label in labels])).float().mean())


def recipe(options: argparse.Namespace) -> str:
    """What a model was made with; kept beside its weights."""
    facts = {"epochs": options.epochs, "seed": options.seed, "limit": options.limit, "model": ARCHITECTURE}
    return json.dumps(facts, sort_keys=True)


def finished(out: Path, made_with: str) -> bool:
    """Whether the folder holds a model of this recipe; the weights are written last."""
    try:
        with safe_open(out / WEIGHTS, "pt") as stored:
            return (stored.metadata() or {}).get("recipe") == made_with
    except (OSError, SafetensorError):
        return False


def write(model: open_clip.CLIP, out: Path, made_with: str) -> None:
    """Write the folder that open_clip loads as ``local-dir:``."""
    out.mkdir(parents=True, exist_ok=True)
    preprocess = {
        "size": [SIZE, SIZE], "mode": "RGB", "mean": MEAN, "std": STD,
        "interpolation": "bicubic", "resize_mode": "shortest",
    }  # fmt: skip
    config = {"model_cfg": ARCHITECTURE, "preprocess_cfg": preprocess}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=1))
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    part = out / f".{WEIGHTS}.part"
    save_file(tensors, part, metadata={"format": "pt", "recipe": made_with})
    part.replace(out / WEIGHTS)


def main() -> None:
    """Train, say how well it does, write."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("out", type=Path)
    arguments.add_argument(
        "--data", type=Path, default=Path(os.environ.get("IMC_SHARED", "../shared")) / "data"
    )
    arguments.add_argument("--epochs", type=int, default=8)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--limit", type=int, help="images of each part at most, for a quick try")
    options = arguments.parse_args()
    if not (options.data / "vqa_rad").is_dir():
        raise SystemExit(f"no {options.data}/vqa_rad; name the folder with --data")
    if finished(options.out, recipe(options)):
        print(f"{options.out} holds this model already")
        return
    parts = load(options.data, options.limit)
    model = train(parts, options.epochs, options.seed)
    write(model, options.out, recipe(options))
    for part, names in (("pneumonia test", PNEUMONIA), ("organs test", ORGANS)):
        images, labels = parts[part]
        print(f"{part}: {100 * accuracy(model, images, labels, names):.1f} % of {len(labels)} zero-shot")


if __name__ == "__main__":
    main()
