"""Clean images and what a bank is made from: each with every noise at every severity, encoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from imc_agents.noise.pool import usable_cores
from imc_agents.noise.registry import SEVERITIES, NoiseSpec
from imc_agents.vision.encoders.protocol import PATCHES, Encoded, Encoder, joined
from imc_agents.vision.perception import CLEAN

_AHEAD = 3  # batches
_MOST_WORKERS = 4  # each holds the activations of some images
_AT_ONCE = 8  # images: the activations of more do not fit into the cache of a core
_MOST_REMEMBERED = 512 * 2**20  # bytes

__all__ = ["Sample", "Variant", "at_encoder_size", "encode_variants", "remembered", "variants_of"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A clean image of the bank.

    Attributes:
        name: Identifies it; part of the seed of its noise.
        load: Gives the Pillow image in RGB; may be called several times.
    """

    name: str
    load: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """One noise at one severity, before images are told apart in groups."""

    noise: str
    variant: str
    severity: int
    family: str
    spec: NoiseSpec | None


def at_encoder_size(image: Any, size: int) -> Any:
    """Bring the shorter side of a Pillow image to ``size`` (bicubic).

    Noise is put on images of this size: on a large image the encoder's own reduction would average most of it away, and
    a severity would mean something else for every size. MedMNIST-C does the same (224 pixels).
    """
    from PIL import Image

    width, height = image.size
    if min(width, height) == size:
        return image
    scale = size / min(width, height)
    wanted = (max(size, round(width * scale)), max(size, round(height * scale)))
    return image.resize(wanted, Image.Resampling.BICUBIC)


def remembered(samples: Sequence[Sample], size: int) -> list[Sample]:
    """The samples at the encoder's size, read once as long as they fit into 512 MiB; the others are read again."""
    found: dict[int, Any] = {}
    room = _MOST_REMEMBERED

    def loader(number: int, sample: Sample) -> Callable[[], Any]:
        def load() -> Any:
            nonlocal room
            if number in found:
                return found[number]
            image = at_encoder_size(sample.load(), size)
            taken = 3 * image.width * image.height
            if taken <= room:
                room -= taken
                found[number] = image
            return image

        return load

    return [Sample(sample.name, loader(number, sample)) for number, sample in enumerate(samples)]


def variants_of(noises: Sequence[NoiseSpec]) -> list[Variant]:
    """Clean first, then every noise with every variant and severity."""
    found = [Variant(CLEAN, "", 0, CLEAN, None)]
    for spec in noises:
        for variant in spec.variants or ("",):
            found += [
                Variant(spec.name, variant, severity, spec.family or spec.name, spec)
                for severity in SEVERITIES
            ]
    return found


def encode_variants(
    encoder: Encoder, samples: Sequence[Sample], classes: Sequence[Variant], seed: int, batch: int
) -> Iterator[tuple[int, int, Encoded]]:
    """Encode batches of images, each with every class in turn: (first image, class, what came out).

    The next batches are read, corrupted, preprocessed and, on a CPU, encoded in other threads meanwhile: there several
    batches in a thread each use the cores better than one batch in several threads, which wait for each other, and a
    few images at a time are quicker than a whole batch.
    """
    workers, threads = _shared(usable_cores()) if encoder.device == "cpu" else (2, None)

    def load(chunk: Sequence[Sample]) -> list[Any]:
        import numpy as np

        return [np.asarray(at_encoder_size(sample.load(), encoder.info.image_size)) for sample in chunk]

    def prepare(item: Variant, chunk: Sequence[Sample], loading: Future[list[Any]]) -> Any:
        from PIL import Image

        arrays = loading.result()
        if item.spec is not None:
            arrays = [
                _corrupt(item, array, sample.name, seed) for array, sample in zip(arrays, chunk, strict=True)
            ]
        images = [Image.fromarray(array) for array in arrays]
        if threads is None:
            return encoder.preprocess(images)
        return joined(
            [
                encoder.encode(encoder.preprocess(images[start : start + _AT_ONCE]), (PATCHES,))
                for start in range(0, len(images), _AT_ONCE)
            ]
        )

    def jobs(pool: ThreadPoolExecutor) -> Generator[tuple[int, int, Future[Any]]]:
        for first in range(0, len(samples), batch):
            chunk = samples[first : first + batch]
            # Begun before what waits for it, so that threads never wait for each other in a circle.
            loading = pool.submit(load, chunk)
            for position, item in enumerate(classes):
                yield first, position, pool.submit(prepare, item, chunk, loading)

    def encoded(job: tuple[int, int, Future[Any]]) -> tuple[int, int, Encoded]:
        first, position, made = job
        return (
            first,
            position,
            encoder.encode(made.result(), (PATCHES,)) if threads is None else made.result(),
        )

    with _threads(threads), ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[int, int, Future[Any]]] = deque()
        for job in jobs(pool):
            waiting.append(job)
            if len(waiting) > max(_AHEAD, workers):
                yield encoded(waiting.popleft())
        while waiting:
            yield encoded(waiting.popleft())


def _shared(cores: int) -> tuple[int, int]:
    """Threads that encode, and those that each of them may use for a batch."""
    workers = min(cores, _MOST_WORKERS)
    return workers, max(1, cores // workers)


@contextmanager
def _threads(count: int | None) -> Generator[None]:
    """Let torch use so many threads for an operation, in this thread and those that are started within."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _corrupt(item: Variant, array: Any, name: str, seed: int) -> Any:
    assert item.spec is not None  # clean images are not corrupted
    variant = {"variant": item.variant} if item.variant else {}
    return item.spec.apply(array, item.severity, seed=seed, sample_id=name, dataset="", **variant)
