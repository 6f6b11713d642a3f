"""Images with labels in every layout, questions about them, and arrays that cannot be right."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from imc_agents.data.sets import npz
from imc_agents.data.sets.ask import ask, write_images
from imc_agents.data.sets.published import published
from imc_agents.data.sets.registry import format_at, open_dataset, open_images
from imc_agents.errors import UsageError
from imc_agents.vision.reading import read_image
from tests.data.copies import SHARED, chest, medimeta, medimeta_c, medmnist_c, need_medmnist

pytestmark = need_medmnist


def test_every_image_of_a_split_is_there_with_its_label():
    with np.load(SHARED / "pneumoniamnist/pneumoniamnist.npz") as held:
        for split in ("train", "val", "test"):
            found = open_images(SHARED / "pneumoniamnist", split=split)
            assert np.array_equal(found.images, held[f"{split}_images"])
            assert np.array_equal(found.labels, held[f"{split}_labels"][:, 0])
            assert (found.name, found.classes, found.task) == (
                "pneumoniamnist",
                ("normal", "pneumonia"),
                "binary-class",
            )
    assert open_images(SHARED / "pneumoniamnist").split == "test"
    assert open_images(SHARED / "pneumoniamnist", split="validation").split == "val"


def test_the_published_sets_are_the_twelve_of_medmnist():
    sets = published("medmnist")
    assert len(sets) == 12
    assert sets["chestmnist"].task == "multi-label, binary-class"
    assert len(sets["chestmnist"].classes) == 14
    assert sets["retinamnist"].classes == ("0", "1", "2", "3", "4")
    assert sum(sets["pathmnist"].samples.values()) == 107_180
    assert set(published("medimeta-c")) == {
        *("aml", "fundus", "mammo_calc", "mammo_mass", "oct", "pbc", "pneumonia"),
    }


def test_arrays_that_are_stored_plain_are_mapped_and_others_unpacked(tmp_path, monkeypatch):
    arrays = chest()
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    mapped = open_images(tmp_path / "pneumoniamnist.npz")
    assert isinstance(mapped.images, np.memmap)
    assert np.array_equal(mapped.images, arrays["test_images"])
    monkeypatch.setattr(npz, "MOST_BYTES", 1000)
    assert len(open_images(tmp_path / "pneumoniamnist.npz").images) == 60, "a map needs no memory"
    np.savez_compressed(tmp_path / "pneumoniamnist.npz", **arrays)
    with pytest.raises(UsageError, match=r"test_images needs .* GiB unpacked.*numpy.savez"):
        open_images(tmp_path / "pneumoniamnist.npz")


def test_sizes_of_medmnist_plus_are_part_of_the_name(tmp_path):
    arrays = chest()
    for size, told in ((28, "28x28 pixels in a file of 64"), (64, "")):
        scale = size // 28
        wide = {
            key: np.kron(value, np.ones((1, scale, scale), np.uint8))
            for key, value in arrays.items()
            if "im" in key
        }
        wide = {
            key: value if size == 28 else np.pad(value, ((0, 0), (4, 4), (4, 4)))
            for key, value in wide.items()
        }
        np.savez(tmp_path / "pneumoniamnist_64.npz", **(arrays | wide))
        found = open_images(tmp_path)
        assert (found.name, len(found.classes)) == ("pneumoniamnist", 2)
        assert [problem.what for problem in found.problems if not problem.harmless] == [told] * bool(told)


def breakages():
    """What may be wrong with a file, and what is told."""
    images = np.zeros((60, 28, 28), np.uint8)
    labels = np.zeros((60, 1), np.uint8)
    trap = np.array([print] * 60, dtype=object)
    return [
        ({"test_image": images, "test_labels": labels}, "no array 'test_images'; did you mean 'test_image'"),
        (
            {"test_images": images.astype("float32"), "test_labels": labels},
            "test_images are float32, not uint8",
        ),
        (
            {"test_images": images[:59], "test_labels": labels},
            r"59 test_images but test_labels of shape \[60, 1\]",
        ),
        (
            {"test_images": images, "test_labels": labels.astype("float64")},
            "test_labels are float64, not whole",
        ),
        ({"test_images": trap, "test_labels": labels}, "pickled Python objects, never loaded"),
        ({"test_images": images, "test_labels": trap}, "test_labels holds pickled Python objects"),
        ({"test_images": np.zeros((60, 28, 28, 28), np.uint8), "test_labels": labels}, "are volumes"),
        ({"test_images": np.zeros((60, 28, 28, 4), np.uint8), "test_labels": labels}, r"make it \[N, H, W\]"),
        ({"test_images": images[:0], "test_labels": labels[:0]}, "test_images are empty"),
    ]


@pytest.mark.parametrize(("arrays", "told"), breakages())
def test_arrays_that_cannot_be_used_say_why(tmp_path, arrays, told):
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    with pytest.raises(UsageError, match=told):
        open_images(tmp_path / "breastmnist.npz", "medmnist", "test")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_say_so(tmp_path, compressed):
    file = tmp_path / "pneumoniamnist.npz"
    (np.savez_compressed if compressed else np.savez)(file, **chest())
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"damaged, or no \.npz file"):
        open_images(file, "medmnist", "test")
    if compressed:  # where arrays are mapped, pixels are not checked
        with zipfile.ZipFile(SHARED / "pneumoniamnist/pneumoniamnist.npz") as archive:
            at = archive.getinfo("test_images.npy").header_offset
        spoilt = bytearray((SHARED / "pneumoniamnist/pneumoniamnist.npz").read_bytes())
        spoilt[at + 5000 : at + 9000] = bytes(4000)
        file.write_bytes(spoilt)
        with pytest.raises(UsageError, match=r"damaged, or no \.npz file"):
            open_images(file, split="test")
    file.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(UsageError, match="a Python pickle, which can run code and is never loaded"):
        open_images(file, "medmnist", "test")


def test_labels_out_of_range_are_told_and_the_rest_can_be_used(tmp_path):
    arrays = chest()
    arrays["test_labels"][[3, 17]] = 2
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    found = open_images(tmp_path)
    (problem,) = (problem for problem in found.problems if not problem.harmless)
    assert problem.where == "pneumoniamnist.npz: test_labels"
    assert problem.what.startswith("2 labels are outside 0..1 (rows 3, 17, from 0)")
    np.savez(tmp_path / "pneumoniamnist.npz", **(arrays | {"test_labels": np.zeros((60, 14), np.uint8)}))
    (problem,) = (problem for problem in open_images(tmp_path).problems if not problem.harmless)
    assert problem.what == "shape [60, 14], published with one label an image"


def test_severities_of_medmnist_c_are_cut_out_of_the_stack(tmp_path):
    arrays = chest()
    copy = medmnist_c(tmp_path, arrays)
    assert format_at(copy).name == format_at(copy / "pneumoniamnist").name == "medmnist-c"
    for severity in (1, 3, 5):
        found = open_images(copy, corruption="pixelate", severity=severity)
        assert np.array_equal(found.images, arrays["test_images"] // severity)
        assert np.array_equal(found.labels, arrays["test_labels"][:, 0])
        assert (found.name, found.corruption, len(found.classes)) == ("pneumoniamnist", "pixelate", 2)
    every = open_images(copy / "pneumoniamnist/pixelate.npz", "medmnist-c")
    assert every.severities is not None
    assert every.severities.tolist() == [level for level in range(1, 6) for _ in range(60)]
    with pytest.raises(UsageError, match="name the corruption, one of: gaussian_noise, pixelate"):
        open_images(copy)
    with pytest.raises(UsageError, match="no corruption 'pixelated'; did you mean 'pixelate'"):
        open_images(copy, corruption="pixelated")
    with pytest.raises(UsageError, match="no severity 6; it has: 1, 2, 3, 4, 5"):
        open_images(copy, corruption="pixelate", severity=6)


def test_files_of_medimeta_c_carry_one_severity_each(tmp_path):
    arrays = chest()
    medimeta_c(tmp_path, arrays)
    found = open_images(tmp_path, corruption="fog", severity=2)
    assert (found.format, found.name, found.corruption) == ("medimeta-c", "pneumonia", "fog")
    assert found.classes == ("NORMAL", "BACTERIA", "VIRUS")
    assert np.array_equal(found.images, arrays["test_images"] // 2)
    clean = open_images(tmp_path / "pneumonia", corruption="clean")
    assert (clean.corruption, clean.severities) == ("", None)
    assert np.array_equal(clean.images, arrays["test_images"])
    with pytest.raises(UsageError, match="name the severity of fog, each is a file; it has: 2"):
        open_images(tmp_path, corruption="fog")


@pytest.mark.parametrize("task_labels", [True, False])
def test_tasks_of_medimeta(tmp_path, task_labels):
    arrays = chest()
    copy = medimeta(tmp_path / "pneumonia", task_labels=task_labels)
    assert format_at(copy).name == "medimeta"
    found = open_images(copy)
    assert (found.name, found.split, found.task) == ("pneumonia", "test", "binary-class")
    assert np.array_equal(found.images, arrays["test_images"][:8]), "grey stays grey"
    assert np.array_equal(found.labels, arrays["test_labels"][:8, 0])
    both = open_images(copy, split="val", task="both")
    assert both.labels.shape == (6, 2)
    assert both.classes == ("pneumonia", "bright")
    assert np.array_equal(both.labels[:, 0], arrays["val_labels"][:6, 0])
    with pytest.raises(UsageError, match="no task 'desease'; did you mean 'disease'"):
        open_images(copy, task="desease")


def test_images_of_medimeta_that_are_damaged_are_left_out_with_their_labels(tmp_path):
    arrays = chest()
    copy = medimeta(tmp_path)
    (copy / "images/000008.tiff").write_bytes(b"II*\0")
    (copy / "images/000010.tiff").unlink()
    found = open_images(copy)
    kept = [row for row in range(8) if row not in (2, 4)]
    assert np.array_equal(found.images, arrays["test_images"][kept])
    assert np.array_equal(found.labels, arrays["test_labels"][kept, 0])
    assert [problem.where for problem in found.problems] == ["images/000008.tiff", "images/000010.tiff"]


def test_hdf5_is_read_where_the_library_is_there(tmp_path, monkeypatch):
    library = pytest.importorskip("h5py", reason="the library h5py is not installed")
    copy = medimeta(tmp_path)
    expected = open_images(copy).images
    files = sorted((copy / "images").iterdir())
    with library.File(copy / "images.hdf5", "w") as file:
        file["images"] = np.stack([np.asarray(read_image(path).convert("L"))[..., None] for path in files])
    for path in files:
        path.unlink()
    (copy / "images").rmdir()
    assert np.array_equal(open_images(copy).images, expected)


def test_hdf5_without_the_library_says_what_to_do(tmp_path, monkeypatch):
    copy = medimeta(tmp_path)
    (copy / "images").rename(copy / "away")
    (copy / "images.hdf5").touch()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UsageError, match=r"needs the library h5py; `pip install h5py`, or unpack images/"):
        open_images(copy)


def test_questions_about_images(tmp_path):
    images = open_images(SHARED / "pneumoniamnist")
    with pytest.raises(UsageError, match=r"holds images with labels, no questions; ask about them"):
        open_dataset(SHARED / "pneumoniamnist")
    data = ask(images, "Does this chest x-ray show pneumonia?", ("no", "yes"), folder=tmp_path)
    assert [sample.id for sample in data.samples] == [f"test/{row}" for row in range(624)]
    assert [sample.answer == "yes" for sample in data.samples] == (images.labels == 1).tolist()
    assert {sample.kind for sample in data.samples} == {"closed"}
    assert not list(tmp_path.iterdir()), "nothing is written before it is wanted"
    assert write_images(images, data.samples[5:8], tmp_path) == 3
    assert write_images(images, data.samples[4:8], tmp_path) == 1
    for row in range(4, 8):
        written = read_image(tmp_path / str(data.samples[row].image)).convert("L")
        assert np.array_equal(np.asarray(written), images.images[row])
    assert ask(images, "What is it?", folder=tmp_path).samples[0].answer in ("normal", "pneumonia")
    with pytest.raises(
        UsageError, match="labels go from 0 to 1, but answers are given for 1; give one for each"
    ):
        ask(images, "Is it?", ("yes",), folder=tmp_path)
    with pytest.raises(UsageError, match="'other/1' is no question about pneumoniamnist"):
        write_images(images, [type(data.samples[0])("other/1", "?", "no", "closed", "x.png")], tmp_path)


def test_corrupted_images_keep_the_ids_and_never_share_a_file(tmp_path):
    arrays = chest()
    copy = medmnist_c(tmp_path / "copy", arrays)
    asked = [
        ask(
            open_images(copy, corruption=corruption, severity=severity),
            "Is it?",
            ("no", "yes"),
            folder=tmp_path,
        )
        for corruption in ("pixelate", "gaussian_noise")
        for severity in (1, 2)
    ]
    assert len({tuple(sample.id for sample in data.samples) for data in asked}) == 1
    assert len({sample.image for data in asked for sample in data.samples}) == 4 * 60
    with pytest.raises(UsageError, match="holds several severities"):
        ask(open_images(copy, corruption="pixelate"), "Is it?", folder=tmp_path)


def test_one_of_several_labels_is_asked_about(tmp_path):
    images = open_images(medimeta(tmp_path / "copy"), task="both")
    with pytest.raises(UsageError, match=r"each image has 2 labels; name one to ask about, 0..1"):
        ask(images, "Is it bright?", folder=tmp_path)
    data = ask(images, "Is it bright?", label=1, folder=tmp_path)
    assert [sample.answer == "yes" for sample in data.samples] == (images.labels[:, 1] == 1).tolist()


def test_labels_of_medimeta_that_are_none_say_where(tmp_path):
    copy = medimeta(tmp_path, task_labels=False)
    table = (copy / "annotations.csv").read_text()
    for before, after, told in (
        ("tasks/disease", "tasks/illness", "no column 'tasks/disease'"),
        ('"[1, ', '"[1, 1, ', r"annotations.csv:15: not as published"),
        (".tiff,1", ".tiff,1.5", "'tasks/disease' holds float64, not whole numbers"),
        (".tiff,1", ".tiff,pneumonia", r"annotations.csv:2: not as published"),
    ):
        (copy / "annotations.csv").write_text(table.replace(before, after))
        with pytest.raises(UsageError, match=told):
            open_images(copy, task="both" if "[" in before else "disease")
