"""The image noises by name, and the one function that applies any of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from imc_agents.errors import UsageError, nearest
from imc_agents.noise.image import optics, sensor, storage
from imc_agents.noise.image.draws import generator
from imc_agents.noise.image.pixels import check_image, grey_once
from imc_agents.noise.registry import NoiseSpec, get_noise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["IMAGE_NOISES", "apply_image_noise"]


@cache
def _severities() -> dict[str, dict[str, Any]]:
    import yaml

    return yaml.safe_load((files("imc_agents.noise.image") / "severity.yaml").read_text(encoding="utf-8"))


def apply_image_noise(
    image: NDArray[np.uint8],
    kind: str,
    severity: int,
    *,
    seed: int = 0,
    sample_id: str = "",
    dataset: str = "",
    **options: Any,
) -> NDArray[np.uint8]:
    """Return the image with one kind of noise; the outcome depends on the arguments alone.

    A grey image in colour is treated as the grey image that it is: its channels stay equal.

    Args:
        image: uint8 [H, W] or [H, W, 3].
        kind: Name of an image noise; ``imc noise list`` shows them.
        severity: 1 (mild) to 5 (harsh).
        seed: Base seed.
        sample_id: Identifies the image within its data set; images draw independently.
        dataset: Name of the data set.
        options: ``variant`` for noises that have variants, else the seed chooses one.

    Raises:
        UsageError: for an unknown kind or variant, a severity outside 1..5, a negative seed, or an array that is no
            image.
    """
    return get_noise(kind, "image").apply(
        image, severity, seed=seed, sample_id=sample_id, dataset=dataset, **options
    )


def _noisy(
    image: NDArray[np.uint8],
    severity: int,
    *,
    seed: int,
    sample_id: str,
    dataset: str,
    name: str,
    function: Callable[..., NDArray[np.uint8]],
    variant: str | None = None,
) -> NDArray[np.uint8]:
    check_image(image, severity, seed)
    table = _severities()[name]
    random = generator(dataset, sample_id, name, seed)
    strengths = table["strengths"]
    if "variants" in table:
        names = list(table["variants"])
        drawn = names[int(random.integers(len(names)))]
        if variant is not None and variant not in names:
            raise UsageError(
                f"unknown variant {variant!r} of {name}{nearest(variant, names) or ''}; known: {', '.join(names)}"
            )
        strengths = table["variants"][variant or drawn]
    elif variant is not None:
        raise UsageError(f"the noise {name} has no variants, and {variant!r} was asked for")
    extra = {"sigma": float(table["sigmas"][severity - 1])} if "sigmas" in table else {}
    strength = float(strengths[severity - 1])
    return grey_once(image, lambda pixels: function(pixels, strength, random, **extra))


def _spec(name: str, function: Callable[..., Any], family: str, description: str) -> NoiseSpec:
    table = _severities()[name]
    return NoiseSpec(
        name=name,
        modality="image",
        description=description,
        per=table["per"],
        strengths=tuple(table["strengths"]),
        apply=partial(_noisy, name=name, function=function),
        family=family,
        variants=tuple(table.get("variants", ())),
        suite="imc-11",
    )


IMAGE_NOISES: tuple[NoiseSpec, ...] = (
    _spec("gaussian", sensor.gaussian, "sensor noise", "noise of the detector"),
    _spec("shot", sensor.shot, "sensor noise", "few photons, as with a low dose"),
    _spec("motion", optics.motion, "blur", "motion of the patient"),
    _spec("jpeg", storage.jpeg, "compression", "strong JPEG compression"),
    _spec("pixelate", storage.pixelate, "compression", "low resolution"),
    _spec("exposure", optics.exposure, "exposure", "under- or overexposed, or badly windowed"),
)
