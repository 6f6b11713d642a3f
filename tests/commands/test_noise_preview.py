"""``imc noise preview``: a sheet on which every cell is the noise that its row and column name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli
from imc_agents.noise.image import apply_image_noise

ROOT = Path(__file__).parents[2]
XRAYS = Path(os.environ.get("IMC_SHARED", str(ROOT.parent / "shared"))) / "data" / "vqa_rad" / "images"

pytestmark = pytest.mark.skipif(not XRAYS.is_dir(), reason="IMC_SHARED has no VQA-RAD")

Run = Callable[..., list[str]]


@pytest.fixture
def preview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``imc noise preview`` on an X-ray of 80 x 64 pixels; the lines of stdout, or of stderr where it fails."""
    monkeypatch.chdir(tmp_path)
    with Image.open(sorted(XRAYS.iterdir())[0]) as image:
        image.convert("RGB").resize((80, 64)).save("xray.png")

    def run(*arguments: str, code: int = 0) -> list[str]:
        assert cli.run(["noise", "preview", "xray.png", *arguments]) == code, capsys.readouterr()
        captured = capsys.readouterr()
        return (captured.err if code else captured.out).splitlines()

    return run


def test_cells_are_what_rows_and_columns_say(preview: Run) -> None:
    (line,) = preview(
        "--noises", "jpeg,shot", "--severity", "2,5", "--size", "80", "--seed", "3", "-o", "sheet.png"
    )
    assert json.loads(line)["noises"] == ["jpeg", "shot"]
    sheet = np.asarray(Image.open("sheet.png"))
    clean = np.asarray(Image.open("xray.png"))
    height, width = 64, 80
    top, left = sheet.shape[0] - 2 * (height + 6), sheet.shape[1] - 3 * (width + 6)
    for row, name in enumerate(("jpeg", "shot")):
        cells = [clean] + [
            apply_image_noise(clean, name, severity, seed=3, sample_id="xray.png") for severity in (2, 5)
        ]
        for column, cell in enumerate(cells):
            y, x = top + row * (height + 6), left + column * (width + 6)
            assert np.array_equal(sheet[y : y + height, x : x + width], cell)
    assert (sheet[:top] < 128).any(), "there is a title, and names of columns"
    assert (sheet[top:, :left] < 128).any(), "there are names of rows"


def test_without_options_the_image_noises_of_the_benchmark(preview: Run) -> None:
    (line,) = preview()
    row = json.loads(line)
    assert row["output"] == "xray.noises.png"
    assert row["noises"] == ["gaussian", "shot", "motion", "jpeg", "pixelate", "exposure"]
    assert row["width"] > 6 * 224


def test_a_suite_shows_the_corruptions_of_a_data_set(preview: Run) -> None:
    (line,) = preview("--suite", "medmnist-c", "--table", "bloodmnist", "--size", "64", "-o", "blood.png")
    names = json.loads(line)["noises"]
    assert {"stain_deposit", "bubble", "saturate"} <= set(names)
    assert "characters" not in names


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-o", "xray.png"), "xray.png is the input itself"),
        (("-o", "there.png"), "add --overwrite"),
        (("-o", "sheet.jpg"), "call it sheet.png"),
        (("--noises", "gausian"), "did you mean 'gaussian'?"),
        (("--noises", "typo"), "typo is noise of text"),
        (("--suite", "medmnist-c"), "name it by --table: "),
        (("--suite", "medimeta-c", "--size", "1024"), "take a smaller --size or fewer --noises"),
        (("--suite", "medmnist"), "did you mean 'medmnist-c'?"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(preview: Run, arguments: tuple[str, ...], told: str) -> None:
    Path("there.png").touch()
    (line,) = preview(*arguments, code=2)
    assert told in line
    assert {path.name for path in Path().iterdir()} == {"xray.png", "there.png"}
