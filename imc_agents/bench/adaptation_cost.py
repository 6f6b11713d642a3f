"""What a step of adaptation costs beside the same step written directly with peft and open_clip.

Both train the same adapters on the same drawn images. Times are medians of turns in one process; the peak of resident
memory is that of a process of its own for each.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (peft and open_clip ship partial types)

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from imc_agents.adapt.classifier import make_head
from imc_agents.adapt.fit import create_encoder
from imc_agents.adapt.labelled import LabelledImages
from imc_agents.adapt.lora import find_targets
from imc_agents.adapt.pixels import Pixels
from imc_agents.adapt.settings import FitSettings
from imc_agents.adapt.train import open_step

__all__ = ["AdaptationCost", "measure_cost"]

_CLASSES = ("a chest x-ray of healthy lungs", "a chest x-ray with pneumonia")
_MIB = 1024 * (1024 if sys.platform == "darwin" else 1)  # of ru_maxrss, which Linux counts in KiB


@dataclass(frozen=True, slots=True)
class AdaptationCost:
    """Ours beside the direct way.

    Attributes:
        ours_ms: Milliseconds of a step, the reading of its images included; median of turns.
        plain_ms: The same, written directly.
        time_ratio: Median over turns of the one by the other.
        ours_mib: Peak of resident memory.
        plain_mib: The same, written directly.
        memory_ratio: The one by the other.
    """

    ours_ms: float
    plain_ms: float
    time_ratio: float
    ours_mib: float
    plain_mib: float
    memory_ratio: float


def measure_cost(encoder: str, *, batch: int, rank: int, steps: int, turns: int) -> AdaptationCost:
    """Measure.

    Args:
        encoder: ``open_clip:...``.
        batch: Images of a step.
        rank: Of the adapters.
        steps: Steps of a turn.
        turns: Of each.
    """
    peaks = [_peak(make, encoder, batch, rank, steps) for make in (_ours, _plain)]
    ours, plain = _ours(encoder, batch, rank), _plain(encoder, batch, rank)
    ours(1)
    plain(1)
    times = [(_seconds(ours, steps), _seconds(plain, steps)) for _ in range(turns)]
    return AdaptationCost(
        ours_ms=1000 * median(one for one, _ in times) / steps,
        plain_ms=1000 * median(other for _, other in times) / steps,
        time_ratio=median(one / other for one, other in times),
        ours_mib=peaks[0],
        plain_mib=peaks[1],
        memory_ratio=peaks[0] / peaks[1],
    )


def _seconds(run: Callable[[int], None], steps: int) -> float:
    started = perf_counter()
    run(steps)
    return perf_counter() - started


def _images(batch: int, size: int) -> list[Any]:
    """Drawn images, as large as the encoder takes them."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(2 * batch)
    ]


def _ours(encoder: str, batch: int, rank: int) -> Callable[[int], None]:
    """Steps as ``imc adapt fit`` takes them."""
    import numpy as np

    created = create_encoder(encoder)
    images = _images(batch, created.image_size)
    labels = np.arange(len(images)) % len(_CLASSES)
    shots = LabelledImages(
        "drawn", "train", _CLASSES, labels, tuple(map(str, range(len(images)))), images.__getitem__
    )
    settings = FitSettings(shots=1.0, rank=rank, batch=batch)
    step = open_step(created, make_head(created, [[text] for text in _CLASSES]), shots, settings)
    pixels = Pixels(shots, created)

    def run(steps: int) -> None:
        ready = pixels.batches([list(range(batch))] * steps)
        for _ in range(steps):
            step.take(ready, 1)

    return run


def _plain(encoder: str, batch: int, rank: int) -> Callable[[int], None]:
    """The same steps with nothing but peft, open_clip and torch."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn.functional import cross_entropy, normalize

    created = create_encoder(encoder)
    images = _images(batch, created.image_size)
    pixels = torch.stack([created.transform(image) for image in images])
    labels = torch.arange(len(images)) % len(_CLASSES)
    with torch.no_grad():
        texts = normalize(created.model.encode_text(created.tokenizer(list(_CLASSES))), dim=1)
    targets = find_targets(created.model)
    # An adapter each for query, key and value that share a weight: as many columns as ours have.
    columns = 3 * rank if targets.kind == "fused attention" else rank
    config = LoraConfig(
        r=columns,
        lora_alpha=columns,
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
    )
    model: Any = get_peft_model(created.model, config)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=1e-4)
    scale = created.model.logit_scale.exp().detach()

    def run(steps: int) -> None:
        for _ in range(steps):
            embeddings = normalize(model.encode_image(pixels[:batch]), dim=1)
            loss = cross_entropy(scale * embeddings @ texts.T, labels[:batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def _peak(
    make: Callable[[str, int, int], Callable[[int], None]], encoder: str, batch: int, rank: int, steps: int
) -> float:
    """Peak of resident memory of a process that takes some steps, in MiB."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(partial(_run_alone, make, encoder, batch, rank, steps))


def _run_alone(
    make: Callable[[str, int, int], Callable[[int], None]], encoder: str, batch: int, rank: int, steps: int
) -> float:
    make(encoder, batch, rank)(steps)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB
