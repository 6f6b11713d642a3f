"""The corruptions of published benchmarks: 21 of MedMNIST-C, by data set, and 13 of MediMeta-C."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from imc_agents.errors import UsageError, nearest
from imc_agents.noise.image import blur, deposits, grain, storage, tone, weather
from imc_agents.noise.image.draws import generator
from imc_agents.noise.image.pixels import check_image, grey_once
from imc_agents.noise.registry import NoiseSpec, Strength

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SUITE_NOISES"]

Function = Callable[..., "NDArray[np.uint8]"]
"""Image, strength of a severity and generator to the noisy image."""

_ORGANS = ("organamnist", "organcmnist", "organsmnist")

_MEDMNIST_C: dict[str, tuple[Function, str, str]] = {
    "pixelate": (storage.pixelate, "compression", "low resolution"),
    "jpeg_compression": (storage.jpeg_compression, "compression", "strong JPEG compression"),
    "gaussian_noise": (grain.gaussian_noise, "sensor noise", "noise of the detector"),
    "speckle_noise": (grain.speckle_noise, "sensor noise", "interference, as in ultrasound"),
    "impulse_noise": (grain.impulse_noise, "sensor noise", "single values lost: salt and pepper"),
    "shot_noise": (grain.shot_noise, "sensor noise", "few photons, as with a low dose"),
    "defocus_blur": (blur.defocus_blur, "blur", "out of focus"),
    "motion_blur": (blur.motion_blur, "blur", "motion along a line"),
    "zoom_blur": (blur.zoom_blur, "blur", "motion towards the subject"),
    "gaussian_blur": (blur.gaussian_blur, "blur", "lost sharpness"),
    "brightness_up": (tone.brightness, "exposure", "brighter"),
    "brightness_down": (tone.brightness, "exposure", "darker"),
    "contrast_up": (tone.contrast, "exposure", "more contrast"),
    "contrast_down": (tone.contrast, "exposure", "less contrast"),
    "saturate": (tone.saturate, "colour", "stronger colours, as of a strong stain"),
    "gamma_corr_up": (tone.gamma, "exposure", "darker tones"),
    "gamma_corr_down": (tone.gamma, "exposure", "brighter tones"),
    "stain_deposit": (deposits.stain_deposit, "deposit", "black deposits of a stain"),
    "bubble": (deposits.bubble, "deposit", "air bubbles under the glass"),
    "black_corner": (deposits.black_corner, "deposit", "the rim of a dermatoscope"),
    "characters": (deposits.characters, "deposit", "characters burnt in"),
}

_MEDIMETA_C: dict[str, tuple[Function, str, str]] = {
    "gaussian_noise": (grain.gaussian_noise, "sensor noise", "noise of the detector"),
    "impulse_noise": (grain.impulse_noise, "sensor noise", "single values lost: salt and pepper"),
    "shot_noise": (grain.shot_noise, "sensor noise", "few photons, as with a low dose"),
    "motion_blur": (blur.motion_blur, "blur", "motion along a line"),
    "zoom_blur": (blur.zoom_blur, "blur", "motion towards the subject"),
    "defocus_blur": (blur.defocus_blur, "blur", "out of focus"),
    "glass_blur": (blur.glass_blur, "blur", "frosted glass"),
    "pixelate": (storage.pixelate, "compression", "low resolution"),
    "snow": (weather.snow, "weather", "snow that falls"),
    "frost": (weather.frost, "weather", "crystals of ice over the image"),
    "fog": (weather.fog, "weather", "fog"),
    "brightness": (tone.value, "exposure", "brighter"),
    "contrast": (tone.channel_contrast, "exposure", "less contrast"),
}


def _load(file: str) -> dict[str, dict[str, Any]]:
    import yaml

    return yaml.safe_load((files("imc_agents.noise.image") / file).read_text(encoding="utf-8"))


def _strengths(rows: list[Any]) -> tuple[Strength, ...]:
    return tuple(tuple(cast("list[float]", row)) if isinstance(row, list) else row for row in rows)


def _by_set(published: dict[str, list[Any]]) -> dict[str, tuple[Strength, ...]]:
    """Strengths by medmnist name; the three organ sets share theirs."""
    return {
        name: _strengths(rows)
        for group, rows in published.items()
        for name in (_ORGANS if group == "organ" else (group,))
    }


def _noisy(
    image: NDArray[np.uint8],
    severity: int,
    *,
    seed: int,
    sample_id: str,
    dataset: str,
    name: str,
    function: Function,
    strengths: tuple[Strength, ...],
) -> NDArray[np.uint8]:
    check_image(image, severity, seed)
    random = generator(dataset, sample_id, name, seed)
    return grey_once(image, lambda pixels: function(pixels, strengths[severity - 1], random))


def _noisy_by_set(
    image: NDArray[np.uint8],
    severity: int,
    *,
    dataset: str,
    table: str | None = None,
    name: str,
    tables: dict[str, tuple[Strength, ...]],
    sets: frozenset[str],
    **rest: Any,
) -> NDArray[np.uint8]:
    chosen = dataset if table is None else table
    if chosen not in tables:
        known = ", ".join(tables)
        if chosen in sets:
            raise UsageError(f"MedMNIST-C has no {name} of {chosen}; it has that of {known}")
        if table is None:
            raise UsageError(f"the strengths of {name} depend on the data set; give table, one of {known}")
        raise UsageError(f"unknown table {table!r} of {name}{nearest(table, list(tables))}; known: {known}")
    return _noisy(image, severity, dataset=dataset, name=name, strengths=tables[chosen], **rest)


def _medmnist_c() -> tuple[NoiseSpec, ...]:
    loaded = _load("medmnist_c.yaml")
    by_name = {name: _by_set(loaded[name]["tables"]) for name in _MEDMNIST_C}
    sets = frozenset(found for tables in by_name.values() for found in tables)
    return tuple(
        NoiseSpec(
            name=name,
            modality="image",
            description=description,
            per=loaded[name]["per"],
            strengths=(),
            apply=partial(
                _noisy_by_set, name=f"medmnist-c/{name}", function=function, tables=by_name[name], sets=sets
            ),
            family=family,
            suite="medmnist-c",
            tables=by_name[name],
        )
        for name, (function, family, description) in _MEDMNIST_C.items()
    )


def _medimeta_c() -> tuple[NoiseSpec, ...]:
    loaded = _load("medimeta_c.yaml")
    strengths = {name: _strengths(loaded[name]["strengths"]) for name in _MEDIMETA_C}
    return tuple(
        NoiseSpec(
            name=name,
            modality="image",
            description=description,
            per=loaded[name]["per"],
            strengths=strengths[name],
            apply=partial(_noisy, name=f"medimeta-c/{name}", function=function, strengths=strengths[name]),
            family=family,
            suite="medimeta-c",
        )
        for name, (function, family, description) in _MEDIMETA_C.items()
    )


SUITE_NOISES: tuple[NoiseSpec, ...] = (*_medmnist_c(), *_medimeta_c())
