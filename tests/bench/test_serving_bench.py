"""Small real runs of the benchmark of served models: on the embedded model, and against the stub server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cli
from imc_agents.bench.recording import Recording, RecordingBackend, ReplayBackend
from imc_agents.bench.serving_stub import ReplyBook
from imc_agents.config.schema import BackendConfig
from imc_agents.errors import InfraError, UsageError
from imc_agents.models.openai_wire import scoring_body
from imc_agents.models.protocol import Capabilities, Score, TokenScore
from imc_agents.models.registry import create_backend

ROOT = Path(__file__).parents[2]
QUESTIONS = ("--questions", "examples/noisy_questions.jsonl", "--noise", "none", "-n", "4")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "cli.py", "bench", "serving", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_run_is_compared_with_the_flat_replay_of_its_calls(model: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bench(*QUESTIONS, "--in-flight", "1,3", "-o", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {key: json.loads((out / "serving.json").read_text())[key] for key in found}
    assert (found["backend"], found["questions"]) == ("embedded", 4)
    assert [level["in_flight"] for level in found["levels"]] == [1, 3]
    for level in found["levels"]:
        assert level["ratio"] == pytest.approx(level["pipeline_seconds"] / level["flat_seconds"], rel=0.02)
        ((pipeline,), (flat,)) = level["passes"]["pipeline"], level["passes"]["flat"]
        assert pipeline["calls"] == flat["calls"] == 4 * level["calls_per_question"] > 0
        assert (level["failed"], level["flat_failed_calls"]) == (0, 0)
        assert level["tokens_per_second"] is level["cache_hit_rate"] is None
    # With one question in flight nearly all of the time is spent in calls: they found the clock of their question.
    (alone,) = found["levels"][0]["passes"]["pipeline"]
    assert 0 < alone["outside_seconds"] < 0.5 * alone["seconds"]


def test_the_stub_gives_the_recorded_texts_again(model: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bench(*QUESTIONS, "--stub", "--in-flight", "1,3", "--turns", "2", "-o", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {key: json.loads((out / "orchestration.json").read_text())[key] for key in found}
    assert (found["recorded_on"], found["questions"], found["failed"]) == ("embedded", 4, 0)
    assert found["calls_per_question"] >= 1
    for level in found["levels"]:
        assert level["ratio"] > 0
        assert min(level[f"{side}_ms_per_call"] for side in ("pipeline", "bare", "no_http")) > 0
        assert all(len(passes) == 2 for passes in level["passes"].values())
    assert not (out / "replies.json").exists()


@pytest.mark.parametrize("listed", ["8,many", "0,8", ",", "-1"])
def test_wrong_numbers_in_flight_are_one_line(listed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "serving", f"--in-flight={listed}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"imc: error: --in-flight {listed!r}: write numbers from 1 by comma, e.g. 1,8,32"


@pytest.mark.parametrize("mode", [(), ("--stub",)])
def test_roles_on_another_backend_are_refused(mode: tuple[str, ...], capsys: Any) -> None:
    other = ("--set", "backends.other.kind=embedded", "--set", "roles.critique.backend=other")
    assert cli.run(["bench", "serving", *QUESTIONS, *mode, *other]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("let every role use backends.default (roles.critique.backend = other)")


def score(*tokens: tuple[int, int, float]) -> Score:
    return Score(tuple(TokenScore(*token) for token in tokens))


class Stub:
    """The stub server as a process, with a reply to one scoring request."""

    context = "A radiologist asks:"
    texts = (" a cyst", " é!", "")
    scores = (
        score((0, 2, -0.5), (2, 7, -3.25)),
        score((0, 1, -1.0), (1, 2, -2.0), (2, 2, -0.5), (2, 3, -4.0)),
        score(),
    )

    def __init__(self, folder: Path) -> None:
        book = ReplyBook()
        body = scoring_body("any", [self.context + text for text in self.texts], "prompt_logprobs")
        book.add_scores(body, self.context, self.texts, self.scores)
        book.save(folder / "replies.json")
        command = [sys.executable, "-m", "imc_agents.bench.serving_stub", str(folder / "replies.json")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert self.process.stdout is not None
        self.root = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def close(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(30)


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    started = Stub(tmp_path)
    yield started
    started.close()


def test_the_stub_ends_when_its_stdin_is_closed(stub: Stub) -> None:
    assert stub.process.poll() is None
    assert stub.close() == 0


def test_the_vllm_backend_reads_recorded_scores_from_the_stub(stub: Stub) -> None:
    spec = BackendConfig(kind="vllm", options={"base_url": f"{stub.root}/v1"})

    async def ask() -> tuple[Capabilities, list[Score], list[Score]]:
        backend = create_backend(spec)
        try:
            capabilities = await backend.open()
            known, _ = await backend.score(stub.context, stub.texts)
            unknown, _ = await backend.score(stub.context, [" something"])
        finally:
            await backend.close()
        return capabilities, known, unknown

    capabilities, known, unknown = asyncio.run(ask())
    assert (capabilities.model, capabilities.scores, capabilities.images) == ("stub", True, False)
    assert capabilities.max_tokens == 1_000_000
    assert tuple(known) == stub.scores
    assert unknown[0].total == -1.0


def test_the_stub_refuses_chats_that_were_not_recorded(stub: Stub) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
    for request in (f"{stub.root}/v1/chat/completions", f"{stub.root}/nothing"):
        data = body if "chat" in request else None
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(request, data), timeout=10)
        with refused.value as answer:
            assert answer.code == 404
            assert json.load(answer)["error"]["message"]


class Flaky:
    """Fails the first call and answers the others."""

    def __init__(self) -> None:
        self.calls = 0

    async def score(self, context: str, texts: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise InfraError("gone")
        return [score((0, 2, -float(self.calls)))], None


def test_a_recording_gives_one_answer_to_equal_calls_but_no_failure_twice() -> None:
    recording = Recording(keeps_outcomes=True)
    backend = RecordingBackend(Flaky(), Capabilities("m", "1", True, 10), recording)  # type: ignore[arg-type]

    async def ask() -> list[float]:
        with pytest.raises(InfraError):
            await backend.score("c", [" a"])
        (again,), _ = await backend.score("c", [" a"])
        (first,), _ = await backend.score("c", [" b"])
        (second,), _ = await backend.score("c", (" b",))
        return [again.total, first.total, second.total]

    assert asyncio.run(ask()) == [-2.0, -3.0, -3.0]
    assert len(recording.calls) == 4
    replay = ReplayBackend(Capabilities("m", "1", True, 10), recording.outcomes)
    assert asyncio.run(replay.score("c", [" b"]))[0][0].total == -3.0
    with pytest.raises(UsageError, match="something else"):
        asyncio.run(replay.score("c", [" d"]))
