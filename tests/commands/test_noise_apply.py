"""``imc noise apply`` on real images: files, folders and npz stacks in, noisy copies of the same shape out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

import cli
from imc_agents.data.sets.formats import Selection
from imc_agents.data.sets.medimeta_c import FORMAT as MEDIMETA_C
from imc_agents.data.sets.medmnist_c import FORMAT as MEDMNIST_C
from imc_agents.errors import UsageError
from imc_agents.noise.image import apply_image_noise
from imc_agents.noise.pool import open_workers
from imc_agents.vision.reading import read_image
from imc_agents.vision.variants import at_encoder_size

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("IMC_SHARED", str(ROOT.parent / "shared"))) / "data"
XRAYS = DATA / "vqa_rad" / "images"
PNEUMONIA = DATA / "pneumoniamnist" / "pneumoniamnist.npz"

pytestmark = pytest.mark.skipif(
    not (XRAYS.is_dir() and PNEUMONIA.is_file()), reason="IMC_SHARED has no VQA-RAD and PneumoniaMNIST"
)

Run = Callable[..., list[str]]


@pytest.fixture
def apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``imc noise apply`` in an empty folder; the lines of stdout, or of stderr where it fails."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> list[str]:
        assert cli.run(["noise", "apply", *arguments]) == code, capsys.readouterr()
        captured = capsys.readouterr()
        return (captured.err if code else captured.out).splitlines()

    return run


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A folder as people have them: small X-rays in two places, a grey PNG, a GIF, a DICOM file, and a table."""
    folder = tmp_path / "ward"
    (folder / "ct" / "head").mkdir(parents=True)
    for number, path in enumerate(sorted(XRAYS.iterdir())[:3]):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((96, 80))
        small.save(folder / ("ct/head" if number else ".") / f"{path.stem}.png")
    small.convert("L").save(folder / "grey.png")
    small.convert("P").save(folder / "old.gif")
    small.save(folder / "photo.jpg", quality=95)
    shutil.copy(str(get_testdata_file("CT_small.dcm", download=False)), folder / "scan.dcm")
    (folder / "labels.csv").write_text("image,label\ngrey.png,1\n")
    return folder


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """The first images of PneumoniaMNIST, in its layout."""
    path = tmp_path / "few.npz"
    with np.load(PNEUMONIA, allow_pickle=False) as whole:
        np.savez_compressed(path, **{key: whole[key][: 30 if "train" in key else 12] for key in whole})
    return path


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored}


def test_a_file_becomes_what_the_function_makes_of_it(apply: Run) -> None:
    source = sorted(XRAYS.iterdir())[0]
    (line,) = apply(
        "gaussian", str(source), "out/noisy.png", "--severity", "3", "--seed", "7", "--dataset", "d"
    )
    row = json.loads(line)
    assert (row["noises"], row["severities"], row["samples"], row["problems"]) == (["gaussian"], [3], 1, 0)
    clean = np.asarray(read_image(source))
    expected = apply_image_noise(clean, "gaussian", 3, seed=7, sample_id=source.name, dataset="d")
    assert np.array_equal(pixels(Path("out/noisy.png")), expected)
    assert not np.array_equal(expected, clean)


def test_a_folder_keeps_its_structure_and_names(apply: Run, ward: Path) -> None:
    apply("shot", "ward", "out", "--severity", "4", "--workers", "1")
    images = {name for name in tree(ward) if name != "labels.csv"}
    others = {"old.gif", "scan.dcm"}
    assert set(tree(Path("out"))) == images - others | {f"{name}.png" for name in others}
    for name in images - others - {"photo.jpg"}:
        clean = pixels(ward / name)
        noisy = pixels(Path("out") / name)
        assert (noisy.shape, noisy.dtype) == (clean.shape, clean.dtype), "grey images stay single-channel"
        assert np.array_equal(noisy, apply_image_noise(clean, "shot", 4, sample_id=name)), (
            "the path is the id"
        )
    scan = np.asarray(read_image(ward / "scan.dcm"))[..., 0]
    assert np.array_equal(
        pixels(Path("out/scan.dcm.png")), apply_image_noise(scan, "shot", 4, sample_id="scan.dcm")
    )
    clean = np.asarray(read_image(ward / "photo.jpg"))
    expected = apply_image_noise(clean, "shot", 4, sample_id="photo.jpg").astype(float)
    assert np.abs(pixels(Path("out/photo.jpg")) - expected).mean() < 1.5, "JPEG adds next to nothing"


