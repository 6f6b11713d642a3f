"""Records of servers: for the user alone, and only for what lives."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imc_agents.errors import BackendUnreachableError, UsageError
from imc_agents.models import served as module
from imc_agents.models.local_servers import servers_with
from imc_agents.models.served import (
    Served,
    api_key_for,
    forget_record,
    is_alive,
    process_birth,
    records_directory,
    save_record,
    served_here,
)

KEY = "a-secret-key"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as sleeper:
        yield sleeper
        sleeper.kill()


def record(pid: int, *, port: int = 8123, started: str = "2026-01-02T03:04:05+00:00") -> Served:
    return Served(
        base_url=f"http://127.0.0.1:{port}/v1",
        model="m",
        checkpoint="o/m",
        pid=pid,
        birth=process_birth(pid) or "",
        started=started,
        log="/tmp/log",
        host=module.socket.gethostname(),
        ready=True,
        api_key=KEY,
    )


def test_nobody_else_may_read_a_record_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    opened = os.open

    def watched(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = opened(path, flags, mode)
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        path = save_record(record(os.getpid()))
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_a_folder_that_was_open_to_all_is_closed(cache: Path) -> None:
    (cache / "servers").mkdir(parents=True, mode=0o755)
    assert stat.S_IMODE(records_directory().stat().st_mode) == 0o700


def test_records_of_living_processes_are_found_oldest_first(process: subprocess.Popen[bytes]) -> None:
    young, old = record(process.pid, port=8001), record(os.getpid(), port=8002, started="2025-01-01")
    save_record(young)
    save_record(old)
    assert served_here() == [old, young]
    assert api_key_for("http://127.0.0.1:8001/v1") == api_key_for("http://localhost:8001/v1/") == KEY
    assert api_key_for("http://127.0.0.1:8003/v1") is None
    forget_record(old)
    forget_record(old)
    assert served_here() == [young]


def test_one_that_is_not_ready_is_not_offered(process: subprocess.Popen[bytes]) -> None:
    starting = replace(record(process.pid), ready=False)
    save_record(starting)
    assert served_here() == []
    assert served_here(starting=True) == [starting]
    assert api_key_for(starting.base_url) == KEY


def test_the_record_of_a_process_that_ended_is_removed(process: subprocess.Popen[bytes]) -> None:
    found = record(process.pid)
    path = save_record(found)
    process.kill()
    while process_birth(process.pid) is not None:
        pass
    assert not is_alive(found), "it has ended, although nobody has waited for it"
    assert served_here() == []
    assert not path.exists()


def test_a_process_that_has_the_number_of_another_is_not_taken_for_it() -> None:
    path = save_record(replace(record(os.getpid()), birth="another boot 1"))
    assert served_here() == []
    assert not path.exists()


def test_records_of_other_machines_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module.socket, "gethostname", lambda: "node 7/x")
        path = save_record(replace(record(os.getpid()), birth="gone"))
    assert served_here(starting=True) == []
    assert path.exists()
    assert path.parent == records_directory()


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({"pid": 1}),
        "PID",
        "PORT",
        "KIND",
        "\x00\xff",
    ],
)
def test_a_damaged_record_is_removed(damage: str) -> None:
    path = save_record(record(os.getpid()))
    values = json.loads(path.read_text())
    changes = {"PID": {"pid": -1}, "PORT": {"base_url": "http://127.0.0.1/v1"}, "KIND": {"ready": 1}}
    text = json.dumps(values | changes[damage]) if damage in changes else damage
    path.write_bytes(text.encode("latin-1"))
    assert served_here(starting=True) == []
    assert not path.exists()


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(record(os.getpid()))
    assert KEY not in f"{record(os.getpid())}"


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMC_CACHE", "/dev/null/nowhere")
    assert served_here() == []
    assert api_key_for("http://127.0.0.1:8000/v1") is None
    with pytest.raises(UsageError, match="set IMC_CACHE to a writable folder") as caught:
        save_record(record(os.getpid()))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("pid", [-1, 0, 1, 2**22 + 1])
def test_no_such_process(pid: int) -> None:
    assert process_birth(pid) is None


def test_of_several_models_one_must_be_named(process: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        save_record(record(process.pid))
        save_record(replace(record(other.pid, port=8124), model="another"))
        with pytest.raises(BackendUnreachableError, match=r"several models .*\(another, m\); .*--model NAME"):
            asyncio.run(servers_with(""))
        assert asyncio.run(servers_with("another")) == ("http://127.0.0.1:8124/v1",)
        other.kill()
        other.wait()
    assert asyncio.run(servers_with("")) == ("http://127.0.0.1:8123/v1",)
