"""How well noise is recognised, and how much of the accuracy that it costs calibration wins back.

One encoder, banks of several seeds, images that neither bank nor readout have seen, every noise and severity. Beside
the operators stand what one would try first: filters on the image, and recentring without any prototype.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from imc_agents.bench.filters import FILTERS, filtered
from imc_agents.bench.image_tasks import Labelled, Readout, Task, fit_readout
from imc_agents.noise.registry import SEVERITIES, NoiseSpec
from imc_agents.vision.bank import Bank, Part, without
from imc_agents.vision.build import Sample, at_encoder_size, build_bank
from imc_agents.vision.calibration import correct, perceive
from imc_agents.vision.encoders.protocol import PATCHES, Encoded, Encoder, Packed
from imc_agents.vision.operators import AUTO, operators
from imc_agents.vision.perception import CLEAN, Finding

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HARSH", "LEFT_OUT", "NONE", "RECENTRE", "Cell", "Recognition", "bench_images"]

HARSH = (3, 4, 5)
NONE, RECENTRE, LEFT_OUT = "none", "recentre", "auto, noise left out"


@dataclass(frozen=True, slots=True)
class Cell:
    """Correct answers of one method on one task under one noise.

    Attributes:
        seed: Of bank and noise.
        task: Name of the task.
        noise: Name of the noise, or ``clean``.
        severity: 0 for clean.
        method: What was done about it.
        correct: Images labelled right.
        images: Images.
    """

    seed: int
    task: str
    noise: str
    severity: int
    method: str
    correct: int
    images: int


@dataclass(frozen=True, slots=True)
class Recognition:
    """What the images of one task with one noise were found to have.

    Attributes:
        seed: Of bank and noise.
        task: Name of the task.
        noise: The truth, or ``clean``.
        severity: The truth; 0 for clean.
        found: Images by the noise found.
        family: Images whose family was found.
        near: Images whose severity was found within one step.
        images: Images.
    """

    seed: int
    task: str
    noise: str
    severity: int
    found: dict[str, int]
    family: int
    near: int
    images: int


def bench_images(
    encoder: Encoder,
    tasks: Sequence[Task],
    noises: Sequence[NoiseSpec],
    *,
    seeds: int,
    bank_images: int,
    test_images: int | None,
    batch: int = 32,
    tell: Callable[[str], None] = lambda _: None,
    keep: Callable[[list[Cell], list[Recognition]], None] | None = None,
) -> tuple[list[Cell], list[Recognition]]:
    """Measure recognition and accuracy.

    Args:
        encoder: Trained on clean images only.
        tasks: What is read from the embeddings.
        noises: Image noises.
        seeds: Runs, each with a bank and a draw of noise of its own.
        bank_images: Images of a bank at most, from all tasks alike.
        test_images: Of each task at most; None is all.
        batch: Images encoded at once.
        tell: Told what is being done.
        keep: Given what there is after each seed, so that a run that is cut off leaves something.
    """
    cells: list[Cell] = []
    recognitions: list[Recognition] = []
    tell("readouts")
    readouts = [_readout(encoder, task, batch) for task in tasks]
    for seed in range(seeds):
        tell(f"seed {seed}: bank")
        bank = build_bank(encoder, _bank_samples(tasks, bank_images, seed), noises, seed=seed, batch=batch)
        chosen = [_subset(task.test, test_images, seed) for task in tasks]
        clean = [_arrays(encoder, items) for items in chosen]
        for noise, severity in [
            (None, 0),
            *((noise, severity) for noise in noises for severity in SEVERITIES),
        ]:
            tell(f"seed {seed}: {noise.name if noise else CLEAN} {severity or ''}")
            for task, readout, items, arrays in zip(tasks, readouts, chosen, clean, strict=True):
                shown = [
                    array if noise is None else _noisy(array, item, noise, severity, 1000 + seed)
                    for array, item in zip(arrays, items, strict=True)
                ]
                labels = [item.label for item in items]
                found, counts = _measure(_View(encoder, bank, readout, shown, labels, noise, severity, batch))
                recognitions.append(_recognised(seed, task.name, noise, severity, found))
                name = noise.name if noise else CLEAN
                cells += [
                    Cell(seed, task.name, name, severity, method, right, len(items))
                    for method, right in counts.items()
                ]
        if keep is not None:
            keep(cells, recognitions)
    return cells, recognitions


@dataclass(frozen=True, slots=True)
class _View:
    """Test images under one noise (uint8 [H, W, 3] each), and everything that looks at them."""

    encoder: Encoder
    bank: Bank
    readout: Readout
    images: Sequence[Any]
    labels: Sequence[int]
    noise: NoiseSpec | None
    severity: int
    batch: int


def _measure(view: _View) -> tuple[list[Finding], dict[str, int]]:
    """What was found, and how many images each method has right."""
    import torch

    bank, noise = view.bank, view.noise
    findings: list[Finding] = []
    parts: list[Packed] = []
    left_out: list[Finding] = []
    for encoded in _encodings(view, None):
        findings += perceive(bank, encoded)
        if noise is not None:
            left_out += perceive(without(bank, [noise.name]), encoded)
        parts.append(encoded.tokens)
    tokens = Packed(
        torch.cat([part.rows for part in parts]), tuple(count for part in parts for count in part.counts)
    )
    counts = {NONE: _right(view, tokens)}
    if noise is not None and view.severity not in HARSH:
        return findings, counts
    for name in (AUTO, *operators()):
        counts[name] = _right(view, correct(bank, tokens, findings, operator=name).tokens)
    if noise is not None:
        counts[LEFT_OUT] = _right(view, correct(bank, tokens, left_out).tokens)
    counts[RECENTRE] = _right(view, _recentred(bank, tokens))
    for name in FILTERS:
        filtered = [encoded.tokens for encoded in _encodings(view, name)]
        rows = torch.cat([part.rows for part in filtered])
        counts[name] = _right(view, replace(tokens, rows=rows))
    return findings, counts


def _recentred(bank: Bank, tokens: Packed) -> Packed:
    """Test-time recentring (NEO): the mean of this batch becomes the mean of the clean images, in each part."""
    import torch

    first = bank.encoder.prefix_tokens
    images = tokens.rows.reshape(len(tokens.counts), tokens.counts[0], -1).float()
    moved = [_moved(bank, bank.patches, images[:, first:])]
    if first and bank.classes is not None:
        moved.insert(0, _moved(bank, bank.classes, images[:, :first]))
    return replace(tokens, rows=torch.cat(moved, 1).flatten(0, 1).to(tokens.rows.dtype))


def _moved(bank: Bank, part: Part, tokens: Tensor) -> Tensor:
    clean = [item for item, kind in zip(part.moments, bank.prototypes, strict=True) if not kind.severity]
    total = sum((item.f[: item.axes] for item in clean[1:]), clean[0].f[: clean[0].axes])
    mean = part.basis.mean + part.basis.axes @ (total / sum(item.count for item in clean)).float()
    return tokens - tokens.mean((0, 1)) + mean


def _right(view: _View, tokens: Packed) -> int:
    import torch

    predicted = view.readout.predict(view.encoder.pool(tokens))
    return int((predicted == torch.tensor(view.labels)).sum())


def _encodings(view: _View, denoise: str | None) -> Iterator[Encoded]:
    from PIL import Image

    for first in range(0, len(view.images), view.batch):
        shown = view.images[first : first + view.batch]
        images = [Image.fromarray(filtered(array, denoise) if denoise else array) for array in shown]
        yield view.encoder.encode(view.encoder.preprocess(images), (PATCHES,))


def _arrays(encoder: Encoder, items: Sequence[Labelled]) -> list[Any]:
    import numpy as np

    return [np.asarray(at_encoder_size(item.sample.load(), encoder.info.image_size)) for item in items]


def _noisy(array: Any, item: Labelled, noise: NoiseSpec, severity: int, seed: int) -> Any:
    return noise.apply(array, severity, seed=seed, sample_id=item.sample.name, dataset="")


def _recognised(
    seed: int, task: str, noise: NoiseSpec | None, severity: int, findings: Sequence[Finding]
) -> Recognition:
    name, family = (noise.name, noise.family) if noise else (CLEAN, CLEAN)
    found: dict[str, int] = {}
    for finding in findings:
        found[finding.noise] = found.get(finding.noise, 0) + 1
    return Recognition(
        seed,
        task,
        name,
        severity,
        found,
        sum(finding.family == family for finding in findings),
        sum(abs(finding.severity - severity) <= 1 for finding in findings),
        len(findings),
    )


def _readout(encoder: Encoder, task: Task, batch: int) -> Readout:
    import torch

    embeddings: list[Tensor] = []
    for first in range(0, len(task.train), batch):
        images = [
            at_encoder_size(item.sample.load(), encoder.info.image_size)
            for item in task.train[first : first + batch]
        ]
        embeddings.append(encoder.pool(encoder.encode(encoder.preprocess(images)).tokens))
    return fit_readout(torch.cat(embeddings), [item.label for item in task.train], task.classes)


def _subset(items: Sequence[Any], count: int | None, seed: int) -> list[Any]:
    import numpy as np

    if count is None or len(items) <= count:
        return list(items)
    chosen = np.random.default_rng(seed).choice(len(items), count, replace=False)
    return [items[i] for i in sorted(chosen.tolist())]


def _bank_samples(tasks: Sequence[Task], count: int, seed: int) -> list[Sample]:
    """From the small data sets all images, from the others as many as are missing."""
    ordered = sorted(tasks, key=lambda task: len(task.bank))
    chosen: list[Sample] = []
    for left, task in zip(range(len(ordered), 0, -1), ordered, strict=True):
        chosen += [item.sample for item in _subset(task.bank, (count - len(chosen)) // left, seed)]
    return chosen
