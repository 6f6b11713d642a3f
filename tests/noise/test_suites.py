"""The corruptions of MedMNIST-C and MediMeta-C: what they do to pixels, and what decides on their draws."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from imc_agents.bench.noise_speed import drawn_picture
from imc_agents.errors import UsageError
from imc_agents.noise.image import apply_image_noise
from imc_agents.noise.registry import NoiseSpec, get_noise, noises, table_noises

SUITES = [spec for suite in ("medmnist-c", "medimeta-c") for spec in noises(suite=suite)]
NAMES = [spec.full_name for spec in SUITES]

TABLES = {
    "pathmnist": 11,
    "bloodmnist": 11,
    "dermamnist": 15,
    "retinamnist": 8,
    "tissuemnist": 8,
    "octmnist": 6,
    "breastmnist": 7,
    "chestmnist": 13,
    "pneumoniamnist": 13,
    "organamnist": 13,
    "organcmnist": 13,
    "organsmnist": 13,
}

# Published steps that are not harsher than the one before: the field of view of severity 5 is wider than that of 4,
# glass has 2, 1, 3, 2 and 2 rounds, and the weights of image and frost come closer to 1 in their sum at 4.
NOT_HARSHER = {
    ("medmnist-c/black_corner", "dermamnist", 5),
    ("medimeta-c/glass_blur", None, 2),
    ("medimeta-c/glass_blur", None, 4),
    ("medimeta-c/frost", None, 4),
}


def corrupted(spec: NoiseSpec, image: Any, severity: int, sample_id: str = "a", **options: Any) -> Any:
    table = next(iter(spec.tables), None)
    if table is not None:
        options = {"table": table} | options
    return spec.apply(image, severity, seed=0, sample_id=sample_id, dataset="d", **options)


def test_every_published_pair_of_data_set_and_corruption_is_there() -> None:
    assert [len(noises(suite=suite)) for suite in ("imc-11", "extra", "medmnist-c", "medimeta-c")] == [
        11,
        3,
        21,
        13,
    ]
    assert {table: len(table_noises(table)) for table in TABLES} == TABLES
    assert sum(TABLES.values()) == 131
    for spec in SUITES:
        assert all(len(strengths) == 5 for strengths in spec.tables.values() or [spec.strengths])


def test_noises_without_a_suite_are_those_of_before() -> None:
    assert [spec.name for spec in noises("image")] == [
        "gaussian",
        "shot",
        "motion",
        "jpeg",
        "pixelate",
        "exposure",
    ]
    assert len([spec for spec in noises() if spec.suite == "imc-11"]) == 11


def test_names_may_be_qualified() -> None:
    assert get_noise("imc-11/gaussian") is get_noise("gaussian", "image")
    assert get_noise("medmnist-c/gaussian_noise") is not get_noise("medimeta-c/gaussian_noise")
    assert get_noise("extra/spacing").full_name == "spacing"


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("gaussian_noise", "'medmnist-c/gaussian_noise' or 'medimeta-c/gaussian_noise'"),
        ("medmnist-c/gausian_noise", "'medmnist-c/gaussian_noise'"),
        ("imc-11/motoin", "'imc-11/motion'"),
        ("gausian", "'gaussian'"),
    ],
)
def test_an_unknown_name_is_offered_the_nearest_of_all_suites(name: str, offered: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {offered}"):
        get_noise(name, "image")


def mean_errors(spec: NoiseSpec, image: Any, options: dict[str, Any]) -> list[float]:
    """Mean squared error of severities 1..5, over some draws where few things are drawn."""
    draws = 6 if spec.family in ("deposit", "weather") else 1
    return [
        float(
            np.mean(
                [
                    np.square(
                        corrupted(spec, image, severity, f"{draw}", **options).astype(float) - image
                    ).mean()
                    for draw in range(draws)
                ]
            )
        )
        for severity in range(1, 6)
    ]


@pytest.mark.parametrize("spec", SUITES, ids=NAMES)
def test_severities_grow(spec: NoiseSpec) -> None:
    image = drawn_picture(224)
    distinct = {strengths: table for table, strengths in spec.tables.items()} or {spec.strengths: None}
    for strengths, table in distinct.items():
        errors = mean_errors(spec, image, {"table": table} if table else {})
        for severity, (milder, harsher) in enumerate(pairwise(errors), start=2):
            if (spec.full_name, table, severity) not in NOT_HARSHER:
                assert harsher >= milder * 0.999, (table, severity, strengths, errors)
        assert errors[0] > 0


@pytest.mark.parametrize("spec", SUITES, ids=NAMES)
def test_only_the_image_and_its_id_decide(spec: NoiseSpec) -> None:
    image = drawn_picture(64)
    first = corrupted(spec, image, 4)
    for other in reversed(SUITES):
        corrupted(other, image, 2, "b")
    np.random.seed(1)
    assert np.array_equal(first, corrupted(spec, image, 4))
    assert first.dtype == np.uint8
    assert first is not image


DRAWN = [spec for spec in SUITES if spec.family in ("sensor noise", "weather")] + [
    get_noise(f"medmnist-c/{name}") for name in ("motion_blur", "stain_deposit", "bubble", "characters")
]


@pytest.mark.parametrize("spec", DRAWN, ids=[spec.full_name for spec in DRAWN])
def test_images_and_seeds_draw_for_themselves(spec: NoiseSpec) -> None:
    image = drawn_picture(64)
    table = next(iter(spec.tables), None)
    options = {"table": table} if table else {}
    made = [
        spec.apply(image, 5, seed=seed, sample_id=sample, dataset=dataset, **options).tobytes()
        for seed, sample, dataset in ((0, "a", "d"), (1, "a", "d"), (0, "b", "d"), (0, "a", "e"))
    ]
    assert len(set(made)) == 4


@pytest.mark.parametrize("name", ["medmnist-c/impulse_noise", "medimeta-c/impulse_noise"])
def test_values_lost_at_one_severity_are_lost_at_the_next(name: str) -> None:
    image = np.full((64, 64, 3), 100, np.uint8)
    lost = [corrupted(get_noise(name), image, severity) != image for severity in range(1, 6)]
    assert all((milder <= harsher).all() for milder, harsher in pairwise(lost))


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (40, 301, 3), (640, 480)])
@pytest.mark.parametrize("spec", SUITES, ids=NAMES)
def test_any_size_keeps_its_shape(spec: NoiseSpec, shape: tuple[int, ...]) -> None:
    picture = drawn_picture(max(shape[:2]))[: shape[0], : shape[1]]
    image = picture if len(shape) == 3 else np.ascontiguousarray(picture[..., 0])
    for severity in (1, 5):
        noisy = corrupted(spec, image, severity)
        assert noisy.shape == shape
        assert noisy.dtype == np.uint8
    grey = spec.name == "saturate" and len(shape) == 2
    assert np.array_equal(noisy, image) is grey


def test_tiny_images_do_not_crash() -> None:
    for spec in SUITES:
        for shape in ((1, 1, 3), (2, 5), (3, 3, 3)):
            assert corrupted(spec, np.full(shape, 90, np.uint8), 5).shape == shape


@pytest.mark.parametrize("spec", SUITES, ids=NAMES)
def test_grey_stays_grey_and_is_drawn_once(spec: NoiseSpec) -> None:
    grey = np.ascontiguousarray(drawn_picture(64)[..., 0])
    coloured = corrupted(spec, np.dstack([grey, grey, grey]), 3)
    assert np.array_equal(coloured, np.dstack([corrupted(spec, grey, 3)] * 3))


@pytest.mark.parametrize(
    ("name", "factor"), [("defocus_blur", 2), ("motion_blur", 2), ("bubble", 2), ("stain_deposit", 2)]
)
def test_sizes_in_pixels_grow_with_the_image(name: str, factor: int) -> None:
    """An image twice as large, reduced again, looks as the small one does."""
    import cv2

    spec = get_noise(f"medmnist-c/{name}")
    small = cv2.GaussianBlur(drawn_picture(224), (0, 0), 3)
    large = cv2.resize(small, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    reduced = cv2.resize(corrupted(spec, large, 5), (224, 224), interpolation=cv2.INTER_AREA)
    noisy = corrupted(spec, small, 5)
    apart = np.abs(reduced.astype(float) - noisy).mean()
    assert apart < 0.25 * np.abs(noisy.astype(float) - small).mean()


def test_the_data_set_names_the_table_unless_another_is_asked_for() -> None:
    image = drawn_picture(64)
    spec = get_noise("medmnist-c/brightness_up")
    by_set = spec.apply(image, 1, seed=0, sample_id="a", dataset="tissuemnist")
    assert np.array_equal(by_set, apply_image_noise(image, spec.full_name, 1, table="tissuemnist"))
    other = spec.apply(image, 1, seed=0, sample_id="a", dataset="tissuemnist", table="organsmnist")
    assert not np.array_equal(by_set, other)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("medmnist-c/bubble", {}, "depend on the data set; give table, one of pathmnist, bloodmnist"),
        ("medmnist-c/bubble", {"dataset": "vqa_rad"}, "give table"),
        (
            "medmnist-c/bubble",
            {"table": "chestmnist"},
            "no medmnist-c/bubble of chestmnist; .* pathmnist, bloodmnist",
        ),
        ("medmnist-c/bubble", {"table": "bloodmist"}, "did you mean 'bloodmnist'"),
        ("medmnist-c/bubble", {"table": "pathmnist", "severity": 6}, "severity 6 is outside 1..5"),
        ("medimeta-c/fog", {"seed": -1}, "seed -1 is negative"),
        ("medimeta-c/fog", {"image": np.zeros((4, 4), np.float32)}, "dtype float32"),
        ("medimeta-c/fog", {"image": np.zeros((4, 4, 4), np.uint8)}, r"shape \(4, 4, 4\)"),
        ("medimeta-c/fog", {"image": np.zeros((0, 4), np.uint8)}, "no pixels"),
    ],
)
def test_what_cannot_work_is_told(name: str, options: dict[str, Any], said: str) -> None:
    arguments = {"image": np.zeros((32, 32, 3), np.uint8), "severity": 1, "kind": name} | options
    with pytest.raises(UsageError, match=said):
        apply_image_noise(**arguments)


def test_unknown_suites_and_tables_are_told() -> None:
    with pytest.raises(UsageError, match=r"unknown suite 'medmnistc'; did you mean 'medmnist-c'"):
        noises(suite="medmnistc")
    with pytest.raises(UsageError, match=r"unknown table 'pathmist'; did you mean 'pathmnist'"):
        table_noises("pathmist")
