"""The command line as a whole: quick to start, one line for every failure, the exit codes that the docs promise."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import pytest
import typer

import cli
from imc_agents import __version__
from imc_agents.errors import BackendUnreachableError, ConfigError
from imc_agents.privacy import keep_text_local

HEAVY = {
    "torch",
    "transformers",
    "langgraph",
    "langchain_core",
    "vllm",
    "pyarrow",
    "wordfreq",
    "numpy",
    "httpx",
}


def imc(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | environment, check=False
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], [], ["refine", "--help"], ["trace", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = f"import sys, cli; code = cli.run({arguments!r}); print(code, *sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    code, *modules = done.stderr.split()
    assert code == "0"
    assert HEAVY.isdisjoint(modules)


def test_help_lists_every_command() -> None:
    shown = imc("--help").stdout
    assert all(f" {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_the_table_of_commands_says_what_the_commands_say(name: str) -> None:
    command = cli.load_command(name)
    first_line = inspect.cleandoc(command.help or "").splitlines()[0]
    assert first_line == cli.COMMANDS[name].help


def test_version() -> None:
    assert imc("--version").stdout == f"imc-agents {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["refin"], "unknown command 'refin'; did you mean 'refine'?"),
        (["xyzzy"], "unknown command 'xyzzy'; `imc --help` lists them"),
        (["--nope"], "--nope"),
        (["noise", "text"], "Missing argument"),
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(arguments: list[str], words: str) -> None:
    done = imc(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("imc: error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Lets ``imc doctor`` be replaced by something that fails."""
    monkeypatch.delenv("IMC_DEBUG", raising=False)
    return monkeypatch


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def doctor() -> None:
        raise error

    monkeypatch.setattr("imc_agents.commands.doctor.doctor", doctor)
    return cli.run(["doctor"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("config.yaml:3: wrong\nconfig.yaml:7: wrong too"), 2),
        (BackendUnreachableError("no server"), 4),
        (typer.Exit(3), 3),
        (typer.Abort(), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    assert fail_with(failing, error) == code
    shown = capsys.readouterr().err
    lines = str(error).splitlines() if isinstance(error, ConfigError | BackendUnreachableError) else []
    assert shown.splitlines() == [f"imc: error: {line}" for line in lines]


def test_a_defect_is_one_line_and_says_how_to_see_more(
    failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail_with(failing, ZeroDivisionError("division\nby zero")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("imc: error: ZeroDivisionError: division by zero; this is a defect")
    assert "IMC_DEBUG=1" in line
    failing.setenv("IMC_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        fail_with(failing, ZeroDivisionError())


def test_a_reader_that_leaves_early_is_no_error() -> None:
    script = f"{sys.executable} -m cli noise list | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_stdout_is_one_clear_line() -> None:
    script = f"{sys.executable} -m cli config schema > /dev/full"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "imc: error: cannot write the output: the disk is full; free some space\n"


def test_langsmith_stays_off_although_the_shell_turns_it_on() -> None:
    shell = {"LANGSMITH_TRACING": "true", "LANGCHAIN_TRACING_V2": "true", "LANGSMITH_API_KEY": "k"}
    script = (
        "import cli; cli.keep_text_local(); from langsmith.utils import tracing_is_enabled as on; print(on())"
    )
    clean = {name: value for name, value in os.environ.items() if "TRACING" not in name}
    for allowed, expected in (("0", "False"), ("1", "True")):
        environment = clean | shell | {"IMC_ALLOW_LANGSMITH": allowed}
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_other_reporting_is_off() -> None:
    environment: dict[str, str] = {}
    keep_text_local(environment)
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"


def test_doctor_names_a_cure_for_what_fails() -> None:
    healthy = imc("doctor", "--quick")
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    rows = [json.loads(line) for line in healthy.stdout.splitlines()]
    assert {"Packages", "Machine", "Model", "Backends", "Vocabulary", "Guard", "Folders", "Privacy"} == {
        row["group"] for row in rows
    }
    assert next(row for row in rows if row["name"] == "openai")["detail"].startswith("options: base_url")

    sick = imc("doctor", "--quick", IMC_CACHE="/dev/null/nowhere")
    assert sick.returncode == 4
    failed = [json.loads(line) for line in sick.stdout.splitlines() if '"fail"' in line]
    assert [row["name"] for row in failed] == ["cache"]
    assert "IMC_CACHE" in failed[0]["cure"]


def test_doctor_asks_the_backends_of_the_config() -> None:
    done = imc(
        "doctor",
        "--set", "backends.default={kind: openai, model: m, options: {base_url: 'http://127.0.0.1:9/v1'}}",
    )  # fmt: skip
    assert done.returncode == 4
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["group"] == "Answers"
    assert "http://127.0.0.1:9/v1" in answer["detail"]
