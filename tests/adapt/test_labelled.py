"""Labelled images of published sets and of tables of files, and what is told about faulty ones."""

from __future__ import annotations

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imc_agents.adapt.labelled import LabelledImages, open_labelled, splits_of
from imc_agents.errors import DataError, UsageError
from tests.data.copies import SHARED, chest, medimeta, medimeta_c, medmnist_c, need_medmnist, need_vqa_rad

ROOT = Path(__file__).parents[2]
COLUMNS = ("image", "label", "split")
ROWS = (
    ("a.png", "normal", "train"),
    ("b.png", "pneumonia", "train"),
    ("sub/c.png", "normal", "test"),
    ("d.png", "pneumonia", "validation"),
)


@pytest.fixture
def folder(tmp_path):
    """A folder with five images, each of another grey."""
    (tmp_path / "chest/sub").mkdir(parents=True)
    for grey, name in enumerate(("a.png", "b.png", "sub/c.png", "d.png", "e.png")):
        Image.new("L", (8, 6), grey * 10).save(tmp_path / "chest" / name)
    return tmp_path / "chest"


def write(folder: Path, rows, columns=COLUMNS, name="labels.csv") -> Path:
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as stream:
        if name.endswith(".jsonl"):
            stream.writelines(json.dumps(dict(zip(columns, row, strict=False))) + "\n" for row in rows)
        else:
            csv.writer(stream, delimiter="\t" if name.endswith(".tsv") else ",").writerows([columns, *rows])
    return path


def facts(images: LabelledImages):
    return images.name, images.split, images.classes, images.labels.tolist(), images.ids, images.table


@need_medmnist
def test_a_published_set_is_opened_with_the_names_of_its_classes():
    source = SHARED / "pneumoniamnist"
    assert splits_of(source) == ("train", "val", "test")
    with np.load(source / "pneumoniamnist.npz") as held:
        for split in splits_of(source):
            found = open_labelled(source, split)
            assert (found.name, found.split, found.table) == ("pneumoniamnist", split, "pneumoniamnist")
            assert found.classes == ("normal", "pneumonia")
            assert found.labels.dtype == np.int64
            assert np.array_equal(found.labels, held[f"{split}_labels"][:, 0])
            assert found.ids[7] == f"{split}/7"
            assert np.array_equal(np.asarray(found.load(7))[..., 1], held[f"{split}_images"][7])
            assert found.load(7).mode == "RGB"
    assert open_labelled(source, "validation").split == "val"


@need_medmnist
def test_a_subset_keeps_ids_images_and_classes_and_can_be_sent_to_other_processes(tmp_path):
    np.savez(tmp_path / "pneumoniamnist.npz", **chest())
    whole = open_labelled(tmp_path, "test")
    part = pickle.loads(pickle.dumps(whole.subset(np.array([9, 4, 30])).subset([2, 0])))
    assert (part.ids, len(part), part.classes) == (("test/30", "test/9"), 2, whole.classes)
    assert part.labels.tolist() == whole.labels[[30, 9]].tolist()
    assert part.load(1).tobytes() == whole.load(9).tobytes()
    assert whole.subset([]).ids == ()
    with pytest.raises(IndexError):
        whole.subset([60])


@need_medmnist
def test_a_set_that_nobody_published_has_the_numbers_of_all_splits_as_classes(tmp_path):
    arrays = chest()
    arrays["train_labels"] = np.arange(60, dtype=np.uint8)[:, None] % 4
    np.savez(tmp_path / "mine.npz", **arrays)
    for split in ("train", "test"):
        assert open_labelled(tmp_path / "mine.npz", split).classes == ("0", "1", "2", "3")
    assert open_labelled(tmp_path / "mine.npz", "test").table == ""


@need_medmnist
def test_medimeta_is_opened_by_its_first_kind_of_labels(tmp_path):
    source = medimeta(tmp_path / "pneumonia")
    assert splits_of(source) == ("val", "test")
    found = open_labelled(source, "test")
    assert facts(found)[:3] == ("pneumonia", "test", ("normal", "pneumonia"))
    assert (len(found), found.load(0).mode, found.table) == (8, "RGB", "")
    (source / "images/000009.tiff").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"copy is faulty: images/000009.tiff: .*; left out"):
        open_labelled(source, "test")
    (source / "info.yaml").write_text((source / "info.yaml").read_text().replace("BINARY", "MULTILABEL"))
    with pytest.raises(UsageError, match="each image of pneumonia has several labels"):
        open_labelled(source, "test")


