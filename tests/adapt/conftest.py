"""Tiny models of each kind, drawn images, and an adapter of each, made once a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from imc_agents.adapt.fit import FitPlan, fit, plan_fit
from tests.adapt.tiny import SETTINGS, VISION, draw, quickly, write_model


class Fitted(NamedTuple):
    """An adapter after one epoch, and the model that holds it still."""

    spec: str
    folder: Path
    plan: FitPlan


@pytest.fixture(scope="session", autouse=True)
def _quickly() -> Iterator[None]:
    with quickly():
        yield


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: write_model(folder / kind, kind) for kind in VISION}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("drawn"), {"train": 32, "val": 24, "test": 17})


@pytest.fixture(scope="session")
def fitted(
    specs: dict[str, str], drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Fitted]:
    @cache
    def made(kind: str) -> Fitted:
        folder = tmp_path_factory.mktemp("adapters") / kind
        plan = plan_fit(specs[kind], drawn, None, SETTINGS.model_copy(update={"epochs": 1}))
        fit(plan, folder)
        return Fitted(specs[kind], folder, plan)

    return made
