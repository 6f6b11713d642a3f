"""What calibration and the building of a bank cost, beside the encoder's own forward pass, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from imc_agents.noise.registry import NoiseSpec
from imc_agents.vision.build import Sample, at_encoder_size, build_bank, encodings
from imc_agents.vision.calibration import calibrate
from imc_agents.vision.encoders.protocol import PATCHES, Encoder

__all__ = ["CalibrationCost", "measure_cost"]

_REPEATS = 10
_SEVERITY = 4


@dataclass(frozen=True, slots=True)
class CalibrationCost:
    """Times of one encoder.

    Attributes:
        batch: Images encoded at once.
        encode_ms: Forward pass per image, median over turns.
        clean_ms: Calibration per clean image.
        noisy_ms: Calibration per image with noise.
        clean_share: ``clean_ms`` over ``encode_ms``.
        noisy_share: ``noisy_ms`` over ``encode_ms``.
        bank_encodings: Images encoded to build the bank.
        bank_per_second: Of them per second, corruption and preprocessing included.
        bare_per_second: Images per second of the bare forward pass, before, between and after.
        bank_ratio: ``bank_per_second`` over ``bare_per_second``.
    """

    batch: int
    encode_ms: float
    clean_ms: float
    noisy_ms: float
    clean_share: float
    noisy_share: float
    bank_encodings: int
    bank_per_second: float
    bare_per_second: float
    bank_ratio: float


def measure_cost(
    encoder: Encoder,
    samples: Sequence[Sample],
    noises: Sequence[NoiseSpec],
    *,
    batch: int = 32,
    turns: int = 3,
) -> CalibrationCost:
    """Build a bank and calibrate, taking turns with the bare encoder.

    Args:
        encoder: The encoder.
        samples: Clean images, at least a batch.
        noises: Image noises.
        batch: Images encoded at once.
        turns: How often calibration and encoder take turns.
    """
    clean, noisy = _inputs(encoder, samples[:batch], noises)
    _repeat(lambda: encoder.encode(clean, (PATCHES,)))
    before = _repeat(lambda: encoder.encode(clean))
    started = time.perf_counter()
    bank = build_bank(encoder, samples, noises, batch=batch)
    spent = time.perf_counter() - started
    encoded_clean, encoded_noisy = encoder.encode(clean, (PATCHES,)), encoder.encode(noisy, (PATCHES,))
    calibrate(bank, encoded_noisy)
    forward: list[float] = [before]
    on_clean: list[float] = []
    on_noisy: list[float] = []
    for _ in range(turns):
        forward.append(_repeat(lambda: encoder.encode(clean)))
        on_clean.append(_repeat(lambda: calibrate(bank, encoded_clean)))
        on_noisy.append(_repeat(lambda: calibrate(bank, encoded_noisy)))
    count = len(samples[:batch])
    encode = 1000 * statistics.median(forward) / count
    clean_ms, noisy_ms = (1000 * statistics.median(found) / count for found in (on_clean, on_noisy))
    made = encodings(len(samples), noises)
    return CalibrationCost(
        batch=count,
        encode_ms=encode,
        clean_ms=clean_ms,
        noisy_ms=noisy_ms,
        clean_share=clean_ms / encode,
        noisy_share=noisy_ms / encode,
        bank_encodings=made,
        bank_per_second=made / spent,
        bare_per_second=1000 / encode,
        bank_ratio=made / spent * encode / 1000,
    )


def _inputs(encoder: Encoder, samples: Sequence[Sample], noises: Sequence[NoiseSpec]) -> tuple[Any, Any]:
    """The same images clean, and with all the noises in turn."""
    import numpy as np
    from PIL import Image

    arrays = [np.asarray(at_encoder_size(sample.load(), encoder.info.image_size)) for sample in samples]
    noisy = [
        noises[i % len(noises)].apply(array, _SEVERITY, seed=1, sample_id=sample.name, dataset="")
        for i, (array, sample) in enumerate(zip(arrays, samples, strict=True))
    ]
    clean, corrupted = ([Image.fromarray(array) for array in made] for made in (arrays, noisy))
    return encoder.preprocess(clean), encoder.preprocess(corrupted)


def _repeat(work: Callable[[], Any]) -> float:
    """Seconds that a call takes, mean over some."""
    started = time.perf_counter()
    for _ in range(_REPEATS):
        work()
    return (time.perf_counter() - started) / _REPEATS
