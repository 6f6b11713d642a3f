"""Rows with images: which field names them, what is added to the output, and that a resumed run gives the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imc_agents.agents.refiner import Refiner
from imc_agents.config.load import resolve
from tests.conftest import Model
from tests.runs.helpers import imc

ROWS: list[dict[str, Any]] = [
    {"id": 1, "question": "Is teh liver normal?", "image": "a.png"},
    {"id": 2, "question": "Is teh spleen normal?", "image": None},
    {"id": 3, "question": "Is teh hip normal?", "image": "gone.png"},
    {"id": 4, "question": "Is teh lung normal?", "image": 7},
]
SEEN = {"image_noise": "motion", "image_severity": 3, "image_probability": 0.75, "image_operator": "ridge"}
UNSEEN = dict.fromkeys(SEEN)


def written(folder: Path, rows: list[dict[str, Any]], *options: str) -> list[dict[str, Any]]:
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = imc(folder, "refine", "q.jsonl", "-o", "out.jsonl", "--quiet", *options)
    assert done.returncode in (0, 3), done.stderr
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def test_what_was_found_in_an_image_is_added_to_its_row(tmp_path: Path) -> None:
    rows = written(tmp_path, ROWS, "--bank", "bank")
    assert [{key: row[key] for key in SEEN} for row in rows] == [SEEN, UNSEEN, UNSEEN, UNSEEN]
    assert [row["status"] for row in rows] == ["ok", "ok", "data_error", "data_error"]
    assert [row["image"] for row in rows] == ["a.png", None, "gone.png", 7]
    assert rows[2]["error"].startswith("gone.png")
    assert rows[3]["error"] == (
        "q.jsonl:4: field 'image' is of type int, not the path of an image; save images as files"
    )


def test_without_a_bank_images_are_left_alone(tmp_path: Path) -> None:
    rows = written(tmp_path, ROWS)
    assert {row["status"] for row in rows} == {"ok"}
    assert not set(SEEN) & set(rows[0])


def test_answers_come_beside_a_field_of_that_name(tmp_path: Path) -> None:
    rows = written(tmp_path, [{**row, "answer": "yes"} for row in ROWS[:2]], "--answer")
    assert [(row["answer"], row["imc_answer"]) for row in rows] == [("yes", "saw a.png"), ("yes", "saw None")]
    assert not set(SEEN) & set(rows[0])


@pytest.mark.parametrize("name", ["image_path", "image_name", "img_name", "scan"])
def test_the_image_may_be_in_another_field(tmp_path: Path, name: str) -> None:
    option = ("--image-field", name) if name == "scan" else ()
    (row,) = written(tmp_path, [{"question": "Is teh hip normal?", name: "a.png"}], "--bank", "bank", *option)
    assert row["image_noise"] == "motion"


def test_columns_of_a_table_keep_their_types(tmp_path: Path) -> None:
    table = pa.table(
        {"question": ["Is teh hip normal?", "Is it?"], "image": pa.array(["a.png", None], pa.string())}
    )
    pq.write_table(table, tmp_path / "q.parquet")
    done = imc(tmp_path, "refine", "q.parquet", "-o", "out.parquet", "--quiet", "--bank", "bank", "--answer")
    assert done.returncode == 0, done.stderr
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.field("image_severity").type == pa.int64()
    assert found.select([*SEEN, "answer"]).to_pylist() == [
        {**SEEN, "answer": "saw a.png"},
        {**UNSEEN, "answer": "saw None"},
    ]


def test_cells_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("question,image\nIs teh hip normal?,a.png\nIs it?,\n")
    done = imc(tmp_path, "refine", "q.csv", "-o", "out.csv", "--quiet", "--bank", "bank")
    assert done.returncode == 0, done.stderr
    header, first, second = (tmp_path / "out.csv").read_text().splitlines()
    assert header.endswith(",image_noise,image_severity,image_probability,image_operator")
    assert first.endswith(",motion,3,0.75,ridge")
    assert second.endswith(",,,,")


def test_a_resumed_run_gives_the_same_output(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"id": 5, "question": "fail:unreachable", "image": "b.png"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--bank", "bank", "--answer", "--concurrency", "1", "--quiet")
    stopped = imc(tmp_path, "refine", "q.jsonl", "-o", "out.jsonl", *options)
    assert stopped.returncode == 4
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run,) = (tmp_path / "runs").iterdir()
    resumed = imc(elsewhere, "resume", str(run), "--quiet", SCRIPTED_REPAIRED="1")
    assert resumed.returncode == 0, resumed.stderr
    whole = imc(tmp_path, "refine", "q.jsonl", "-o", "whole.jsonl", *options, SCRIPTED_REPAIRED="1")
    assert whole.returncode == 0, whole.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    last = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[2])
    assert (last["image_noise"], last["answer"]) == ("motion", "saw b.png")


def test_a_dry_run_shows_which_image_would_be_read(model: Model, tmp_path: Path) -> None:
    shown: list[str] = []
    overrides = (f"pdc.images={tmp_path}", "run.answer=true")
    refiner = Refiner(resolve(overrides=overrides).config, dry_run=shown.append)
    model.run(refiner.open())
    model.run(refiner.refine("q", "Is it large?", lambda _: None, image="a.png"))
    assert shown[-1].endswith("[image]\na.png\n[user]\nIs it large?\nAnswer with a short phrase.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--image-field", "imgae", "--bank", "bank"), "--image-field 'imgae' is no field of the file"),
        (("--image-field", "image"), "nothing looks at images; add --bank DIR, or --answer"),
        (("--images", "nowhere", "--bank", "bank"), "nowhere: no folder of images"),
    ],
)
def test_a_mistake_is_said_before_there_is_a_run(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    done = imc(tmp_path, "refine", "q.jsonl", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "runs").exists()
