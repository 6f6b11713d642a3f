"""Which checkpoint is meant, and what is refused before vLLM is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imc_agents.errors import BackendUnreachableError, UsageError
from imc_agents.serving.checkpoint import check_layout, find_checkpoint, read_config
from tests.serving.helpers import write_checkpoint


def test_folders_and_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("tiny") == find_checkpoint("./tiny") == find_checkpoint(str(folder)) == str(folder)
    assert find_checkpoint("google/medgemma-4b-it") == "google/medgemma-4b-it"


@pytest.mark.parametrize("model", ["medgemma", "./none", "/none/there", "a/b/c", "~/none"])
def test_what_is_no_checkpoint(model: str) -> None:
    with pytest.raises(UsageError, match="neither a hub id"):
        find_checkpoint(model)


def test_the_default_model_is_suggested() -> None:
    with pytest.raises(UsageError, match="did you mean 'smollm2-135m-instruct'"):
        find_checkpoint("smollm2-135m")


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no config\.json"):
        find_checkpoint(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="--enable-lora --lora-modules NAME="):
        find_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="only safetensors checkpoints"):
        find_checkpoint(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json.*copy the checkpoint again"):
        read_config(str(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llava_mistral", "architectures": ["LlavaMistralForCausalLM"]},
        {"model_type": "llava_qwen2"},
        {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]},
    ],
)
def test_layouts_that_vllm_cannot_load(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"cannot load .*layout.*LlavaForConditionalGeneration") as caught:
        check_layout("m", config)
    assert "\n" not in str(caught.value)


def test_layouts_that_it_can_load() -> None:
    check_layout("m", {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]})
    check_layout("m", {"model_type": "llava_next"})
    check_layout("m", {})


def raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*arguments: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)


def test_what_the_hub_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from huggingface_hub import errors

    response = httpx.Response(403, request=httpx.Request("GET", "http://hub"))
    cases: list[tuple[Exception, type[Exception], str]] = [
        (
            errors.GatedRepoError("m", response=response),
            BackendUnreachableError,
            "accept them on the model's",
        ),
        (
            errors.RepositoryNotFoundError("m", response=response),
            UsageError,
            "no model 'o/m' that you may read",
        ),
        (errors.LocalEntryNotFoundError("m"), BackendUnreachableError, "hf download o/m"),
        (errors.OfflineModeIsEnabled("m"), BackendUnreachableError, "hf download o/m"),
        (httpx.ConnectError("no route"), BackendUnreachableError, "the hub cannot be reached"),
        (errors.RemoteEntryNotFoundError("m", response=response), UsageError, r"no config\.json on the hub"),
    ]
    for error, kind, words in cases:
        raises(monkeypatch, error)
        with pytest.raises(kind, match=words) as caught:
            read_config("o/m")
        assert "\n" not in str(caught.value)


def test_the_cache_of_the_hub_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raises(monkeypatch, AssertionError("the hub was asked"))
    write_checkpoint(tmp_path, model_type="gemma3")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "config.json"))
    assert read_config("google/medgemma-4b-it") == {"model_type": "gemma3"}
