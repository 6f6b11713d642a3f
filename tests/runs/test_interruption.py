"""A run that ends early, by a signal or by a backend, and `imc resume`: nothing is lost, nothing done twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from imc_agents.config.schema import RunConfig
from imc_agents.models.protocol import Capabilities
from imc_agents.runs.execute import execute_run
from tests.runs.helpers import imc, lines, manifest, only_run, start, write
from tests.runs.scripted import Refiner


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stores_what_is_done_and_says_how_to_go_on(tmp_path, number):
    write(tmp_path / "in.jsonl", "Is teh A?", "B?", "fail:slow", "fail:slow")
    process = start(tmp_path, "refine", "in.jsonl", SCRIPTED_LOG="log")
    while not (tmp_path / "log").exists() or len((tmp_path / "log").read_text().split()) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    run = only_run(tmp_path)
    hint = f"interrupted, 2 of 4 questions are done; go on with: imc resume runs/{run.name}"
    assert stderr.splitlines()[-1] == hint
    assert manifest(tmp_path)["state"] == "interrupted"
    assert not (tmp_path / "in.refined.jsonl").exists()
    done = imc(tmp_path, "resume", hint.split()[-1], "--concurrency", "9", SCRIPTED_REPAIRED="1")
    assert done.returncode == 0, done.stderr
    assert manifest(tmp_path)["sittings"] == 2
    statuses = [row["status"] for row in lines(tmp_path / "in.refined.jsonl")]
    assert statuses == ["ok", "unchanged", "unchanged", "unchanged"]


def test_a_second_ctrl_c_kills_at_once(tmp_path):
    write(tmp_path / "in.jsonl", "fail:stubborn")
    process = start(tmp_path, "refine", "in.jsonl", "--set", "run.timeout_seconds=100")
    while not list(tmp_path.glob("runs/*/run.db")) or b"refining" not in os.read(
        process.stderr.fileno(), 100
    ):
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == -signal.SIGINT
    process.communicate()


def test_an_unreachable_backend_ends_the_run_with_4_and_it_can_be_resumed(tmp_path):
    write(tmp_path / "in.jsonl", "Is teh A?", "fail:unreachable")
    done = imc(tmp_path, "refine", "in.jsonl", "-j", "1")
    assert done.returncode == 4
    told = done.stderr.splitlines()
    assert told[-1] == "imc: error: http://127.0.0.1:9/v1: connection refused; start the server"
    assert "once the backend answers, go on with: imc resume runs/" in told[-2]
    state = manifest(tmp_path)
    assert state["state"] == "stopped"
    assert "connection refused" in state["error"]
    assert imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="1").returncode == 0
    assert [row["status"] for row in lines(tmp_path / "in.refined.jsonl")] == ["ok", "unchanged"]


def test_too_many_failures_end_with_3_and_retry_errors_redoes_all_but_data_errors(tmp_path):
    write(tmp_path / "in.jsonl", "fail:model", "fail:defect", "fail:slow", 3, "Is teh A?")
    settings = ("--set", "run.timeout_seconds=0.2")
    done = imc(tmp_path, "refine", "in.jsonl", *settings)
    assert done.returncode == 3
    assert "4 questions (80.0%) failed, more than run.error_threshold allows (5.0%)" in done.stderr
    statuses = [row["status"] for row in lines(tmp_path / "in.refined.jsonl")]
    assert statuses == ["model_error", "infra_error", "timeout", "data_error", "ok"]
    assert imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="1", SCRIPTED_LOG="none").returncode == 3
    assert not (tmp_path / "none").exists(), "without --retry-errors nothing is left to do"
    imc(tmp_path, "resume", "last", "--retry-errors", SCRIPTED_REPAIRED="1", SCRIPTED_LOG="some")
    assert sorted((tmp_path / "some").read_text().split()) == ["row-000001", "row-000002", "row-000003"]
    statuses = [row["status"] for row in lines(tmp_path / "in.refined.jsonl")]
    assert statuses == ["unchanged", "unchanged", "unchanged", "data_error", "ok"]
    tolerant = imc(tmp_path, "refine", "in.jsonl", *settings, "--set", "run.error_threshold=0.8")
    assert tolerant.returncode == 0


def test_interrupted_before_the_model_is_there_nothing_was_refined(tmp_path):
    class Loading(Refiner):
        async def open(self) -> dict[str, Capabilities]:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
            raise AssertionError

    write(tmp_path / "in.jsonl", "fail:model", "Is teh A?")
    imc(tmp_path, "refine", "in.jsonl")
    result = asyncio.run(
        execute_run(
            only_run(tmp_path),
            Loading(None),
            RunConfig(),
            on_start=lambda total, done: None,
            on_progress=lambda refinement: None,
            retry_errors=True,
        )
    )
    assert not result.finished
    assert (result.totals.rows, result.totals.failed, result.fresh) == (2, 1, 0)


def test_resume_refuses_what_would_not_match(tmp_path):
    write(tmp_path / "in.jsonl", "Is teh A?", "fail:unreachable")
    imc(tmp_path, "refine", "in.jsonl", "-j", "1")
    done = imc(tmp_path, "resume", "last", SCRIPTED_PROMPTS="xyz", SCRIPTED_REPAIRED="1")
    assert done.returncode == 2
    assert "prompt likelihood changed since the run started" in done.stderr
    write(tmp_path / "in.jsonl", "Is teh B?", "fail:unreachable")
    done = imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"imc: error: {tmp_path / 'in.jsonl'}: the input changed since the run started; "
        "put it back, or start a new run"
    )
    (tmp_path / "in.jsonl").unlink()
    done = imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="1")
    assert "the input of this run is gone" in done.stderr


def test_resume_goes_by_the_config_of_the_run_not_by_todays(tmp_path):
    write(tmp_path / "in.jsonl", "fail:unreachable", "fail:slow")
    imc(tmp_path, "refine", "in.jsonl", "--set", "run.timeout_seconds=0.3", "--set", "run.error_threshold=1")
    (tmp_path / "imc.yaml").write_text("run: {timeout_seconds: 99, error_threshold: 0}\n")
    done = imc(tmp_path, "resume", "last", SCRIPTED_REPAIRED="unreachable")
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "in.refined.jsonl")[1]["error"] == "no result within 0.3 s"


def test_a_live_run_cannot_be_resumed(tmp_path):
    write(tmp_path / "in.jsonl", "fail:slow")
    process = start(tmp_path, "refine", "in.jsonl")
    while not list(tmp_path.glob("runs/*/run.db")):
        time.sleep(0.01)
    done = imc(tmp_path, "resume", "last")
    process.kill()
    process.communicate()
    assert done.returncode == 2
    assert f"process {process.pid} on " in done.stderr
    assert "is filling this run; wait for it or stop it first" in done.stderr
