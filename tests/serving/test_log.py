"""What is read from a server's log: lines as vLLM 0.32 writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from imc_agents.serving.log import read_stage, why_it_ended

INFO = "(EngineCore pid=9) INFO 11-22 23:10:08 [core.py:133] "
ERROR = "(Worker pid=9) ERROR 11-22 23:14:49 [multiproc_executor.py:1063] "
EAGER = (
    "(EngineCore pid=9) WARNING 11-22 23:10:48 [vllm.py:1703] Enforce eager set, disabling JIT kernel warmup."
)


@pytest.mark.parametrize(
    ("lines", "stage"),
    [
        ([], "starting Python"),
        (["W1122 23:10:05 No CUDA runtime is found"], "starting Python"),
        ([INFO + "Resolved architecture: LlamaForCausalLM", EAGER], "reading the configuration"),
        ([INFO + "Initializing a V1 LLM engine (v0.32.0)"], "starting the engine"),
        (["Loading safetensors checkpoint shards:  50%\rLoading safetensors checkpoint"], "loading weights"),
        ([INFO + "Loading weights took 1.77 seconds", INFO + "Resolved architecture"], "loading weights"),
        ([INFO + "CPU KV cache size: 93,184 tokens", EAGER], "warming up"),
        ([INFO + "Supported tasks: ['generate']"], "opening the port"),
    ],
)
def test_stages(tmp_path: Path, lines: list[str], stage: str) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(lines))
    assert read_stage(log) == stage


def test_no_log_yet(tmp_path: Path) -> None:
    assert read_stage(tmp_path / "none") == "starting Python"
    assert why_it_ended(tmp_path / "none", 3) == "exit code 3, and it said nothing"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("api_server.py: error: unrecognized arguments: --no-such-flag", "does not know a flag behind --"),
        ("api_server.py: error: argument --dtype: invalid choice: 'x'", "argument --dtype: invalid choice"),
        ("OSError: [Errno 98] Address already in use", "name another --port"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "take a smaller model"),
        (
            "ValueError: Free memory on device (1/15 GiB) on startup is less than desired GPU memory utilization",
            "--gpu-memory-utilization 0.6",
        ),
        (
            "ValueError: To serve at least one request with the models's max seq len (131072), (16 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (2 GiB).",
            "lower --max-model-len",
        ),
        (
            "  Value error, User-specified max_model_len (999999) is greater than the derived max_model_len "
            "(max_position_embeddings=8192 or model_max_length=None in model's config.json).",
            "more than the model's 8192 tokens",
        ),
        ("OSError: o/m is not a local folder and is not a valid model identifier", "has no such model"),
        ("OSError: You are trying to access a gated repo.", "accept them on the model's page"),
        ("huggingface_hub.errors.LocalEntryNotFoundError: offline", "hf download MODEL"),
        ("ValueError: Please pass the argument `trust_remote_code=True`", "-- --trust-remote-code"),
        ("ValueError: Model architectures ['X'] are not supported for now.", "Model architectures ['X']"),
    ],
)
def test_known_ends_have_a_cure(tmp_path: Path, line: str, words: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"{INFO}fine\n{ERROR}{line}\nRuntimeError: Engine core initialization failed.\n")
    reason = why_it_ended(log, 1)
    assert words in reason
    assert "\n" not in reason


def test_the_first_cause_counts_not_what_others_say_of_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [
        ERROR + "WorkerProc failed to start.",
        ERROR + "Traceback (most recent call last):",
        ERROR + '  File "x.py", line 1, in f',
        ERROR + "ValueError: No common block size for 7.",
        "Traceback (most recent call last):",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'E': 1}",
    ]
    log.write_text("\n".join(lines))
    assert why_it_ended(log, 1) == "ValueError: No common block size for 7."


def test_killed_by_the_system(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(INFO + "fine\n")
    assert "where memory runs out" in why_it_ended(log, 137)


def test_a_long_reason_is_cut(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ValueError: " + "x" * 5000)
    assert len(why_it_ended(log, 1)) < 400
