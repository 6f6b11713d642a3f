"""Makes the noisy images of a benchmark in several processes; the outcome does not depend on how many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from imc_agents.bench.filters import filtered
from imc_agents.bench.outcomes import CLEAN
from imc_agents.errors import ImcError
from imc_agents.noise.output import written
from imc_agents.noise.pool import open_workers, usable_cores

__all__ = ["ImageJob", "Look", "write_images"]

_FEW = 4  # jobs for which no process is worth its start


@dataclass(frozen=True, slots=True)
class Look:
    """One way in which an image is wanted.

    Attributes:
        noise: Full name of an image noise, or ``clean``.
        severity: 1 to 5; 0 for clean.
        filter: Filter over the noisy image, or empty.
        target: Path within the folder of images.
    """

    noise: str
    severity: int
    filter: str
    target: str


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One published image and the looks that are wanted of it.

    Attributes:
        source: The file.
        name: Identifies it within its data set; part of the seed.
        dataset: Name of the data set.
        table: MedMNIST set whose severities count, or empty.
        looks: What is wanted.
    """

    source: Path
    name: str
    dataset: str
    table: str
    looks: tuple[Look, ...]


def write_images(
    jobs: Sequence[ImageJob],
    folder: Path,
    *,
    size: int,
    seed: int,
    workers: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Write every look that is not there yet; return one line for each image that cannot be used.

    Args:
        jobs: What is wanted.
        folder: Folder of images.
        size: Pixels of the shorter side before the noise.
        seed: Of the noise.
        workers: Processes; 0 is one a core.
        advance: Told how many looks are done.

    Raises:
        UsageError: a noise cannot be applied, or a worker was killed.
    """
    rest: list[ImageJob] = []
    for job in jobs:
        missing = tuple(look for look in job.looks if not (folder / look.target).is_file())
        advance(len(job.looks) - len(missing))
        if missing:
            rest.append(replace(job, looks=missing))
    problems: list[str] = []
    work = partial(_write, folder=folder, size=size, seed=seed)
    few = len(rest) <= _FEW
    with open_workers(1 if few else min(workers or usable_cores(), len(rest))) as pool:
        for job, problem in zip(rest, pool.in_order(work, rest), strict=True):
            advance(len(job.looks))
            if problem:
                problems.append(problem)
    return problems


def _write(job: ImageJob, *, folder: Path, size: int, seed: int) -> str:
    import numpy as np
    from PIL import Image

    from imc_agents.noise.registry import get_noise
    from imc_agents.vision.reading import read_image
    from imc_agents.vision.variants import at_encoder_size

    try:
        clean: Any = np.asarray(at_encoder_size(read_image(job.source), size))
    except ImcError as error:
        return str(error)
    noisy: dict[tuple[str, int], Any] = {(CLEAN, 0): clean}
    for look in job.looks:
        key = look.noise, look.severity
        if key not in noisy:
            spec = get_noise(look.noise, "image")
            options = {"table": job.table} if spec.tables and job.table else {}
            noisy[key] = spec.apply(
                clean, look.severity, seed=seed, sample_id=job.name, dataset=job.dataset, **options
            )
        image = filtered(noisy[key], look.filter) if look.filter else noisy[key]
        with written(folder / look.target) as stream:
            Image.fromarray(image).save(stream, "PNG")
    return ""
