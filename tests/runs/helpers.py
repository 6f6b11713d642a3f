"""Runs the scripted ``imc``: here, or where a test wants to interrupt it, in a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from cli import run
from tests.runs.scripted import refiner_module

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.runs.scripted"]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IMC_", "SCRIPTED_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def imc(folder: Path, *arguments: str, stdin: str = "", **variables: str) -> Done:
    """Run the scripted ``imc`` here, as the shell would in ``folder``."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for name in ("stdout", "stderr")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith(("IMC_", "SCRIPTED_"))]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setitem(sys.modules, "imc_agents.agents.refiner", refiner_module())
        patch.setattr(sys, "argv", ["imc", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        code = run(arguments)
    output: list[str] = []
    for stream in streams.values():
        stream.flush()
        output.append(cast(io.BytesIO, stream.buffer).getvalue().decode())
    return Done(code, *output)


def write_questions(path: Path, count: int) -> list[str]:
    """Write questions of which a third has a slip; every tenth repeats an id, every 37th row is bad."""
    ids: list[str] = []
    with path.open("w") as stream:
        for number in range(count):
            row: dict[str, Any] = {"id": f"q{number - 1 if number % 10 == 9 else number}", "n": number}
            row["question"] = (
                f"Is teh organ {number} normal?" if number % 3 == 0 else f"Is organ {number} normal?"
            )
            if number % 37 == 36:
                row["question"] = 3
            ids.append(row["id"])
            stream.write(json.dumps(row) + "\n")
    return ids


def only_run(folder: Path) -> Path:
    """Return the one run folder there is."""
    (run,) = [path for path in (folder / "runs").iterdir() if (path / "manifest.json").exists()]
    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *questions: object) -> None:
    path.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((only_run(folder) / "manifest.json").read_text())
