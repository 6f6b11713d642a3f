"""How a server would be started: command line, environment and what is refused beforehand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from imc_agents.errors import UsageError
from imc_agents.models import vllm_launch
from imc_agents.serving import launch
from imc_agents.serving.launch import Wanted, command_line, plan_launch
from tests.serving.helpers import write_checkpoint

TEXT: dict[str, Any] = {"model_type": "llama", "max_position_embeddings": 8192}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMC_CACHE", str(tmp_path / "cache"))
    for name in ("VLLM_API_KEY", "VLLM_CPU_KVCACHE_SPACE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    build(monkeypatch, "cpu")


def build(monkeypatch: pytest.MonkeyPatch, kind: str | None, *, gpu: bool = False) -> None:
    for module in (launch, vllm_launch):
        monkeypatch.setattr(module, "installed_build", lambda: kind)
    monkeypatch.setattr(launch, "_has_gpu", lambda: gpu)


def plan(folder: Path, *extra: str, cpu: bool = True, **config: Any) -> list[str]:
    model = write_checkpoint(folder / "tiny", **(config or TEXT))
    return list(plan_launch(Wanted(str(model), cpu=cpu, extra=extra), 8123).argv)


def value(argv: list[str], flag: str) -> str:
    assert argv.count(flag) == 1
    return argv[argv.index(flag) + 1]


def test_the_flags_that_the_agents_need(tmp_path: Path) -> None:
    argv = plan(tmp_path)
    assert value(argv, "--model") == str(tmp_path / "tiny")
    assert value(argv, "--served-model-name") == "tiny"
    assert value(argv, "--host") == "127.0.0.1"
    assert json.loads(value(argv, "--structured-outputs-config")) == {
        "backend": "xgrammar",
        "disable_any_whitespace": True,
    }
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details", "--enforce-eager"} <= set(argv)
    assert (value(argv, "--dtype"), value(argv, "--block-size")) == ("bfloat16", "32")
    assert value(argv, "--max-model-len") == "4096"
    assert value(plan(tmp_path, model_type="llama", max_position_embeddings=512), "--max-model-len") == "512"
    assert "--trust-remote-code" not in argv


@pytest.mark.parametrize(
    ("family", "taken"),
    [("llava", True), ("qwen2_5_vl", True), ("paligemma", True), ("gemma3", False), ("llama", False)],
)
def test_image_features_where_the_family_takes_them(tmp_path: Path, family: str, taken: bool) -> None:
    assert ("--enable-mm-embeds" in plan(tmp_path, model_type=family)) is taken


def test_a_gpu_keeps_the_settings_of_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(monkeypatch, "cuda", gpu=True)
    argv = plan(tmp_path, cpu=False)
    assert {"--enforce-eager", "--dtype", "--block-size", "--max-model-len"}.isdisjoint(argv)
    assert "--enable-prefix-caching" in argv


@pytest.mark.parametrize(
    ("extra", "ours"),
    [
        (("--max-model-len", "1024"), "--max-model-len"),
        (("--max_model_len=1024",), "--max-model-len"),
        (("--no-enable-prefix-caching",), "--enable-prefix-caching"),
        (("--no-enforce-eager",), "--enforce-eager"),
        (("--structured-outputs-config.backend", "guidance"), "--structured-outputs-config"),
    ],
)
def test_our_flags_give_way_to_those_of_the_user(tmp_path: Path, extra: tuple[str, ...], ours: str) -> None:
    argv = plan(tmp_path, *extra)
    assert tuple(argv[-len(extra) :]) == extra
    assert ours not in argv[: -len(extra)]
    assert "--dtype" in argv, "the others stay"


def test_the_key_is_checked_everywhere_whatever_the_user_adds() -> None:
    argv = command_line("m", "m", 1, {}, ("--middleware", "mine.Other"))
    assert argv.count("--middleware") == 2


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        ("--host", "127.0.0.1"),
        ("--host=0.0.0.0", "127.0.0.1"),
        ("--hos", "127.0.0.1"),
        ("--port", "imc serve --port"),
        ("--api_key", "VLLM_API_KEY"),
        ("--served_model_name", "--name"),
        ("--model", "--model"),
        ("--uds", "127.0.0.1"),
        ("-h", "--help=all"),
        ("google/medgemma-4b-it", "after --model"),
    ],
)
def test_flags_that_cannot_be_passed_on(tmp_path: Path, word: str, cure: str) -> None:
    with pytest.raises(UsageError, match=cure) as caught:
        plan(tmp_path, word, "x")
    assert "\n" not in str(caught.value)


def test_flags_that_begin_like_a_refused_one_pass(tmp_path: Path) -> None:
    argv = plan(tmp_path, "--model-impl", "vllm", "--hf-overrides", "{}", "-dp", "2", "--seed", "-1")
    assert argv[-8:] == ["--model-impl", "vllm", "--hf-overrides", "{}", "-dp", "2", "--seed", "-1"]


def test_environment_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_checkpoint(tmp_path / "tiny", **TEXT)
    planned = plan_launch(Wanted(str(model), cpu=True, name="x"), 8123)
    other = plan_launch(Wanted(str(model), cpu=True), 8123)
    assert planned.environment["VLLM_API_KEY"] == planned.api_key != other.api_key
    assert planned.api_key not in repr(planned)
    assert planned.api_key not in " ".join(planned.argv)
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "IMC_VLLM_CACHED_SCORES": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
    }
    assert wanted.items() <= planned.environment.items()
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9")
    monkeypatch.setenv("VLLM_API_KEY", "chosen")
    chosen = plan_launch(Wanted(str(model), cpu=True), 8123)
    assert (chosen.environment["VLLM_CPU_KVCACHE_SPACE"], chosen.api_key) == ("9", "chosen")
    assert "chosen" not in repr(dataclasses.replace(chosen, port=1))


@pytest.mark.parametrize(
    ("kind", "gpu", "cpu", "words"),
    [
        (None, False, True, "vLLM is not installed; run make setup"),
        ("cpu", False, False, "runs on CPUs only; add --cpu"),
        ("cuda", True, True, "runs on GPUs only; leave out --cpu"),
        ("cuda", False, False, "no GPU here"),
    ],
)
def test_the_build_of_vllm_must_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None, gpu: bool, cpu: bool, words: str
) -> None:
    build(monkeypatch, kind, gpu=gpu)
    with pytest.raises(UsageError, match=words) as caught:
        plan(tmp_path, cpu=cpu)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("flag", ["--enable-lora", "--enable_lora", "--enable-lor", "--enable-lora=true"])
def test_adapters_switch_their_plugin_on(tmp_path: Path, flag: str) -> None:
    model = write_checkpoint(tmp_path / "tiny", **TEXT)
    flags = (flag, "--lora-modules", "a=/a")
    beside = plan_launch(Wanted(str(model), cpu=True, extra=flags), 8123)
    assert beside.environment["IMC_VLLM_ADAPTERS"] == "1"
    without = plan_launch(Wanted(str(model), cpu=True, extra=("--enforce-eager",)), 8123)
    assert "IMC_VLLM_ADAPTERS" not in without.environment
