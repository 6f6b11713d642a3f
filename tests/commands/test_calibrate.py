"""``imc prototypes`` and ``imc calibrate`` as a user types them, with the real vision encoder of TinyMed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imc_agents.noise.image import apply_image_noise
from tests.vision.tinymed import arrays, needs_tinymed, scans, vision_checkpoint

pytestmark = needs_tinymed
ROOT = Path(__file__).parents[2]


def imc(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, clean images, one that cannot be read, and the bank that was built from them."""
    folder = tmp_path_factory.mktemp("place")
    vision_checkpoint(folder / "tinymed")
    (folder / "clean" / "sub").mkdir(parents=True)
    for i, path in enumerate(scans(held_out=False)[:60]):
        shutil.copy(path, folder / "clean" / ("sub" if i % 2 else "") / path.name)
    (folder / "clean" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    done = imc(
        "prototypes", "build", "--images", "clean", "--encoder", "mllm:tinymed", "-o", "bank",
        "--noises", "gaussian,exposure", "--dtype", "float32", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "broken.png: no image of a kind that can be read" in done.stderr
    report = json.loads(done.stdout)
    assert (report["images"], report["noises"]) == (60, ["gaussian", "exposure"])
    assert report["missing"] == ["shot", "motion", "jpeg", "pixelate"]
    image = arrays(scans(held_out=True)[:1])[0]
    Image.fromarray(image).save(folder / "clean.png")
    Image.fromarray(apply_image_noise(image, "gaussian", 5, sample_id="x")).save(folder / "noisy.png")
    return folder


def test_images_are_named_corrected_and_drawn(place: Path) -> None:
    done = imc("calibrate", "noisy.png", "clean.png", "--bank", "bank", "-o", "out", cwd=place)
    assert done.returncode == 0, done.stderr
    noisy, clean = (json.loads(line) for line in done.stdout.splitlines())
    assert (noisy["noise"], noisy["image"]) == ("gaussian", "noisy.png")
    assert noisy["severity"] >= 4
    assert noisy["change"] > 0.05
    assert noisy["operator"] not in ("identity", "auto")
    assert (clean["noise"], clean["operator"], clean["change"]) == ("clean", "identity", 0.0)
    for name in ("noisy", "clean"):
        with Image.open(place / "out" / f"{name}.calibration.png") as picture:
            assert picture.size == (1300, 720)
            assert np.asarray(picture.convert("L")).std() > 20


def test_no_picture_replaces_an_image_or_another_picture(place: Path) -> None:
    (place / "other").mkdir()
    shutil.copy(place / "clean.png", place / "other" / "noisy.png")
    before = (place / "noisy.png").read_bytes()
    done = imc("calibrate", "noisy.png", "other/noisy.png", "--bank", "bank", "-o", ".", cwd=place)
    pictures = [json.loads(line)["picture"] for line in done.stdout.splitlines()]
    assert pictures == ["noisy.calibration.png", "noisy.calibration-2.png"]
    first, second = ((place / picture).read_bytes() for picture in pictures)
    assert first != second
    assert (place / "noisy.png").read_bytes() == before


def test_identity_leaves_the_features(place: Path) -> None:
    done = imc("calibrate", "noisy.png", "--bank", "bank", "--operator", "identity", cwd=place)
    row = json.loads(done.stdout)
    assert (row["noise"], row["operator"], row["change"]) == ("gaussian", "identity", 0.0)


def test_an_image_that_cannot_be_read_does_not_stop_the_others(place: Path) -> None:
    done = imc("calibrate", "gone.png", "clean.png", "--bank", "bank", cwd=place)
    assert done.returncode == 3
    assert done.stderr.startswith("imc: error: gone.png: ")
    assert json.loads(done.stdout)["image"] == "clean.png"


def test_show_tells_what_is_in_a_bank(place: Path) -> None:
    done = imc("prototypes", "show", "bank", cwd=place)
    report = json.loads(done.stdout)
    assert report["held_out"]["confusion"]["gaussian:5"]["gaussian"] >= 54
    assert report["operators"]["gaussian"]["context"] < 1
    assert report["separation"]["clean"] > 0.8


BUILD = ("prototypes", "build", "--encoder", "mllm:tinymed")
CALIBRATE = ("calibrate", "clean.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*CALIBRATE, "--bank", "clean"), "holds no bank"),
        ((*CALIBRATE, "--bank", "bank", "--operator", "contxt"), "did you mean 'context'"),
        ((*CALIBRATE, "--bank", "bank", "--encoder", "mllm:gone"), "gone"),
        ((*CALIBRATE, "--bank", "bank", "--encoder", "tinymed"), "write it as mllm:CHECKPOINT"),
        ((*BUILD, "--images", "gone", "-o", "b"), "gone is no folder"),
        ((*BUILD, "--images", "bank", "-o", "b"), "holds no images"),
        ((*BUILD, "--images", "clean", "-o", "clean.png"), "is a file"),
        ((*BUILD, "--images", "clean", "-o", "b", "--noises", "gausian"), "did you mean 'gaussian'"),
        ((*BUILD, "--images", "clean", "-o", "b", "--encoder", "open_clip:ViT-B-61"), "did you mean"),
    ],
)
def test_what_cannot_work_is_one_line(place: Path, arguments: tuple[str, ...], words: str) -> None:
    done = imc(*arguments, cwd=place)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("left out: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert words in errors[0]
    assert not (place / "b").exists()
