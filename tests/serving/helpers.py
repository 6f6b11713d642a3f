"""What the tests of servers share: checkpoint folders, and ``imc serve`` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0


def write_checkpoint(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def environment(cache: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IMC_", "VLLM_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "IMC_CACHE": str(cache), **variables}


class Serving:
    """One ``imc serve`` in a process of its own, with its output in files."""

    def __init__(self, folder: Path, module: str, *arguments: str, **variables: str) -> None:
        self.folder = folder
        self.environment = environment(folder / "cache", **variables)
        self.command = [sys.executable, "-m", module]
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [*self.command, "serve", *arguments],
                cwd=folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def ask(self, *arguments: str) -> list[dict[str, Any]]:
        """Another ``imc serve`` beside it, with its JSON lines."""
        done = subprocess.run(
            [*self.command, "serve", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def record(self) -> dict[str, Any]:
        """The record of the server, as soon as there is one."""
        paths: list[Path] = []

        def found() -> bool:
            paths[:] = (self.folder / "cache" / "servers").glob("*.json")
            return bool(paths)

        wait_for(found, self)
        return json.loads(paths[0].read_text())

    def wait_until_ready(self, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        wait_for(lambda: self.stdout.endswith("\n"), self, seconds)
        return json.loads(self.stdout)

    def end(self) -> None:
        """Whatever the test did: nothing of it is left."""
        for path in (self.folder / "cache" / "servers").glob("*.json"):
            for pid in group(json.loads(path.read_text())["pid"]):
                psutil.Process(pid).kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def wait_for(
    condition: Callable[[], bool], serving: Serving | None = None, seconds: float = PATIENCE_SECONDS
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, serving and serving.stderr
        assert serving is None or serving.process.poll() is None, serving.stderr
        time.sleep(0.05)


def group(leader: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    return found
