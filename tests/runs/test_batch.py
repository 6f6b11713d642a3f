"""The batch runner in process: what becomes of each row, and how much is in memory."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from imc_agents.data.rows import Row
from imc_agents.errors import BackendUnreachableError, ConfigError, InfraError, UsageError
from imc_agents.refinement import Refinement
from imc_agents.runs.batch import Refine, _pauses, run_batch
from imc_agents.runs.writer import RunWriter, StorageError
from imc_agents.trace.events import Called, Perceived, Recorder, load
from tests.runs.scripted import Refiner


def make_row(index: int, question: str, row_id: str | None = None) -> Row:
    return Row(index, row_id or f"r{index}", question, {"question": question}, None, index + 1)


def run(
    folder: Path,
    rows: Iterator[Row] | list[Row],
    refine: Refine,
    *,
    concurrency: int = 4,
    timeout_seconds: float = 30,
    infra_retries: int = 2,
    stop: asyncio.Event | None = None,
) -> tuple[bool, list[Refinement | None]]:
    seen: list[Refinement | None] = []

    async def main() -> bool:
        with RunWriter(folder) as writer:
            return await run_batch(
                rows,
                refine,
                writer,
                concurrency=concurrency,
                timeout_seconds=timeout_seconds,
                infra_retries=infra_retries,
                on_progress=seen.append,
                stop=stop or asyncio.Event(),
            )

    return asyncio.run(main()), seen


def samples(folder: Path) -> dict[int, sqlite3.Row]:
    connection = sqlite3.connect(folder / "run.db")
    connection.row_factory = sqlite3.Row
    rows = {row["row_index"]: row for row in connection.execute("SELECT * FROM samples")}
    connection.close()
    return rows


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch):
    monkeypatch.setattr("imc_agents.runs.batch._FIRST_PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("question", "status", "error"),
    [
        ("Is teh liver normal?", "ok", None),
        ("Is the liver normal?", "unchanged", None),
        ("fail:infra2", "unchanged", None),
        ("fail:infra3", "infra_error", "503 from the server"),
        ("fail:model", "model_error", "the reply is not JSON: 'Sure!'"),
        ("fail:data", "data_error", "the question does not fit the model's context of 2048 tokens"),
        ("fail:slow", "timeout", "no result within 0.5 s"),
        (
            "fail:defect",
            "infra_error",
            "defect in imc-agents, please report: KeyError: 'boom' in scripted.py:",
        ),
    ],
)
def test_what_happens_to_a_row_is_its_status_and_the_others_go_on(tmp_path, question, status, error):
    rows = [make_row(0, "Is teh spleen normal?"), make_row(1, question), make_row(2, "Is teh hip normal?")]
    finished, seen = run(tmp_path, rows, Refiner(None).refine, timeout_seconds=0.5)
    assert finished
    stored = samples(tmp_path)
    assert [stored[index]["status"] for index in (0, 2)] == ["ok", "ok"]
    row = stored[1]
    assert row["status"] == status
    assert (row["error"] or "").startswith(error or "")
    assert len(seen) == 3
    if error:
        assert row["refined"] == row["original"] == question
        assert row["confidence"] == 0
        assert row["calls"] == 1, "what a failed row has cost is kept"


def test_partial_events_of_a_failed_row_are_kept_and_those_of_failed_attempts_are_not(tmp_path):
    run(tmp_path, [make_row(0, "fail:model"), make_row(1, "fail:infra2")], Refiner(None).refine)
    connection = sqlite3.connect(tmp_path / "run.db")
    rows = connection.execute("SELECT row_index, seq, type, body FROM events ORDER BY 1, 2").fetchall()
    connection.close()
    assert [row[:3] for row in rows] == [
        (0, 0, "perceived"),
        (0, 1, "called"),
        (1, 0, "perceived"),
        (1, 1, "called"),
    ]
    assert isinstance(load(rows[0][3]), Perceived)


def test_pauses_between_attempts_grow_and_do_not_depend_on_the_clock(tmp_path):
    pauses = list(_pauses("r0", 3))
    assert list(_pauses("r0", 3)) == pauses
    assert list(_pauses("r1", 3)) != pauses
    many = list(_pauses("r0", 20))
    assert many[:3] == pauses
    assert len(many) == 20
    for number, pause in enumerate(many):
        middle = min(0.01 * 2**number, 30)
        assert 0.5 * middle <= pause <= 1.5 * middle


def test_an_infrastructure_error_is_tried_again_as_often_as_is_set(tmp_path):
    attempts = 0

    async def refine(
        sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        nonlocal attempts
        attempts += 1
        raise InfraError("down")

    run(tmp_path, [make_row(0, "A?")], refine, infra_retries=3)
    assert attempts == 4


def test_rows_with_one_id_are_all_refined_under_names_of_their_own(tmp_path):
    refiner = Refiner(None)
    rows = [make_row(0, "Is teh A?", "x"), make_row(1, "Is teh B?", "x"), make_row(2, "C?", "y")]
    run(tmp_path, rows, refiner.refine)
    assert sorted(refiner.asked) == ["x", "x#2", "y"]
    stored = samples(tmp_path)
    assert [stored[index]["id"] for index in range(3)] == ["x", "x", "y"]
    assert ["duplicate_id" in json.loads(stored[index]["flags"]) for index in range(3)] == [
        False,
        True,
        False,
    ]


def test_rows_are_read_only_as_they_are_needed(tmp_path):
    read = finished = most = 0

    def rows() -> Iterator[Row]:
        nonlocal read, most
        for index in range(200):
            read += 1
            most = max(most, read - finished)
            yield make_row(index, "A?")

    async def refine(
        sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        nonlocal finished
        await asyncio.sleep(0.001)
        finished += 1
        return Refinement(question, question, "unchanged")

    run(tmp_path, rows(), refine, concurrency=5)
    assert finished == 200
    assert most <= 6


@pytest.mark.parametrize("error", [BackendUnreachableError("gone"), ConfigError("wrong"), UsageError("odd")])
def test_what_concerns_all_rows_ends_the_batch_and_keeps_what_is_done(tmp_path, error):
    cancelled: list[str] = []

    async def refine(
        sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        if question == "bad":
            await asyncio.sleep(0.05)
            raise error
        if question == "slow":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(sample_id)
                raise
        return Refinement(question, question, "unchanged")

    rows = [make_row(0, "A?"), make_row(1, "slow"), make_row(2, "bad")]
    with pytest.raises(type(error)):
        run(tmp_path, rows, refine)
    assert list(samples(tmp_path)) == [0]
    assert cancelled == ["r1"]


def test_stop_cancels_what_is_in_flight_and_a_second_batch_does_only_the_rest(tmp_path):
    stop = asyncio.Event()
    asked: list[str] = []

    async def refine(
        sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        if not asked:
            asyncio.get_running_loop().call_later(0.05, stop.set)
        asked.append(sample_id)
        if question == "slow":
            await asyncio.sleep(0.3)
        return Refinement(question, question, "unchanged")

    rows = [make_row(index, "slow" if index == 1 else "A?") for index in range(5)]
    finished, _ = run(tmp_path, rows, refine, concurrency=2, stop=stop)
    assert not finished
    assert sorted(samples(tmp_path)) == [0, 2, 3, 4]
    asked.append("--")
    finished, seen = run(tmp_path, rows, refine)
    assert finished
    assert asked[-1] == "r1"
    assert asked[-2] == "--"
    assert seen.count(None) == 4
    assert sorted(samples(tmp_path)) == [0, 1, 2, 3, 4]


def test_text_that_cannot_be_stored_is_a_model_error(tmp_path):
    async def refine(
        sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        if question == "event":
            record(Perceived(agent="a", round=1, text="\ud83d", clean=True))
        return Refinement(question, "\ud83d", "ok", confidence=float("nan") if question == "nan" else 1)

    run(tmp_path, [make_row(0, "event"), make_row(1, "text"), make_row(2, "nan")], refine)
    assert {row["status"] for row in samples(tmp_path).values()} == {"model_error"}


def test_a_full_disk_is_one_clear_error_and_loses_nothing_that_was_stored(tmp_path):
    async def refine(
        sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        call = {"agent": "a", "round": 1, "operation": "generate", "backend": "default", "reply": ""}
        costs = {"prompt_tokens": 1, "completion_tokens": 0, "milliseconds": 1}
        record(Called(**call, **costs, prompt="x" * 20_000))
        return Refinement(question, question, "unchanged")

    async def main(rows: list[Row], pages: int) -> None:
        with RunWriter(tmp_path) as writer:
            writer._connection.execute(f"PRAGMA max_page_count = {pages}")
            await run_batch(
                rows,
                refine,
                writer,
                concurrency=4,
                timeout_seconds=5,
                infra_retries=0,
                on_progress=lambda _: None,
                stop=asyncio.Event(),
            )

    rows = [make_row(index, "A?") for index in range(600)]
    with pytest.raises(StorageError) as error:
        asyncio.run(main(rows, 2000))
    assert "database or disk is full" in str(error.value)
    assert "free some space, then `imc resume" in str(error.value)
    assert "\n" not in str(error.value)
    stored = set(samples(tmp_path))
    assert stored
    assert len(stored) < 600
    asyncio.run(main(rows, 100_000))
    assert set(samples(tmp_path)) == set(range(600))


def test_a_second_process_cannot_fill_the_same_run(tmp_path):
    with RunWriter(tmp_path), pytest.raises(UsageError, match=r"process \d+ on .* is filling this run"):
        RunWriter(tmp_path)
    RunWriter(tmp_path).close()
