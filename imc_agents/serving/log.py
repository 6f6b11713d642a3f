"""What the log of a server tells: how far it is, and why it ended."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["read_stage", "why_it_ended"]

_TAIL_BYTES = 2**20
_REASON_CHARACTERS = 300
# What vLLM puts before a line: its process, the level, the time and the place.
_PREFIX = re.compile(r"^(?:\([^)]*pid=\d+\) )?(?:[A-Z]+ \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?")
_STAGES = (
    (re.compile(r"Supported tasks|Starting vLLM server|Application startup complete"), "opening the port"),
    (re.compile(r"Capturing|Graph capturing"), "capturing graphs"),
    (re.compile(r"KV cache size|# \w+ blocks|Available KV cache memory|for KV cache on"), "warming up"),
    (re.compile(r"Dynamo bytecode transform|torch\.compile takes|Memory profiling"), "profiling"),
    (re.compile(r"checkpoint shards|Starting to load model|Loading weights took"), "loading weights"),
    (re.compile(r"Initializing a V1 LLM engine"), "starting the engine"),
    (re.compile(r"Resolved architecture|non-default args"), "reading the configuration"),
)
_FIRST_STAGE = "starting Python"
# Known ends, each with its cure; the first that the log holds anywhere counts.
_KNOWN = (
    (r"error: (unrecognized arguments: .+)", "vLLM does not know a flag behind -- ({0}); correct or leave it out"),
    (r"error: (argument .+)", "vLLM refuses a flag ({0}); correct it"),
    (r"(?i)address already in use", "the port was taken meanwhile; start again, or name another --port"),
    (r"(?i)gated repo|GatedRepoError", "the hub gives this model only to accounts that have accepted its terms; "
     "accept them on the model's page, then `hf auth login`"),
    (r"is not a local folder and is not a valid model identifier|RepositoryNotFoundError",
     "the hub has no such model that you may read; check the name, or `hf auth login`"),
    (r"LocalEntryNotFoundError|OfflineModeIsEnabled|[Cc]ouldn't connect to|MaxRetryError|Name or service not known",
     "the hub cannot be reached, and its cache has not all of the model; run `hf download MODEL` where there is a "
     "network, or give a checkpoint folder"),
    (r"trust_remote_code=True|trust-remote-code", "the checkpoint wants to run code of its own; if you trust it, add "
     "-- --trust-remote-code"),
    (r"(No available memory for the cache blocks|larger than the available KV cache memory|"
     r"KV cache is needed, which is larger than)", "not enough memory for the KV cache; lower --max-model-len"),
    (r"(Free memory on device.+?is less than desired GPU memory utilization)", "another program holds memory of the "
     "GPU; free it, or add -- --gpu-memory-utilization 0.6"),
    (r"(?i)(CUDA out of memory|OutOfMemoryError|Cannot allocate memory|std::bad_alloc|MemoryError|"
     r"not enough memory)", "out of memory; take a smaller model, lower --max-model-len, or free memory"),
    (r"max_model_len \(\d+\) is greater than the derived max_model_len \([^)]*?(\d+)", "--max-model-len is more than "
     "the model's {0} tokens; lower it"),
    (r"(Model architectures \[[^\]]*\]) are not supported", "vLLM cannot run this kind of model ({0})"),
)  # fmt: skip
_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)(?:: (?P<text>.+))?$")
_DETAIL = re.compile(r"^\s+(?:Value error|Assertion failed), (?P<text>.+)")
# What other processes of the server say about the one that failed.
_VAGUE = (
    "Engine core initialization failed",
    "EngineDeadError",
    "WorkerProc initialization failed",
    "See root cause",
)


def read_stage(log: Path) -> str:
    """How far a server that is starting has come."""
    text = "\n".join(_lines(log))
    # The furthest counts: several processes write to one log, and what they repeat would lead back.
    return next((stage for pattern, stage in _STAGES if pattern.search(text)), _FIRST_STAGE)


def why_it_ended(log: Path, code: int) -> str:
    """Why a server ended, with the cure where it is known.

    Args:
        log: Its log.
        code: Its exit code, above 128 where a signal ended it.
    """
    lines = [_PREFIX.sub("", line).rstrip() for line in _lines(log)]
    text = "\n".join(lines)
    for pattern, reason in _KNOWN:
        if found := re.search(pattern, text):
            return reason.format(*(_short(group or "") for group in found.groups()))
    details = [found["text"] for line in lines if (found := _DETAIL.match(line))]
    errors = [line for line in lines if (found := _ERROR.match(line)) and found["text"]]
    telling = details or [line for line in errors if not any(vague in line for vague in _VAGUE)]
    if telling:
        return _short(telling[0])
    if code == 128 + 9 or any("died unexpectedly" in line for line in lines):
        return "a process of it was killed, which the system does where memory runs out; take a smaller model"
    said = errors or [line for line in lines if line.strip()]
    return _short(said[-1]) if said else f"exit code {code}, and it said nothing"


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _REASON_CHARACTERS else f"{plain[:_REASON_CHARACTERS]} ..."


def _lines(log: Path) -> list[str]:
    """The lines at the end of a log; a progress bar writes its own over each other."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            return stream.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
    except OSError:
        return []
