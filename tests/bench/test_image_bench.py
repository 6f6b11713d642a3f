"""The small CLIP model of the examples, made in a few steps on few images, and a small run of the image benchmark."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imc_agents.bench.image import Cell, Recognition
from imc_agents.bench.image_summary import summarise_images
from imc_agents.vision.encoders.specs import load_encoder

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("IMC_SHARED", ROOT.parent / "shared"))
DATA = SHARED / "data"
needs_data = pytest.mark.skipif(
    not (DATA / "pneumoniamnist").is_dir() or not (DATA / "vqa_rad").is_dir(), reason=f"needs {DATA}"
)


def script(data: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/small_clip.py", str(out), "--data", str(data), "--epochs", "1"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the shared one, with few images."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "models" / "tinymed").mkdir(parents=True)
    held_out = SHARED / "models" / "tinymed" / "heldout_images.json"
    shutil.copy(held_out, folder / "models" / "tinymed")
    (folder / "data" / "pneumoniamnist").mkdir(parents=True)
    with np.load(DATA / "pneumoniamnist" / "pneumoniamnist.npz", allow_pickle=False) as stored:
        few = {name: stored[name][:32] for name in stored.files}
    np.savez(folder / "data" / "pneumoniamnist" / "pneumoniamnist.npz", **few)
    names = set(json.loads(held_out.read_text()))
    (folder / "data" / "vqa_rad" / "images").mkdir(parents=True)
    left = {True: 8, False: 32}
    chosen: set[str] = set()
    for path in sorted((DATA / "vqa_rad" / "images").glob("*.jpg")):
        if left[path.name in names]:
            left[path.name in names] -= 1
            chosen.add(path.name)
            shutil.copy(path, folder / "data" / "vqa_rad" / "images")
    for name in ("trainset.json", "testset.json"):
        rows = json.loads((DATA / "vqa_rad" / name).read_text(encoding="utf-8"))
        kept = [row for row in rows if row["image_name"] in chosen]
        (folder / "data" / "vqa_rad" / name).write_text(json.dumps(kept), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def clip(shared: Path) -> Path:
    done = script(shared / "data", shared / "clip")
    assert done.returncode == 0, done.stderr
    assert "pneumonia test" in done.stdout
    return shared / "clip"


@pytest.mark.slow
@needs_data
def test_the_small_clip_model_is_an_encoder_and_is_made_once(shared: Path, clip: Path) -> None:
    encoder = load_encoder(f"open_clip:{clip}")
    images = [
        Image.open(path).convert("RGB") for path in sorted((shared / "data/vqa_rad/images").iterdir())[:3]
    ]
    encoded = encoder.encode(encoder.preprocess(images))
    assert (encoded.tokens.counts, encoded.grids[0]) == ((65, 65, 65), (8, 8))
    embeddings = torch.nn.functional.normalize(encoder.pool(encoded.tokens), dim=1)
    assert embeddings.shape == (3, 128)
    assert float((embeddings[0] @ embeddings[1:].T).max()) < 1 - 1e-6
    weights = clip / "open_clip_model.safetensors"
    before = weights.stat().st_mtime_ns
    again = script(shared / "data", clip)
    assert (again.returncode, again.stdout) == (0, f"{clip} holds this model already\n")
    assert weights.stat().st_mtime_ns == before


@pytest.mark.slow
@needs_data
def test_a_small_run_tells_recognition_and_accuracy(shared: Path, clip: Path, tmp_path: Path) -> None:
    command = ["bench", "image", "--encoder", f"open_clip:{clip}", "--data", str(shared / "data")]
    done = subprocess.run(
        [sys.executable, "cli.py", *command, "--seeds", "1", "--bank-images", "20", "--test-images", "2",
         "-o", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "IMC_SHARED": str(shared)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    stored = json.loads((tmp_path / "out" / "image.json").read_text())
    assert figures == {key: stored[key] for key in figures}
    assert set(figures["tasks"]) == {"PneumoniaMNIST", "VQA-RAD organ"} == set(figures["recognition_by_task"])
    noises = set(figures["recognition"]["exact"])
    assert {"gaussian", "jpeg", "exposure"} <= noises
    accuracy = figures["tasks"]["VQA-RAD organ"]["accuracy"]
    assert {"none", "recentre", "median", "nlm", "bilateral", "auto", "shift", "coral"} <= set(accuracy)
    assert all(0 <= value <= 100 for row in accuracy.values() for value in row.values())
    for row in stored["found"]:
        assert sum(row["found"].values()) == row["images"] == 2
    assert {(row["noise"], row["severity"]) for row in stored["found"]} == {
        ("clean", 0),
        *((noise, severity) for noise in noises for severity in range(1, 6)),
    }


def cell(noise: str, severity: int, method: str, correct: int) -> Cell:
    return Cell(0, "task", noise, severity, method, correct, 100)


def test_what_is_won_back_counts_costly_noise_at_high_severity() -> None:
    right = {"none": {"a": 80, "b": 89}, "auto": {"a": 85, "b": 88}}
    cells = [
        *(cell("clean", 0, method, 90) for method in right),
        *(cell(noise, severity, method, found[noise]) for method, found in right.items() for noise in found
          for severity in (3, 4, 5)),
        cell("a", 1, "none", 10),
    ]  # fmt: skip
    seen = [
        Recognition(0, "task", "clean", 0, {"clean": 99, "a": 1}, 99, 100, 100),
        Recognition(0, "task", "a", 4, {"a": 60, "b": 30, "clean": 10}, 90, 80, 100),
        Recognition(0, "task", "a", 1, {"clean": 100}, 0, 100, 100),
        Recognition(0, "task", "b", 5, {"b": 100}, 100, 100, 100),
    ]
    figures = summarise_images(cells, seen)
    found = figures["tasks"]["task"]
    assert found["costly"] == ["a"]
    assert (found["won_back"]["auto"], found["worst_change"]["auto"]) == (
        pytest.approx(50),
        pytest.approx(-1),
    )
    recognised = figures["recognition"]
    assert (recognised["mean_exact"], recognised["mean_family"], recognised["clean"]) == (80, 95, 99)
    assert recognised["severity_within_one"] == pytest.approx(100 * 280 / 300)
