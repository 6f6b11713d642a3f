"""``imc data check`` on whole and on damaged copies."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from typing import Any

import numpy as np
import pytest

import cli
from tests.data.copies import (
    SHARED,
    chest,
    medimeta,
    need_medmnist,
    need_slake,
    need_vqa_rad,
    vqa_rad,
    write_json,
)


@pytest.fixture
def check(capsys):
    def _check(*arguments: object, code: int = 0) -> list[dict[str, Any]]:
        assert cli.run(["data", "check", *map(str, arguments)]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return _check


@pytest.fixture
def refused(capsys):
    def _refused(*arguments: object) -> str:
        assert cli.run(["data", "check", *map(str, arguments)]) == 2
        captured = capsys.readouterr()
        assert not captured.out
        (line,) = (line for line in captured.err.splitlines() if line.strip())
        return line.removeprefix("imc: error: ")

    return _refused


def of(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["record"] == kind]


@need_vqa_rad
def test_a_whole_copy_is_counted_and_nothing_is_wrong(check):
    records = check(SHARED / "vqa_rad", "--split", "test")
    (part,) = of(records, "part")
    assert (part["questions"], part["closed"], part["open"]) == (451, 272, 179)
    assert (part["images"], part["missing"], part["unreadable"]) == (203, 0, 0)
    assert part["groups"] == {"CHEST": 174, "ABD": 158, "HEAD": 119}
    assert of(records, "copy")[0]["format"] == "vqa-rad"
    assert not of(records, "problem")


@need_vqa_rad
def test_images_that_are_missing_or_damaged_are_named(check, tmp_path):
    copy = vqa_rad(tmp_path, 20)
    named = sorted({row["image_name"] for row in json.loads((copy / "testset.json").read_text())})
    middle, last = named[len(named) // 2], named[-1]
    (copy / "images" / last).unlink()
    spoilt = (copy / "images" / middle).read_bytes()
    (copy / "images" / middle).write_bytes(spoilt[: len(spoilt) // 2])
    records = check(copy, "-s", "test", code=3)
    (part,) = of(records, "part")
    assert (part["images"], part["missing"], part["unreadable"]) == (len(named), 1, 1)
    told = {problem["where"]: problem["what"] for problem in of(records, "problem")}
    assert set(told) == {middle, last}
    assert "the image is missing" in told[last]
    assert "the image is damaged" in told[middle]


@need_vqa_rad
def test_an_image_with_another_suffix_is_offered(check, tmp_path):
    copy = vqa_rad(tmp_path, 1)
    (image,) = {row["image_name"] for row in json.loads((copy / "testset.json").read_text())}
    (copy / "images" / image).rename(copy / "images" / f"{image[:-4].upper()}.JPEG")
    (problem,) = of(check(copy, "-s", "test", code=3), "problem")
    assert problem["what"].endswith(f"'{image[:-4].upper()}.JPEG' is there, rename one")


@need_vqa_rad
def test_splits_that_share_images_are_noted(check, tmp_path):
    copy = vqa_rad(tmp_path)
    shutil.copy(copy / "testset.json", copy / "trainset.json")
    records = check(copy)
    (note,) = of(records, "note")
    assert note["where"] == "train, test"
    assert "are in both splits" in note["what"]


@need_slake
def test_languages_are_counted_and_images_need_not_be_here(check):
    records = check(SHARED / "slake", "--split", "validation")
    (part,) = of(records, "part")
    assert part["languages"] == {"en": 1053, "zh": 1046}
    assert [note["what"] for note in of(records, "note")] == ["none are here; questions are read without"]


@need_medmnist
def test_arrays_are_described(check):
    records = check(SHARED / "pneumoniamnist")
    train, val, test = of(records, "part")
    with np.load(SHARED / "pneumoniamnist/pneumoniamnist.npz") as held:
        images = held["test_images"]
    assert test["classes"] == {"normal": 234, "pneumonia": 390}
    assert (test["shape"], test["dtype"]) == ([28, 28], "uint8")
    assert (test["lowest"], test["highest"]) == (images.min(), images.max())
    assert test["mean"] == pytest.approx(images.mean(), abs=0.01)
    assert test["repeated"] == len(images) - len(np.unique(images, axis=0))
    assert (train["images"], val["images"]) == (3882, 524)


@need_medmnist
def test_a_broken_split_is_a_problem_of_its_own(check, refused, tmp_path):
    arrays = chest()
    file = tmp_path / "pneumoniamnist.npz"
    np.savez(file, **(arrays | {"val_images": arrays["val_images"][:50]}))
    records = check(file, code=3)
    assert [part["split"] for part in of(records, "part")] == ["train", "test"]
    (problem,) = of(records, "problem")
    assert problem["where"] == str(file)
    assert problem["what"].startswith("50 val_images but val_labels of shape [60, 1]")
    assert "50 val_images" in refused(file, "--split", "val")


@need_medmnist
def test_every_corruption_is_a_part(check, tmp_path):
    arrays = chest()
    (tmp_path / "pneumoniamnist").mkdir()
    stack = {
        "test_images": np.tile(arrays["test_images"], (5, 1, 1)),
        "test_labels": np.tile(arrays["test_labels"], (5, 1)),
    }
    np.savez(tmp_path / "pneumoniamnist/pixelate.npz", **stack)
    np.savez(tmp_path / "pneumoniamnist/shot_noise.npz", **{key: value[:-1] for key, value in stack.items()})
    records = check(tmp_path, code=3)
    (part,) = of(records, "part")
    assert (part["corruption"], part["images"], part["repeated"]) == ("pixelate", 300, 240)
    (problem,) = of(records, "problem")
    assert problem["where"] == "pneumoniamnist/shot_noise.npz"
    assert problem["what"].startswith("299 images are not five times as many")


@need_medmnist
def test_every_task_is_a_part(check, tmp_path):
    records = check(medimeta(tmp_path))
    assert [(part["split"], part["labels"], part["images"]) for part in of(records, "part")] == [
        ("val", "disease", 6),
        ("val", "both", 6),
        ("test", "disease", 8),
        ("test", "both", 8),
    ]
    assert set(of(records, "part")[1]["classes"]) == {"pneumonia", "bright"}


def test_problems_are_bounded(check, tmp_path):
    rows = [
        {"qid": n, "question": "Is it?", "answer": None if n else "yes", "image_name": "a.png"}
        for n in range(31)
    ]
    write_json(tmp_path / "testset.json", rows)
    records = check(tmp_path, code=3)
    assert len(of(records, "problem")) == 20
    assert of(records, "copy")[0]["problems"] == 30
    assert len(of(check(tmp_path, "--problems", "3", code=3), "problem")) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--format", "vqarad"), "unknown format of a data set 'vqarad'; did you mean 'vqa-rad'?"),
        (("--split", "tests"), "no split 'tests'; did you mean 'test'?"),
        (("--format", "medmnist"), "name one .npz file of MedMNIST; the folder has: none"),
        (("--format", "slake"), "holds no split that this format knows; check the path and --format"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(refused, tmp_path, arguments, told):
    write_json(
        tmp_path / "testset.json", [{"qid": 1, "question": "Is it?", "answer": "yes", "image_name": "a.png"}]
    )
    assert refused(tmp_path, *arguments).endswith(told)


def test_pickles_are_refused_and_not_loaded(refused, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("loaded").touch, ())

    (tmp_path / "qas/train").mkdir(parents=True)
    (tmp_path / "qas/train/train_qa.pkl").write_bytes(pickle.dumps(Trap()))
    assert "a Python pickle, which can run code and is never loaded" in refused(tmp_path)
    np.savez(
        tmp_path / "octmnist.npz", test_images=np.array([Trap()], object), test_labels=np.zeros(1, np.uint8)
    )
    assert "pickled Python objects, never loaded" in refused(tmp_path / "octmnist.npz", "-f", "medmnist")
    assert not (tmp_path / "loaded").exists()


def test_files_that_are_no_data_set_say_what_they_are(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").endswith(
        "neither a folder nor a regular file; name a copy of a data set"
    )
    np.savez(tmp_path / "other.npz", x=np.zeros(3), y=np.zeros(3))
    assert "no array 'test_images'; it has: x, y; save it under that key" in refused(tmp_path / "other.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    assert "a single .npy array, no .npz" in refused(tmp_path / "one.npz")
    (tmp_path / "empty").mkdir()
    assert "looks like no data set; give --format, one of: vqa-rad" in refused(tmp_path / "empty")


@need_vqa_rad
def test_images_that_lead_out_of_their_folder_are_not_read(check, tmp_path):
    copy = vqa_rad(tmp_path / "copy", 1)
    (image,) = {row["image_name"] for row in json.loads((copy / "testset.json").read_text())}
    (copy / "images" / image).rename(tmp_path / "outside.jpg")
    (copy / "images" / image).symlink_to(tmp_path / "outside.jpg")
    (problem,) = of(check(copy, "-s", "test", code=3), "problem")
    assert problem["where"] == image
    assert "leads out of" in problem["what"]
