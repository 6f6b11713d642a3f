"""What a user's NAME and --severity come to: which noises at which severities, and where the copies lie."""

from __future__ import annotations

import pytest

from imc_agents.errors import UsageError
from imc_agents.noise.recipe import make_recipe, parse_severities


def folders(name: str, severities: str, table: str | None = None) -> list[str]:
    recipe = make_recipe(name, parse_severities(severities), "image", table=table)
    return [step.folder for step in recipe.steps]


@pytest.mark.parametrize(
    ("name", "severities", "expected"),
    [
        ("gaussian", "3", [""]),
        ("gaussian", "5,1", ["severity_1", "severity_5"]),
        ("shot, jpeg", "2", ["shot/severity_2", "jpeg/severity_2"]),
        ("gaussian,imc-11/gaussian", "2,2", [""]),
        ("medimeta-c/fog,jpeg", "1", ["medimeta-c/fog/severity_1", "jpeg/severity_1"]),
    ],
)
def test_copies_lie_where_their_name_says(name: str, severities: str, expected: list[str]) -> None:
    assert folders(name, severities) == expected


def test_a_suite_has_its_names_without_its_own() -> None:
    assert folders("imc-11", "all")[:2] == ["gaussian/severity_1", "gaussian/severity_2"]
    assert len(folders("imc-11", "all")) == 6 * 5
    derma, oct_ = (set(folders("medmnist-c", "4", table)) for table in ("dermamnist", "octmnist"))
    assert "characters/severity_4" in derma - oct_
    assert "motion_blur/severity_4" in derma & oct_


def test_the_data_set_may_name_the_table() -> None:
    step = make_recipe("medmnist-c/gaussian_noise", (1,), "image", dataset="dermamnist").steps[0]
    assert step.noise == "medmnist-c/gaussian_noise"
    with pytest.raises(UsageError, match="dermamnist"):
        make_recipe("medmnist-c/gaussian_noise", (1,), "image", dataset="my-skin")


@pytest.mark.parametrize("text", ["", "0", "6", "1,,2", "-1", "1.5", "ALL", "1 2"])
def test_severities_outside_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="severity"):
        parse_severities(text)
