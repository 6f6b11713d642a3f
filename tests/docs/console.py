"""Runs the console sessions of a page and compares what the page shows with what a terminal shows.

A page's fenced blocks with ``title="NAME"`` are files, written in order. Each line ``$ ...`` of a ```` ```console ````
block is run with its output piped (so ``imc`` prints JSON lines, then what stderr holds), and of a ```` ```console
terminal ```` block in a pseudo-terminal of 100 columns. The lines below it must appear in the real output in that
order. White space counts as one blank, ``...`` stands for anything within a line, and alone on a line for any lines.
A command must succeed unless the line ``# exits N`` stands below it. The ports of 127.0.0.1 that a page names are ones
where nothing listens, whatever runs on this machine.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^(?P<fence>```+|~~~+)\s*(?P<language>[\w-]*)\s*(?P<rest>.*)$")
_TITLE = re.compile(r'title="(?P<name>[^"]+)"')
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}\b")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file name it carries, its lines and where it stands."""

    language: str
    terminal: bool
    title: str | None
    lines: tuple[str, ...]
    number: int


@dataclass
class Command:
    """One ``$`` line: what to run, what the page shows, the exit code, and the number of its line."""

    line: str
    number: int
    shown: list[str] = field(default_factory=list)
    exit_code: int = 0


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page in order."""
    lines = iter(enumerate(page.splitlines(), start=1))
    for number, line in lines:
        if opening := _FENCE.match(line):
            body: list[str] = []
            for _, inside in lines:
                if inside.strip() == opening["fence"]:
                    break
                body.append(inside)
            title = _TITLE.search(opening["rest"])
            terminal = "terminal" in opening["rest"].split()
            yield Block(opening["language"], terminal, title["name"] if title else None, tuple(body), number)


def commands(block: Block) -> list[Command]:
    """The commands of a console block, with what is shown for each."""
    found: list[Command] = []
    for number, line in enumerate(block.lines, start=block.number + 1):
        if line.startswith("$ "):
            found.append(Command(line[2:], number))
        elif found and found[-1].line.endswith("\\"):
            found[-1].line = found[-1].line[:-1] + line.strip()
        elif found and (code := re.fullmatch(r"# exits (\d+)", line.strip())):
            found[-1].exit_code = int(code[1])
        elif found and line.strip():
            found[-1].shown.append(line)
    return found


def run(line: str, folder: Path, *, terminal: bool) -> tuple[int, str]:
    """Run a shell line and return its exit code and what it printed; a terminal has no colours."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "COLUMNS": "100",
        "LINES": "50",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    shell = ["bash", "-c", line]
    if not terminal:
        done = subprocess.run(
            shell, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        shell, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    screen = b""
    with contextlib.suppress(OSError):  # Linux says EIO when the last writer has closed the terminal
        while part := os.read(ours, 65536):
            screen += part
    os.close(ours)
    return process.wait(), _ESCAPE.sub("", screen.decode(errors="replace")).replace("\r", "\n")


def missing(shown: list[str], screen: str) -> str | None:
    """The first shown line that the screen lacks (in order), or None."""
    real = iter([" ".join(line.split()) for line in screen.splitlines()])
    for line in shown:
        wanted = " ".join(line.split())
        if wanted == "...":
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.split("...")))
        if not any(pattern.fullmatch(candidate) for candidate in real):
            return line
    return None


@contextmanager
def silent_ports(text: str) -> Iterator[dict[str, str]]:
    """For each port of 127.0.0.1 in a text one that nobody else can take, and where nothing listens."""
    with contextlib.ExitStack() as held:
        ports: dict[str, str] = {}
        for port in sorted(set(_PORT.findall(text))):
            taken = held.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            ports[port] = str(taken.getsockname()[1])
        yield ports


def renamed(text: str, ports: dict[str, str]) -> str:
    """The text with other ports of 127.0.0.1."""
    return _PORT.sub(lambda found: ports.get(found[0], found[0]), text)


def check(page: Path, folder: Path) -> list[str]:
    """Run a page in a folder; returns one problem for each command that does not do what the page shows."""
    text = page.read_text(encoding="utf-8")
    with silent_ports(text) as silent:
        return _check(page.name, text, folder, silent)


def _check(name: str, text: str, folder: Path, silent: dict[str, str]) -> list[str]:
    problems: list[str] = []
    shown_as = {real: on_page for on_page, real in silent.items()}
    for block in blocks(text):
        if block.title:
            target = folder / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(renamed("\n".join(block.lines) + "\n", silent), encoding="utf-8")
        if block.language != "console":
            continue
        for command in commands(block):
            code, screen = run(renamed(command.line, silent), folder, terminal=block.terminal)
            screen = renamed(screen, shown_as)
            where = f"{name}:{command.number}: $ {command.line}"
            if code != command.exit_code:
                problems.append(f"{where}\nexited {code}, not {command.exit_code}; it printed:\n{screen}")
            elif (line := missing(command.shown, screen)) is not None:
                problems.append(
                    f"{where}\ndid not print (or not in this order): {line}\nit printed:\n{screen}"
                )
    return problems
