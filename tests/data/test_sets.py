"""Questions about images in every layout: each published row is read exactly once, and what is wrong is told."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from dataclasses import asdict
from importlib.metadata import EntryPoint

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imc_agents.data.sets import registry
from imc_agents.data.sets.formats import QuestionFormat
from imc_agents.data.sets.records import DataSet
from imc_agents.data.sets.registry import format_at, formats, open_dataset, open_images
from imc_agents.errors import ConfigError, UsageError
from imc_agents.vision.reading import read_image
from tests.data.copies import (
    SHARED,
    need_slake,
    need_vqa_rad,
    path_vqa_rows,
    rows_of,
    shards,
    vqa_rad,
    write_json,
)

PUBLIC = "VQA_RAD Dataset Public.json"
ROW = {"qid": 7, "question": "Is it?", "answer": "yes", "image_name": "a.png", "answer_type": "CLOSED"}


def pairs(data: DataSet) -> Counter[tuple[str, str]]:
    return Counter((sample.question, sample.answer) for sample in data.samples)


@need_vqa_rad
@pytest.mark.parametrize(("split", "closed"), [("train", 1823), ("test", 272)])
def test_every_row_of_vqa_rad_is_there_once(split, closed):
    rows = rows_of(f"vqa_rad/{split}set.json")
    data = open_dataset(SHARED / "vqa_rad", "vqa-rad", split=split)
    assert pairs(data) == Counter((row["question"], str(row["answer"])) for row in rows)
    assert [sample.id for sample in data.samples] == [str(row["qid"]) for row in rows]
    assert [sample.image for sample in data.samples] == [row["image_name"] for row in rows]
    assert sum(sample.kind == "closed" for sample in data.samples) == closed, "also 'CLOSED ' with its blank"
    assert data.images == SHARED / "vqa_rad/images"
    assert not [problem for problem in data.problems if not problem.harmless]


@need_vqa_rad
def test_the_single_file_of_vqa_rad_has_the_same_splits(tmp_path):
    (tmp_path / "VQA_RAD Image Folder").mkdir()
    train, test = (rows_of(f"vqa_rad/{split}set.json") for split in ("train", "test"))
    marked = [row | {"phrase_type": f"test_{row['phrase_type']}"} for row in test]
    write_json(tmp_path / PUBLIC, [*train[:50], *marked, *train[50:]])
    assert format_at(tmp_path).name == "vqa-rad"
    for split in ("train", "test"):
        data = open_dataset(tmp_path, split=split)
        assert pairs(data) == pairs(open_dataset(SHARED / "vqa_rad", split=split))
        assert data.images == tmp_path / "VQA_RAD Image Folder"


@need_slake
def test_slake_is_read_in_both_languages_and_without_images():
    rows = rows_of("slake/train.json")
    data = open_dataset(SHARED / "slake", split="train")
    assert len(data.samples) + len(data.problems) == len(rows)
    (problem,) = data.problems
    assert (problem.where, rows[1622]["answer"]) == ("train.json:1623", ""), "one answer is published empty"
    english = open_dataset(SHARED / "slake", split="train", language="en")
    assert {sample.language for sample in english.samples} == {"en"}
    chinese = open_dataset(SHARED / "slake", split="train", language="zh")
    assert len(english.samples) + len(chinese.samples) == len(data.samples)
    assert data.images is None
    assert {sample.image for sample in data.samples} == {None}
    assert open_dataset(SHARED / "slake", split="val").split == "validate", "as other sets call it"
    with pytest.raises(UsageError, match="language 'eng'; did you mean 'en'"):
        open_dataset(SHARED / "slake", language="eng")


def test_what_is_wrong_with_an_entry_costs_that_entry(tmp_path):
    wrong = [
        ROW | {"answer": None},
        ROW | {"answer": " "},
        ROW | {"answer": ["yes"]},
        ROW | {"answer": True},
        ROW | {"question": 3},
        ROW | {"image_name": "../secret.png"},
        {"qid": 1, "question": "No answer?"},
        "text",
        ROW | {"qid": 8, "image_name": None},
    ]
    fine = [ROW, ROW | {"question": "Again?"}, ROW | {"qid": None, "answer": 2.5, "answer_type": None}]
    (tmp_path / "images").mkdir()
    write_json(tmp_path / "testset.json", [*wrong[:4], *fine, *wrong[4:]])
    data = open_dataset(tmp_path, "vqa-rad")
    assert [(sample.id, sample.answer) for sample in data.samples] == [
        ("7", "yes"),
        ("7#2", "yes"),
        ("test-000006", "2.5"),
        ("8", "yes"),
    ]
    assert data.samples[2].kind == "open"
    told = {problem.where: problem.what for problem in data.problems}
    assert told["testset.json:1"] == "'answer' is null, no text; left out, correct the entry"
    assert told["testset.json:4"] == "'answer' is True, no text; left out, correct the entry"
    assert told["testset.json:6"] == "id '7' is there already; known as '7#2', make ids unique"
    assert told["testset.json:9"].startswith("image '../secret.png' is no path inside the image folder")
    assert told["testset.json:10"].startswith("'answer' is missing; it has: 'qid', 'question'; left out")
    assert told["testset.json:11"] == "no object but 'text', left out; correct the entry"
    assert told["testset.json:12"] == "names no image in 'image_name'; correct the entry"
    numbers = [problem for problem in data.problems if problem.harmless]
    assert [problem.what for problem in numbers] == ["1 answer is a number, read as text; the first is here"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]".encode("utf-16"), r"testset.json: the file is UTF-16; convert it with `iconv"),
        (b"", "testset.json: the file is empty"),
        (b'[\n{"qid": 1},\n{"qid": 2,,}]', "testset.json:3: no JSON"),
        (b'{"questions": []}', "testset.json: holds an object, not a list"),
        (b"[\n\xff]", "testset.json:2: not UTF-8"),
        (b"[" * 100_000, "testset.json: no JSON that can be read"),
        (b"[]", "no usable question in the split 'test'; get the copy again"),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path, content, told):
    (tmp_path / "testset.json").write_bytes(content)
    with pytest.raises(UsageError, match=told):
        open_dataset(tmp_path, "vqa-rad")


def test_a_byte_order_mark_is_skipped_and_told(tmp_path):
    (tmp_path / "testset.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([ROW]).encode())
    data = open_dataset(tmp_path, "vqa-rad")
    assert len(data.samples) == 1
    assert "byte order mark" in data.problems[0].what


def test_names_that_are_nearly_right_are_offered(tmp_path):
    write_json(tmp_path / "testset.json", [ROW])
    with pytest.raises(UsageError, match="'vqarad'; did you mean 'vqa-rad'"):
        open_dataset(tmp_path, "vqarad")
    with pytest.raises(UsageError, match="no split 'tset'; did you mean 'test'"):
        open_dataset(tmp_path, split="tset")
    with pytest.raises(UsageError, match="vqa-rad holds questions about images; open it with open_dataset"):
        open_images(tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere", "vqa-rad")
    with pytest.raises(UsageError, match="looks like no data set; give --format, one of: vqa-rad, slake"):
        open_dataset(tmp_path / "testset.json")


@need_vqa_rad
def test_path_vqa_as_json_beside_images(tmp_path):
    rows = path_vqa_rows(9)
    write_json(tmp_path / "qas/test/test_qa.json", rows)
    source = sorted((SHARED / "vqa_rad/images").iterdir())
    (tmp_path / "images/test").mkdir(parents=True)
    for row, image in zip(rows, source, strict=False):
        shutil.copy(image, tmp_path / "images/test" / f"{row['image']}.jpg")
    data = open_dataset(tmp_path)
    assert data.format == "path-vqa"
    assert pairs(data) == Counter((row["question"], row["answer"]) for row in rows)
    assert [sample.image for sample in data.samples] == [f"test/{row['image']}.jpg" for row in rows]
    kinds = {sample.answer.lower() in ("yes", "no"): sample.kind for sample in data.samples}
    assert kinds == {True: "closed", False: "open"}


def test_pickles_of_path_vqa_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("loaded").touch, ())

    (tmp_path / "qas/test").mkdir(parents=True)
    (tmp_path / "qas/test/test_qa.pkl").write_bytes(pickle.dumps([Trap()]))
    with pytest.raises(UsageError, match=r"test_qa.pkl: a Python pickle.*json.dump\(pickle.load"):
        open_dataset(tmp_path)
    assert not (tmp_path / "loaded").exists()


@need_vqa_rad
@pytest.mark.parametrize(("format", "detected"), [("path-vqa", False), ("hub", True)])
def test_images_inside_parquet_are_unpacked_once_each(tmp_path, format, detected):
    rows = path_vqa_rows(10)
    source = sorted((SHARED / "vqa_rad/images").iterdir())[:5]
    images = [file.read_bytes() for file in source for _ in range(2)]
    shards(tmp_path / "copy", images, rows)
    data = open_dataset(tmp_path / "copy", None if detected else format, unpack=tmp_path / "images")
    assert data.format == format
    assert pairs(data) == Counter((row["question"], row["answer"]) for row in rows)
    assert len({sample.id for sample in data.samples}) == 10
    assert len(list((tmp_path / "images").iterdir())) == 5
    for sample, content in zip(data.samples, images, strict=True):
        assert (tmp_path / "images" / str(sample.image)).read_bytes() == content
    read_image(tmp_path / "images" / str(data.samples[0].image))
    without = open_dataset(tmp_path / "copy", format)
    assert pairs(without) == pairs(data)
    assert {sample.image for sample in without.samples} == {None}


def test_a_damaged_parquet_file_is_one_line(tmp_path):
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1" + b"\0" * 40)
    with pytest.raises(UsageError, match="damaged behind row 0, or no Parquet"):
        open_dataset(tmp_path)


@need_vqa_rad
def test_own_questions_beside_a_folder_of_images(tmp_path):
    vqa_rad(tmp_path / "source")
    (tmp_path / "own").mkdir()
    shutil.move(tmp_path / "source/images", tmp_path / "own/images")
    rows = rows_of("vqa_rad/testset.json")[:12]
    lines = [
        {
            "id": f"q{row['qid']}",
            "question": row["question"],
            "answer": row["answer"],
            "image": row["image_name"],
        }
        for row in rows
    ]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "own/test.jsonl").write_text(text + '\n{"id": "x", "question": \n')
    data = open_dataset(tmp_path / "own")
    assert (data.name, data.format, data.split) == ("own", "jsonl", "test")
    assert [sample.id for sample in data.samples] == [f"q{row['qid']}" for row in rows]
    assert [problem.where for problem in data.problems] == ["test.jsonl:13"]
    for sample in data.samples:
        assert data.images is not None
        assert (data.images / str(sample.image)).is_file()
    assert open_dataset(tmp_path / "own/test.jsonl").samples == data.samples


def test_own_questions_may_name_images_from_their_own_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    (tmp_path / "some.csv").write_text(
        "question,answer,image\nIs it?,no,images/a.png\nWhere?,left,images/a.png\n"
    )
    data = open_dataset(tmp_path / "some.csv")
    assert data.images == tmp_path
    assert [sample.kind for sample in data.samples] == ["closed", "open"]
    assert data.split == "all"


@need_vqa_rad
def test_folders_of_the_library_datasets(tmp_path):
    library = pytest.importorskip("datasets", reason="the library datasets is not installed")
    files = sorted((SHARED / "vqa_rad/images").iterdir())[:3]
    rows = path_vqa_rows(3)
    split = library.Dataset.from_dict(
        {
            "image": [str(file) for file in files],
            "question": [row["question"] for row in rows],
            "answer": [row["answer"] for row in rows],
        }
    ).cast_column("image", library.Image())
    library.DatasetDict({"test": split}).save_to_disk(tmp_path / "saved")
    data = open_dataset(tmp_path / "saved", unpack=tmp_path / "images")
    assert (data.format, data.split) == ("hub", "test")
    assert pairs(data) == Counter((row["question"], row["answer"]) for row in rows)
    unpacked = [(tmp_path / "images" / str(sample.image)).read_bytes() for sample in data.samples]
    assert unpacked == [file.read_bytes() for file in files]


def test_the_library_datasets_is_asked_for_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        UsageError, match=r"hf:owner/name: .* needs the library datasets; `pip install datasets`"
    ):
        open_dataset("hf:owner/name")


def test_packages_add_formats(tmp_path, monkeypatch):
    class Installed(EntryPoint):
        def load(self):
            return self.loaded

    def install(loaded):
        point = Installed("mine", "package.module:FORMAT", registry.ENTRY_POINT_GROUP)
        vars(point)["loaded"] = loaded
        monkeypatch.setattr(registry, "entry_points", lambda group: [point])
        formats.cache_clear()

    def opened(path, split, unpack):
        return DataSet("mine", "mine", path, split or "test", (), None)

    try:
        install(QuestionFormat("mine", "one line", lambda path: True, lambda path: ("test",), opened))
        assert format_at(tmp_path).name == "mine"
        install(QuestionFormat("slake", "one line", lambda path: True, lambda path: ("test",), opened))
        with pytest.raises(
            ConfigError, match=r"'mine' \(package.module:FORMAT\): a format 'slake' exists already"
        ):
            formats()
        install(print)
        with pytest.raises(ConfigError, match="is no QuestionFormat or ImageFormat"):
            formats()
    finally:
        formats.cache_clear()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a7 \0\ud800é", max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
ENTRY = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(ROW, JSON | st.sampled_from(["yes", "a.png", "7", 7]))
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ENTRY | JSON, max_size=8))
def test_whatever_a_file_holds_each_row_is_used_or_told_and_can_be_stored(tmp_path, entries):
    (tmp_path / "images").mkdir(exist_ok=True)
    write_json(tmp_path / "testset.json", entries)
    try:
        data = open_dataset(tmp_path, "vqa-rad")
    except UsageError as error:
        str(error).encode()
        return
    left_out = [problem for problem in data.problems if "left out" in problem.what]
    assert len(data.samples) + len(left_out) == len(entries)
    assert len({sample.id for sample in data.samples}) == len(data.samples)
    json.dumps([asdict(sample) for sample in data.samples], ensure_ascii=False).encode()
    "".join(problem.what for problem in data.problems).encode()
