"""Our corruptions beside the published ones, whose figures on real images were recorded by ``record_published``."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imc_agents.noise.registry import get_noise, noises
from tests.noise.published import DRAWN, RECORDED, figures, images, sampled

DATA = Path(os.environ.get("IMC_SHARED", Path(__file__).parents[3] / "shared")) / "data"
PUBLISHED = [spec.full_name for suite in ("medmnist-c", "medimeta-c") for spec in noises(suite=suite)]

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}; IMC_SHARED names their folder")


@cache
def recorded() -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {}
    for suite, name, *rest in json.loads(RECORDED.read_text()):
        rows.setdefault(f"{suite}/{name}", []).append(rest)
    return rows


@cache
def pictures() -> dict[str, Any]:
    return images(DATA)


def ours(full_name: str) -> Iterator[tuple[str, Any, list[Any], list[float], str | None]]:
    spec = get_noise(full_name)
    for table, severity, picture, published, values in recorded()[full_name]:
        clean = pictures()[picture]
        options = {"table": table} if table else {}
        noisy = [
            spec.apply(clean, severity, seed=0, sample_id=f"{draw}", dataset="published", **options)
            for draw in range(DRAWN.get(spec.name, 1))
        ]
        yield f"{full_name} {table} {severity} {picture}", clean, noisy, published, values


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.split("/")[1] in DRAWN])
def test_random_ones_have_the_mean_the_variance_and_the_psnr_of_the_published(name: str) -> None:
    for where, clean, noisy, published, _ in ours(name):
        assert figures(clean, noisy) == pytest.approx(published, rel=0.05), where


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.split("/")[1] not in DRAWN])
def test_the_others_are_the_published_ones_within_a_grey_level(name: str) -> None:
    for where, clean, noisy, published, values in ours(name):
        expected = np.frombuffer(base64.b64decode(values or ""), np.uint8).astype(int)
        assert np.abs(sampled(noisy[0]) - expected).mean() <= 1, where
        assert figures(clean, noisy)[:2] == pytest.approx(published[:2], rel=0.02), where


def test_every_published_corruption_was_recorded_at_all_severities() -> None:
    assert set(recorded()) == set(PUBLISHED)
    for rows in recorded().values():
        assert {severity for _, severity, *_ in rows} == {1, 2, 3, 4, 5}
