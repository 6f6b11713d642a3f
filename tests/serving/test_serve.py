"""``imc serve`` as a process, with a fake server in place of vLLM's: no end of it leaves anything behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving.helpers import Serving, environment, group, wait_for, write_checkpoint

MODULE = "tests.serving.scripted"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Starts ``imc serve`` with a fake server that does what it is told, on any free port."""
    model = write_checkpoint(tmp_path / "tiny", model_type="llama")
    started: list[Serving] = []

    def start(what: str, *arguments: str, folder: Path = tmp_path) -> Serving:
        folder.mkdir(exist_ok=True)
        serving = Serving(
            folder, MODULE, "--cpu", "--model", str(model), *arguments, FAKE_SERVER=what, IMC_DEBUG="1"
        )
        started.append(serving)
        return serving

    yield start
    for serving in started:
        serving.end()


def test_ready_status_and_ctrl_c(serve: Callable[..., Serving]) -> None:
    serving = serve("ready")
    ready = serving.wait_until_ready()
    assert (ready["ready"], ready["model"]) == (True, "tiny")
    members = group(ready["pid"])
    assert len(members) == 3, "the keeper, the server and its child"
    assert serving.process.pid not in members

    (state,) = serving.ask("--status")
    assert (state["state"], state["base_url"], state["pid"]) == ("healthy", ready["base_url"], ready["pid"])
    assert (state["running"], state["waiting"], state["kv_cache_usage"]) == (2, 1, 0.25)
    assert state["prefix_cache_hit_rate"] == 0.5
    key = serving.record()["api_key"]
    assert len(key) >= 40
    assert "api_key" not in state
    assert serving.ask("--status", "--show-key")[0]["api_key"] == key
    assert serving.ask("--status", "--port", "1") == []
    for place in (serving.stdout, serving.stderr, Path(ready["log"]).read_text(), _command_lines(members)):
        assert key not in place
    assert stat.S_IMODE(Path(ready["log"]).stat().st_mode) == 0o600

    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(30) == 0
    assert "Traceback" not in serving.stderr
    assert serving.stderr.endswith("stopped\n")
    assert group(ready["pid"]) == []
    assert serving.ask("--status") == []


def test_stop_from_elsewhere(serve: Callable[..., Serving], tmp_path: Path) -> None:
    serving = serve("ready")
    ready = serving.wait_until_ready()
    assert serving.ask("--stop", "--port", "1") == []
    (stopped,) = serving.ask("--stop")
    assert stopped["stopped"] == ready["base_url"]
    assert group(ready["pid"]) == []
    assert serving.process.wait(30) == 0
    assert serving.stderr.endswith("tiny was stopped from elsewhere\n")
    assert list((tmp_path / "cache" / "servers").glob("*.json")) == []


def test_two_servers_take_two_ports(serve: Callable[..., Serving]) -> None:
    first, second = serve("ready"), None
    ready = first.wait_until_ready()
    port = ready["base_url"].rsplit(":", 1)[1].removesuffix("/v1")
    done = subprocess.run(
        [*first.command, "serve", "--cpu", "--model", "tiny", "--port", port],
        cwd=first.folder,
        env=first.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert f"port {port} is that of tiny" in done.stderr
    second = Serving(first.folder, MODULE, "--cpu", "--model", "tiny", FAKE_SERVER="ready")
    try:
        other = second.wait_until_ready()
        assert other["base_url"] != ready["base_url"]
        assert len(second.ask("--status")) == 2
    finally:
        second.process.terminate()
        assert second.process.wait(30) == 0, "SIGTERM ends it as Ctrl-C does"


@pytest.mark.parametrize("what", ["ready", "stuck"])
def test_a_killed_imc_serve_takes_the_server_along(serve: Callable[..., Serving], what: str) -> None:
    serving = serve(what)
    leader = serving.wait_until_ready()["pid"] if what == "ready" else serving.record()["pid"]
    wait_for(lambda: len(group(leader)) == 3)
    serving.process.kill()
    wait_for(lambda: group(leader) == [])
    assert serving.ask("--status") == [], "its record does not count any more"


def test_ctrl_c_while_it_starts(serve: Callable[..., Serving]) -> None:
    serving = serve("stuck")
    leader = serving.record()["pid"]
    wait_for(lambda: len(group(leader)) == 3)
    (state,) = serving.ask("--status")
    assert (state["state"], state["stage"]) == ("starting", "starting the engine")
    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(15) == 130, "it is given less than the 20 seconds of one that is ready"
    assert "Traceback" not in serving.stderr
    assert group(leader) == []


def test_a_second_ctrl_c_kills_at_once(serve: Callable[..., Serving]) -> None:
    serving = serve("stubborn")
    leader = serving.wait_until_ready()["pid"]
    serving.process.send_signal(signal.SIGINT)
    wait_for(lambda: "Ctrl-C again" in serving.stderr)
    assert len(group(leader)) == 3
    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(10) == 0, "far less than the 20 seconds that it is given otherwise"
    assert group(leader) == []


def test_a_server_that_does_not_start_says_why(serve: Callable[..., Serving]) -> None:
    log = (
        "INFO 11-22 23:13:12 [a.py:1] fine\n(W pid=3) ERROR 11-22 23:13:12 [b.py:2] ValueError: no such thing"
    )
    serving = serve(log)
    leader = serving.record()["pid"] if serving.process.poll() is None else None
    assert serving.process.wait(60) == 4
    last = serving.stderr.splitlines()[-1]
    assert last.startswith("imc: error: the server of tiny ended: ValueError: no such thing; log: ")
    assert Path(last.rpartition(" ")[2]).read_text().endswith(f"{log}\n")
    assert leader is None or group(leader) == [], "its child is gone too"


def test_a_server_that_dies_later_says_why(serve: Callable[..., Serving]) -> None:
    serving = serve("ready")
    ready = serving.wait_until_ready()
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(ready["base_url"].removesuffix("/v1") + "/die", timeout=10)
    assert serving.process.wait(30) == 4
    assert "the server of tiny ended: ValueError: the engine broke; log: " in serving.stderr
    assert group(ready["pid"]) == []


def test_a_killed_keeper_leaves_nothing_behind(serve: Callable[..., Serving]) -> None:
    serving = serve("ready")
    leader = serving.wait_until_ready()["pid"]
    os.kill(leader, signal.SIGKILL)
    assert serving.process.wait(30) == 4
    assert "it was killed from outside (signal 9)" in serving.stderr
    wait_for(lambda: group(leader) == [])


def test_not_ready_in_time(serve: Callable[..., Serving]) -> None:
    serving = serve("stuck", "--ready-seconds", "1")
    assert serving.process.wait(60) == 4
    assert (
        "tiny was not ready after 1 s (it was starting the engine); raise --ready-seconds" in serving.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--model is missing, for example: imc serve --model "),
        (["google/medgemma-4b-it"], "--model is missing"),
        (["--status", "--stop"], "give one of them"),
        (["--stop", "--model", "m/m"], "--stop starts no server"),
        (["--show-key"], "--show-key goes with --status"),
        (["--model", "m/m", "--port", "0"], "--port"),
    ],
)
def test_usage(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "serve", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path / "cache"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr


def _command_lines(pids: list[int]) -> str:
    return "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)