def test_images_are_brought_to_a_size_before_the_noise(apply: Run) -> None:
    source = sorted(XRAYS.iterdir())[1]
    apply("pixelate", str(source), "noisy.png", "--severity", "5", "--size", "64")
    noisy = pixels(Path("noisy.png"))
    assert min(noisy.shape[:2]) == 64
    clean = np.asarray(at_encoder_size(read_image(source), 64))
    assert np.array_equal(noisy, apply_image_noise(clean, "pixelate", 5, sample_id=source.name))


def test_files_that_are_no_images_are_told(ward: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["noise", "apply", "jpeg", str(ward), str(ward.parent / "out"), "-s", "2", "-j", "1"]) == 0
    assert "skipped, no images by their names (1): labels.csv" in capsys.readouterr().err


def test_workers_change_nothing(apply: Run, ward: Path, stack: Path) -> None:
    for name, source in (("gaussian,motion", "ward"), ("shot", "few.npz")):
        for workers in ("1", "2"):
            apply(name, source, f"{source}-{workers}", "--severity", "1,5", "--workers", workers)
        one, two = tree(Path(f"{source}-1")), tree(Path(f"{source}-2"))
        assert one == two
        assert len(one) >= 2
    assert "motion/severity_5/ct/head" in " ".join(tree(Path("ward-1")))


