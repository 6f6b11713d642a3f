"""The image noises: what they do to pixels, and that nothing but the image's own id decides on the draw."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imc_agents.errors import UsageError
from imc_agents.noise.image import IMAGE_NOISES, apply_image_noise

NAMES = [spec.name for spec in IMAGE_NOISES]


def phantom(height: int = 96, width: int = 128) -> Any:
    """A drawn slice: an ellipse with structure in it, on black."""
    y, x = np.mgrid[0:height, 0:width]
    inside = ((x - width / 2) / (0.4 * width)) ** 2 + ((y - height / 2) / (0.42 * height)) ** 2 < 1
    texture = 120 + 40 * np.sin(x / 5) * np.cos(y / 7) + 30 * ((x // 9 + y // 11) % 2)
    return np.where(inside, texture, 0).astype(np.uint8)


def test_the_six_noises_of_the_benchmark_are_there() -> None:
    assert NAMES == ["gaussian", "shot", "motion", "jpeg", "pixelate", "exposure"]
    assert {spec.family for spec in IMAGE_NOISES} == {"sensor noise", "blur", "compression", "exposure"}


@pytest.mark.parametrize("name", NAMES)
def test_harsher_severities_are_farther_from_the_image(name: str) -> None:
    image = phantom()
    far = [
        float(np.square(apply_image_noise(image, name, severity, sample_id="a").astype(float) - image).mean())
        for severity in range(1, 6)
    ]
    assert far[0] > 0
    # Severities 1 and 2 of motion have the same sigma and differ in a tail of the kernel only.
    assert all(harsher > 0.99 * milder for milder, harsher in pairwise(far))
    assert far[0] < far[2] < far[4]


@pytest.mark.parametrize("name", NAMES)
def test_the_draw_depends_on_the_id_and_the_seed_alone(name: str) -> None:
    image = phantom()
    first = apply_image_noise(image, name, 3, sample_id="a", seed=1)
    apply_image_noise(image, name, 5, sample_id="b", seed=1)
    assert np.array_equal(first, apply_image_noise(image, name, 3, sample_id="a", seed=1))
    if name in ("gaussian", "shot", "motion"):
        assert not np.array_equal(first, apply_image_noise(image, name, 3, sample_id="b", seed=1))
        assert not np.array_equal(first, apply_image_noise(image, name, 3, sample_id="a", seed=2))
        assert not np.array_equal(
            first, apply_image_noise(image, name, 3, sample_id="a", seed=1, dataset="d")
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (61, 240), (300, 37)])
def test_size_and_channels_stay(name: str, size: tuple[int, int]) -> None:
    grey = np.resize(phantom(), size)
    colour = np.stack([grey, grey // 2, 255 - grey], 2)
    for image in (grey, colour):
        for severity in (1, 5):
            noisy = apply_image_noise(image, name, severity, sample_id="a")
            assert noisy.shape == image.shape
            assert noisy.dtype == np.uint8


@pytest.mark.parametrize("name", NAMES)
def test_a_grey_image_in_colour_stays_grey(name: str) -> None:
    grey = phantom()
    noisy = apply_image_noise(np.stack([grey] * 3, 2), name, 4, sample_id="a")
    assert np.array_equal(noisy[..., 0], apply_image_noise(grey, name, 4, sample_id="a"))
    assert np.array_equal(noisy[..., 0], noisy[..., 1])
    assert np.array_equal(noisy[..., 0], noisy[..., 2])


def test_gaussian_has_the_published_deviation_and_shares_its_draws() -> None:
    grey = np.full((200, 200), 128, np.uint8)
    mild, harsh = (apply_image_noise(grey, "gaussian", s, sample_id="a").astype(float) - 128 for s in (1, 3))
    assert mild.std() / 255 == pytest.approx(0.04, rel=0.02)
    assert harsh.std() / 255 == pytest.approx(0.12, rel=0.02)
    assert np.corrcoef(mild.ravel(), harsh.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (3, 18)])
def test_shot_counts_photons(severity: int, photons: int) -> None:
    for level in (16, 48, 96):
        noisy = apply_image_noise(np.full((300, 300), level, np.uint8), "shot", severity, sample_id="a") / 255
        assert noisy.mean() == pytest.approx(level / 255, rel=0.02)
        assert noisy.var() == pytest.approx(level / 255 / photons, rel=0.06)
    black = np.zeros((8, 8), np.uint8)
    assert np.array_equal(apply_image_noise(black, "shot", 5, sample_id="a"), black)


def test_jpeg_is_what_pillow_writes() -> None:
    image = phantom()
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=15)
    assert np.array_equal(apply_image_noise(image, "jpeg", 3), np.asarray(Image.open(stored)))


def test_pixelate_leaves_boxes() -> None:
    noisy = apply_image_noise(phantom(96, 128), "pixelate", 3)
    assert np.array_equal(noisy[::2, ::2], noisy[1::2, 1::2])


def test_motion_blurs_along_a_line_near_the_horizontal_and_keeps_the_brightness() -> None:
    dot = np.zeros((224, 224), np.uint8)
    dot[112, 112] = 255
    for name in "abcdef":
        ys, xs = np.nonzero(apply_image_noise(dot, "motion", 1, sample_id=name))
        assert np.ptp(xs) >= np.ptp(ys) - 1
        assert np.hypot(np.ptp(xs), np.ptp(ys)) > 6
    image = phantom()
    assert apply_image_noise(image, "motion", 5, sample_id="a").mean() == pytest.approx(
        image.mean(), rel=0.05
    )


def test_motion_is_relative_to_the_size_of_the_image() -> None:
    small = phantom(112, 112)
    large = np.asarray(Image.fromarray(small).resize((448, 448), Image.Resampling.BICUBIC))
    blurred = Image.fromarray(apply_image_noise(large, "motion", 4, sample_id="a")).resize((112, 112))
    difference = np.asarray(blurred).astype(float) - apply_image_noise(small, "motion", 4, sample_id="a")
    assert np.abs(difference).mean() < 0.15 * np.abs(np.asarray(blurred).astype(float) - small).mean()


def test_exposure_darkens_or_brightens_by_gamma() -> None:
    image = phantom()
    under = apply_image_noise(image, "exposure", 5, variant="under")
    over = apply_image_noise(image, "exposure", 5, variant="over")
    assert under.mean() < image.mean() < over.mean()
    assert np.array_equal(under, np.round((image / 255.0) ** 1.6 * 255).astype(np.uint8))
    drawn = {apply_image_noise(image, "exposure", 5, sample_id=str(i)).tobytes() for i in range(20)}
    assert drawn == {under.tobytes(), over.tobytes()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "gausian"}, "did you mean 'gaussian'"),
        ({"kind": "typo"}, "unknown image noise 'typo'"),
        ({"severity": 6}, "outside 1..5"),
        ({"seed": -1}, "negative"),
        ({"variant": "over"}, "has no variants"),
        ({"kind": "exposure", "variant": "ovr"}, "did you mean 'over'"),
        ({"image": np.zeros((4, 4), np.float32)}, "uint8"),
        ({"image": np.zeros((4, 4, 4), np.uint8)}, "uint8"),
        ({"image": np.zeros((0, 4), np.uint8)}, "no pixels"),
    ],
)
def test_what_cannot_work_is_named(change: dict[str, Any], words: str) -> None:
    arguments = {"image": phantom(), "kind": "gaussian", "severity": 3} | change
    with pytest.raises(UsageError, match=words):
        apply_image_noise(**arguments)