@need_medmnist
def test_only_clean_images_are_opened(tmp_path):
    with pytest.raises(UsageError, match="medmnist-c holds corrupted images only; name the clean data set"):
        splits_of(medmnist_c(tmp_path / "mnist", chest()))
    source = medimeta_c(tmp_path / "meta", chest())
    assert splits_of(source) == ("test",)
    assert np.array_equal(
        np.asarray(open_labelled(source, "test").load(3))[..., 0], chest()["test_images"][3]
    )
    (source / "pneumonia/test/clean.npz").unlink()
    with pytest.raises(UsageError, match="medimeta-c holds corrupted images only"):
        open_labelled(source, "test")


@need_medmnist
@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"test_labels": np.full((60, 1), 7, np.uint8)},
            r"copy is faulty: pneumoniamnist.npz: test_labels: 60 ",
        ),
        ({"test_labels": np.ones((60, 3), np.uint8)}, "each image of pneumoniamnist has several labels"),
    ],
)
def test_arrays_with_impossible_labels_are_refused(tmp_path, changed, problem):
    np.savez(tmp_path / "pneumoniamnist.npz", **(chest() | changed))
    with pytest.raises(UsageError, match=problem):
        open_labelled(tmp_path, "test")


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl"])
def test_a_table_is_opened_by_itself_or_by_its_folder(folder, name):
    table = write(folder, ROWS, name=name)
    for source in (table, folder):
        assert splits_of(source) == ("train", "val", "test")
        train = open_labelled(source, "train")
        both = ("normal", "pneumonia")
        assert facts(train) == ("chest", "train", both, [0, 1], ("a.png", "b.png"), "")
        # Classes are those of all splits, so that a number means the same in each.
        assert facts(open_labelled(source, "dev")) == ("chest", "val", both, [1], ("d.png",), "")
        test = open_labelled(source, "test")
        assert (test.ids, test.load(0).getpixel((0, 0))) == (("sub/c.png",), (20, 20, 20))


def test_a_table_without_splits_is_for_testing_and_is_called_by_its_file(folder):
    table = write(folder, [row[:2] for row in ROWS], COLUMNS[:2], "pneumoniamnist.csv")
    assert splits_of(table) == ("test",)
    found = open_labelled(table, "test")
    assert (found.name, found.table, len(found)) == ("pneumoniamnist", "pneumoniamnist", 4)
    with pytest.raises(UsageError, match="has no images of the split train; it has: test"):
        open_labelled(table, "train")


def test_other_columns_byte_order_marks_and_windows_line_ends_do_no_harm(folder):
    text = "\ufeffpatient,image,label,site\r\n1,a.png, normal ,x\r\n2,b.png,pneumonia,y\r\n"
    (folder / "labels.csv").write_bytes(text.encode())
    assert facts(open_labelled(folder, "test"))[2:5] == (("normal", "pneumonia"), [0, 1], ("a.png", "b.png"))


