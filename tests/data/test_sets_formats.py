"""What every format promises: it knows its own copies and no other's, and names what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imc_agents.data.sets.check import check_copy
from imc_agents.data.sets.formats import QuestionFormat
from imc_agents.data.sets.registry import FORMATS, format_at, open_dataset, open_images
from imc_agents.errors import UsageError
from tests.data.copies import (
    SHARED,
    chest,
    medimeta,
    medimeta_c,
    medmnist_c,
    need_medmnist,
    need_slake,
    need_vqa_rad,
    path_vqa_rows,
    rows_of,
    shards,
    vqa_rad,
    write_json,
)

pytestmark = [need_vqa_rad, need_slake, need_medmnist]


def slake(folder: Path) -> Path:
    write_json(folder / "test.json", rows_of("slake/validate.json")[:20])
    return folder


def path_vqa(folder: Path) -> Path:
    write_json(folder / "qas/test/test_qa.json", path_vqa_rows(6))
    return folder


def image_folder(folder: Path) -> Path:
    folder.mkdir()
    rows = [
        {"question": row["question"], "answer": str(row["answer"])}
        for row in rows_of("vqa_rad/testset.json")[:6]
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def hub(folder: Path) -> Path:
    images = [file.read_bytes() for file in sorted((SHARED / "vqa_rad/images").iterdir())[:4]]
    return shards(folder, images, path_vqa_rows(4))


def medmnist(folder: Path) -> Path:
    folder.mkdir()
    np.savez(folder / "pneumoniamnist.npz", **chest())
    return folder


COPIES: dict[str, Callable[[Path], Path]] = {
    "vqa-rad": vqa_rad,
    "slake": slake,
    "path-vqa": path_vqa,
    "jsonl": image_folder,
    "hub": hub,
    "medmnist": medmnist,
    "medmnist-c": lambda folder: medmnist_c(folder, chest()),
    "medimeta": medimeta,
    "medimeta-c": lambda folder: medimeta_c(folder, chest()),
}


def test_every_format_is_tried_here():
    assert set(COPIES) == set(FORMATS)
    assert all(name == format.name and format.layout for name, format in FORMATS.items())


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_known_by_its_own_format_only(tmp_path, name):
    copy = COPIES[name](tmp_path / "copy")
    assert [format.name for format in FORMATS.values() if format.recognises(copy)] == [name]
    assert format_at(copy).name == name
    checked = check_copy(copy)
    assert (checked.format, checked.problems) == (name, ())
    assert checked.parts


@pytest.mark.parametrize("name", COPIES)
def test_splits_that_are_not_there_are_refused_with_those_that_are(tmp_path, name):
    copy = COPIES[name](tmp_path / "copy")
    opened = open_dataset if isinstance(FORMATS[name], QuestionFormat) else open_images
    with pytest.raises(UsageError, match="no split 'tess'; did you mean 'test'"):
        opened(copy, split="tess")


@pytest.mark.parametrize(
    ("name", "other"),
    [(name, other) for name in COPIES for other in ("vqa-rad", "medmnist") if name != other],
)
def test_copies_of_another_format_are_refused(tmp_path, name, other):
    with pytest.raises(UsageError):
        check_copy(COPIES[name](tmp_path / "copy"), other)


@pytest.mark.parametrize("name", COPIES)
def test_reading_twice_gives_the_same(tmp_path, name):
    copy = COPIES[name](tmp_path / "copy")
    assert check_copy(copy) == check_copy(copy)
    assert check_copy(copy, split="test").parts == tuple(
        part for part in check_copy(copy).parts if part.split == "test"
    )