def test_a_damaged_image_costs_its_own_copies_only(apply: Run, ward: Path) -> None:
    whole = (ward / "grey.png").read_bytes()
    (ward / "grey.png").write_bytes(whole[: len(whole) // 2])
    lines = apply("exposure", "ward", "out", "--severity", "all", "--workers", "1", code=3)
    (problem,) = [line for line in lines if line.startswith("imc: error:")]
    assert "grey.png" in problem
    assert "damaged" in problem
    assert len(tree(Path("out"))) == 6 * 5
    assert not [name for name in tree(Path("out")) if "grey" in name or "partial" in name]


def test_a_stack_keeps_its_keys_and_labels(apply: Run, stack: Path) -> None:
    apply("gaussian", "few.npz", "noisy.npz", "--severity", "2", "--workers", "1")
    clean, noisy = load(stack), load(Path("noisy.npz"))
    assert list(clean) == list(noisy)
    for key, array in clean.items():
        assert (noisy[key].shape, noisy[key].dtype) == (array.shape, array.dtype)
        assert np.array_equal(noisy[key], array) == key.endswith("_labels")
    expected = apply_image_noise(clean["val_images"][5], "gaussian", 2, sample_id="val/5")
    assert np.array_equal(noisy["val_images"][5], expected)


def test_splits_that_are_not_chosen_are_carried_through(apply: Run, stack: Path) -> None:
    apply("gaussian", "few.npz", "noisy.npz", "--severity", "2", "--split", "test", "--workers", "1")
    clean, noisy = load(stack), load(Path("noisy.npz"))
    changed = {key for key in clean if not np.array_equal(clean[key], noisy[key])}
    assert changed == {"test_images"}


def test_colour_stacks_stay_in_colour(apply: Run, tmp_path: Path) -> None:
    image = np.asarray(read_image(sorted(XRAYS.iterdir())[0]).resize((32, 24)))
    images = np.stack([image, 255 - image])
    np.savez(tmp_path / "colour.npz", test_images=images, test_labels=np.array([[0], [1]], np.uint8))
    apply("jpeg", "colour.npz", "out", "--severity", "1,4", "--workers", "1")
    noisy = load(Path("out/severity_4/colour.npz"))["test_images"]
    assert noisy.shape == (2, 24, 32, 3)
    assert np.array_equal(noisy[1], apply_image_noise(images[1], "jpeg", 4, sample_id="test/1"))


def test_medmnist_c_files_are_those_that_its_reader_expects(apply: Run, stack: Path) -> None:
    apply("medmnist-c", "few.npz", "pneumoniamnist", "--table", "pneumoniamnist", "--workers", "1")
    names = {path.stem for path in Path("pneumoniamnist").iterdir()}
    assert {"gaussian_noise", "gamma_corr_up", "speckle_noise"} <= names
    assert "stain_deposit" not in names, "the set has no such corruption"
    held = load(Path("pneumoniamnist/pixelate.npz"))
    clean = load(stack)
    assert list(held) == ["test_images", "test_labels"]
    assert held["test_images"].shape == (60, 28, 28)
    assert np.array_equal(held["test_labels"], np.concatenate([clean["test_labels"]] * 5))
    harshest = MEDMNIST_C.open(Path("pneumoniamnist"), Selection("test", "pixelate", 5))
    expected = apply_image_noise(
        clean["test_images"][3], "medmnist-c/pixelate", 5, sample_id="test/3", table="pneumoniamnist"
    )
    assert np.array_equal(harshest.images[3], expected)


def test_medimeta_c_files_are_those_that_its_reader_expects(apply: Run, stack: Path) -> None:
    apply("medimeta-c", "few.npz", "pneumonia", "--severity", "1,3", "--split", "test,val", "--workers", "1")
    assert {path.name for path in Path("pneumonia").iterdir()} == {"test", "val"}
    held = load(Path("pneumonia/val/contrast_severity_3.npz"))
    clean = load(stack)
    assert np.array_equal(held["labels"], clean["val_labels"])
    expected = apply_image_noise(clean["val_images"][0], "medimeta-c/contrast", 3, sample_id="val/0")
    assert np.array_equal(held["images"][0], expected)
    found = MEDIMETA_C.open(Path("pneumonia"), Selection("val", "contrast", 3))
    assert np.array_equal(found.images, held["images"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gaussian", "ward", "out", "-s", "0"), "severity 0 is outside 1..5"),
        (("gaussian", "ward", "out", "-s", "6"), "severity 6 is outside 1..5"),
        (("gaussian", "ward", "out", "-s", ""), "--severity '': give 1 to 5"),
        (("gaussian", "ward", "out", "-s", "mild"), "--severity 'mild': give 1 to 5"),
        (("gaussian", "ward", "out"), "give --severity"),
        (("gausian", "ward", "out", "-s", "1"), "did you mean 'gaussian'?"),
        (("typo", "ward", "out", "-s", "1"), "typo is noise of text, and the input is images"),
        (("gaussian", "nowhere", "out", "-s", "1"), "nowhere: there is no such file or folder"),
        (("gaussian", "ward", "ward", "-s", "1"), "ward is the input itself"),
        (("gaussian", "ward", "ward/out", "-s", "1"), "ward/out lies inside the input ward"),
        (("gaussian", "ward/ct", "ward", "-s", "1"), "the input ward/ct lies inside ward"),
        (("gaussian", "ward/ct", "there", "-s", "1"), "there is there already"),
        (("gaussian", "ward/ct", "file", "-s", "1", "--overwrite"), "file is a file, and the output is a folder"),
        (("gaussian", "ward/grey.png", "there", "-s", "1"), "there is a folder, and the output is one file"),
        (("gaussian", "ward/grey.png", "out.dcm", "-s", "1"), "images are written as .png, .jpg"),
        (("gaussian", "ward", "out", "-s", "1", "--split", "test"), "--split is for npz files, and ward is none"),
        (("gaussian", "ward", "out", "-s", "1", "--id-field", "id"), "--id-field is for files of questions"),
        (("gaussian", "few.npz", "out.npz", "-s", "1", "--size", "64"), "--size is for image files"),
        (("gaussian", "ward", "out", "-s", "1", "--table", "octmnist"), "leave it out"),
        (("medmnist-c", "ward", "out"), "name it by --table: "),
        (("medmnist-c", "ward", "out", "--table", "pneumonia"), "did you mean 'pneumoniamnist'?"),
        (("medmnist-c", "few.npz", "out", "-s", "2", "--table", "octmnist"), "hold all five severities"),
        (("gaussian", "few.npz", "out.npz", "-s", "1", "--split", "tests"), "no split 'tests'; did you mean 'test'?"),
        (("gaussian", "few.npz", "out.png", "-s", "1"), "call it out.npz"),
        (("gaussian", "ward/labels.txt", "out", "-s", "1"), "noise is put on .bmp, "),
        (("gaussian", "objects.npz", "out.npz", "-s", "1"), "objects.npz: "),
        (("gaussian", "labels.npz", "out.npz", "-s", "1"), "no array is called *_images"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_write_nothing(
    apply: Run, ward: Path, stack: Path, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept").touch()
    (tmp_path / "file").touch()
    (ward / "labels.txt").touch()
    np.savez(tmp_path / "objects.npz", test_images=np.array([{}], object))
    np.savez(tmp_path / "labels.npz", test_labels=np.zeros((3, 1), np.uint8))
    before = tree(tmp_path)
    (line,) = apply(*arguments, code=2)
    assert line.startswith("imc: error: ")
    assert told in line
    assert tree(tmp_path) == before


def test_overwrite_replaces_its_files_and_leaves_others(apply: Run, ward: Path) -> None:
    Path("out").mkdir()
    Path("out/kept.txt").write_text("mine")
    Path("out/grey.png").write_bytes(b"old")
    apply("jpeg", "ward", "out", "--severity", "1", "--overwrite", "--workers", "1")
    assert Path("out/kept.txt").read_text() == "mine"
    assert pixels(Path("out/grey.png")).shape == (80, 96)


def test_a_truncated_stack_leaves_no_output(apply: Run, stack: Path) -> None:
    content = bytearray(stack.read_bytes())
    content[len(content) // 2] ^= 0xFF
    stack.write_bytes(content)
    (line,) = apply("gaussian", "few.npz", "out.npz", "--severity", "1", "--workers", "1", code=2)
    assert "few.npz" in line
    assert "damaged" in line
    assert {path.name for path in Path().iterdir()} == {"few.npz"}


def test_ctrl_c_leaves_whole_files_and_no_process(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for path in sorted(XRAYS.iterdir())[:60]:
        (tmp_path / "in" / path.name).symlink_to(path)
    out = tmp_path / "out"
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "noise",
        "apply",
        "gaussian,motion",
        str(tmp_path / "in"),
    ]
    command += [str(out), "--severity", "all", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        until = time.monotonic() + 60
        while not any(out.glob("*/*/*.jpg")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait(60) == 130
    assert told.strip() == f"interrupted; files in {out} are whole, --overwrite starts again"
    files = [path for path in out.rglob("*") if path.is_file()]
    assert 0 < len(files) < 60 * 10
    assert all(path.suffix == ".jpg" for path in files), "nothing half-written lies about"
    for path in files[-5:]:
        pixels(path)
    assert nobody_left(process.pid)


def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal, time\n"
        "from imc_agents.noise.pool import open_workers\n"
        "if __name__ == '__main__':\n"
        "    with open_workers(2) as workers:\n"
        "        print(next(workers.in_order(os.path.basename, ['a/b'] * 3)), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "parent.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], env=environment, start_new_session=True
    ) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert nobody_left(process.pid)


def nobody_left(group: int) -> bool:
    """Whether all processes of a group end soon."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        alive = 0
        for process in psutil.process_iter(["status"]):
            with suppress(ProcessLookupError):
                alive += os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE
        if not alive:
            return True
        time.sleep(0.05)
    return False


def test_results_come_in_order_whatever_they_take() -> None:
    with open_workers(2) as workers:
        assert list(workers.in_order(slow_square, range(40))) == [number**2 for number in range(40)]


def test_a_worker_that_dies_is_one_clear_line() -> None:
    with open_workers(2) as workers, pytest.raises(UsageError, match="a worker process was killed"):
        list(workers.in_order(os._exit, range(3)))


def slow_square(number: int) -> int:
    time.sleep(0.02 if number % 7 == 0 else 0)
    return number**2