@pytest.mark.parametrize(
    ("rows", "columns", "problem"),
    [
        (ROWS, ("images", "label", "split"), r"labels.csv: no column 'image' .*; did you mean 'images'\?"),
        (ROWS, ("image", "class", "split"), r"labels.csv: no column 'label' .*, it has: image, class, split"),
        (
            ROWS,
            ("image", "label", "Split"),
            "labels.csv: the column 'Split' is not called 'split'; rename it",
        ),
        (
            (*ROWS, ("a.png", "normal", "test")),
            COLUMNS,
            "labels.csv:6: the image 'a.png' stands in line 2 already",
        ),
        (
            (*ROWS, ("./a.png", "normal", "test")),
            COLUMNS,
            "labels.csv:6: the image './a.png' stands in line 2",
        ),
        ((*ROWS, ("x.png", "normal", "test")), COLUMNS, "labels.csv:6: there is no image 'x.png' in "),
        ((*ROWS, ("sub", "normal", "test")), COLUMNS, "labels.csv:6: there is no image 'sub' in "),
        (
            (*ROWS, ("../out.png", "normal", "test")),
            COLUMNS,
            "labels.csv:6: image '../out.png' leads out of ",
        ),
        ((*ROWS, ("link.png", "normal", "test")), COLUMNS, "labels.csv:6: image 'link.png' leads out of "),
        (
            (*ROWS, ("/etc/passwd", "normal", "test")),
            COLUMNS,
            "labels.csv:6: image '/etc/passwd' leads out of ",
        ),
        ((*ROWS, ("", "normal", "test")), COLUMNS, "labels.csv:6: the row names no image"),
        (
            (*ROWS, ("e.png", " ", "test")),
            COLUMNS,
            "labels.csv:6: field 'label' holds only white space; fill",
        ),
        ((*ROWS, ("e.png", "", "test")), COLUMNS, "labels.csv:6: field 'label' is empty; fill it in"),
        (
            (*ROWS, ("e.png", "normal", "")),
            COLUMNS,
            "labels.csv:6: the row names no split; fill in train, val",
        ),
        (
            (*ROWS, ("e.png", "normal", "tset")),
            COLUMNS,
            r"labels.csv:6: unknown split 'tset'; did you mean 'test'\?",
        ),
        ((*ROWS, ("e.png", "normal")), COLUMNS, "labels.csv:6: 2 cells where the header has 3"),
        (
            (*ROWS, ("e.png", "Normal", "test")),
            COLUMNS,
            "labels 'normal' and 'Normal' differ in case or blanks only",
        ),
        (ROWS[::2], COLUMNS, "labels.csv: all images are of the class 'normal'; add images of another one"),
        ((), COLUMNS, "labels.csv: no rows below the names of the columns"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_place(folder, rows, columns, problem):
    Image.new("L", (8, 6)).save(folder.parent / "out.png")
    (folder / "link.png").symlink_to(folder.parent / "out.png")
    write(folder, rows, columns)
    with pytest.raises(UsageError, match=problem) as caught:
        open_labelled(folder, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the table is empty"),
        ("image,label\n".encode("utf-16"), "UTF-16"),
        (b"image,label\n\xff.png,x\n", "labels.csv:2: invalid UTF-8"),
    ],
)
def test_files_that_are_no_tables_are_refused(folder, content, problem):
    (folder / "labels.csv").write_bytes(content)
    with pytest.raises(UsageError, match=problem):
        open_labelled(folder, "test")


def test_a_split_that_only_later_rows_name_is_not_overlooked(folder):
    rows = [{"image": "a.png", "label": "x"}] * 101 + [{"image": "b.png", "label": "y", "split": "train"}]
    for number, row in enumerate(rows[:-1]):
        image = f"{number}.png"
        (folder / image).write_bytes((folder / "a.png").read_bytes())
        rows[number] = row | {"image": image}
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        UsageError, match=r"labels.jsonl:102: the row names a split, which earlier ones do not"
    ):
        open_labelled(folder, "test")


def test_sources_that_are_none_say_what_to_name(folder, tmp_path):
    write(folder, ROWS)
    with pytest.raises(UsageError, match=r"unknown split 'tests'; did you mean 'test'\?"):
        open_labelled(folder, "tests")
    with pytest.raises(UsageError, match="there is no such file or folder"):
        open_labelled(tmp_path / "nowhere", "test")
    with pytest.raises(
        UsageError, match=r"no table and no data set of images that is known; write labels\.csv"
    ):
        open_labelled(folder / "sub", "test")
    write(folder, ROWS, name="labels.tsv")
    with pytest.raises(UsageError, match=r"holds labels\.csv and labels\.tsv; name the one that is meant"):
        splits_of(folder)


def test_a_damaged_image_is_an_error_of_that_image(folder):
    (folder / "b.png").write_bytes(b"no image")
    write(folder, ROWS)
    found = open_labelled(folder, "train")
    assert found.load(0).size == (8, 6)
    with pytest.raises(DataError, match=r"b\.png: no image of a kind that can be read"):
        found.load(1)


@need_vqa_rad
def test_questions_are_no_labels():
    with pytest.raises(UsageError, match="vqa-rad holds questions about images, no labels; write a table"):
        splits_of(SHARED / "vqa_rad")


@need_vqa_rad
def test_the_example_makes_a_table_of_the_organs(tmp_path):
    held_out = SHARED.parent / "models/tinymed/heldout_images.json"
    if not held_out.is_file():
        pytest.skip(f"needs {held_out}")
    out = tmp_path / "organs"
    command = [sys.executable, "examples/organ_labels.py", str(out), "--data", str(SHARED)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    parts = {split: open_labelled(out, split) for split in splits_of(out)}
    assert {part.classes for part in parts.values()} == {("ABD", "CHEST", "HEAD")}
    named = {split: {Path(image).name for image in part.ids} for split, part in parts.items()}
    assert named["test"] == set(json.loads(held_out.read_text()))
    assert len(named["train"] | named["val"] | named["test"]) == sum(map(len, parts.values())) == 314
    assert len(named["val"]) == 50
    assert parts["val"].load(0).mode == "RGB"
