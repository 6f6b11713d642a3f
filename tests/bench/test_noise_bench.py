"""``imc bench noise``: times of ours alone, and beside published packages in another Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import cli
from imc_agents.noise.registry import noises

STUB = """
import numpy as np


def corrupt(image, severity, corruption_name):
    if corruption_name == "fog":
        raise ValueError("no fog today")
    for _ in range(20):
        image = np.sort(image, axis=None).reshape(image.shape)
    return image
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow ``imagecorruptions`` for the other Python, and no ``medmnistc``."""
    folder = tmp_path / "imagecorruptions"
    folder.mkdir()
    (folder / "__init__.py").write_text(STUB)
    (folder / "corruptions.py").write_text("def gaussian(image, sigma, **options): ...\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_every_corruption_of_the_three_suites_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "noise", "--size", "32", "--turns", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    suites = ("imc-11", "medmnist-c", "medimeta-c")
    assert [(row["suite"], row["name"]) for row in rows] == [
        (spec.suite, spec.name) for suite in suites for spec in noises("image", suite)
    ]
    assert all(row["ms"] > 0 and row["published_ms"] is None for row in rows)


@pytest.mark.usefixtures("packages")
def test_the_published_code_takes_turns_and_its_failures_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "noise", "--size", "32", "--turns", "1", "--oracle", sys.executable]) == 0
    rows = {
        (row["suite"], row["name"]): row
        for row in (json.loads(line) for line in capsys.readouterr().out.splitlines())
    }
    snow = rows["medimeta-c", "snow"]
    assert snow["ratio"] == pytest.approx(snow["published_ms"] / snow["ms"])
    assert rows["medimeta-c", "fog"]["error"] == "ValueError: no fog today"
    assert rows["medmnist-c", "bubble"]["error"].startswith("ModuleNotFoundError")
    assert rows["imc-11", "gaussian"]["published_ms"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--oracle", "/nowhere/python"],
            "--oracle /nowhere/python: No such file or directory; name a Python",
        ),
        (["--oracle", "false"], "--oracle false: it ended without an answer"),
        (["--image", "absent.png"], "--image absent.png: cannot be read as an image"),
    ],
)
def test_what_cannot_work_is_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", "noise", "--size", "32", *arguments]) == 2
    assert said in capsys.readouterr().err
