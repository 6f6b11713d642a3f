"""LoRA adapters beside their base model, on a real server: each request gets the one that it names."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from imc_agents.models import embedded, vllm_server
from imc_agents.models.protocol import Backend, Capabilities
from imc_agents.models.weights import DEFAULT_MODEL, prepare_default
from tests.vllm.servers import Address, needs_vllm, start, stop
from tests.vllm.test_refine import imc, rows, write_questions

pytestmark = needs_vllm

RANK = 8
CONTEXT = "A radiologist asks about an image of the chest."
TEXTS = [
    f" Is there a {sign} in the {place}?"
    for sign in ("mass", "nodule", "fracture", "cyst", "stone", "tumor")
    for place in ("left lung", "liver", "spine", "right kidney")
]
ROUNDING = 0.08
"""Nats for each token: the adapter is added to bfloat16 activations in one case, to the weights in the other."""


class Adapter(NamedTuple):
    """The folder of an adapter, that of its base with the adapter merged in, and a server that has the first."""

    folder: Path
    merged: Path
    address: Address


def write_adapter(folder: Path, layers: tuple[str, ...]) -> dict[str, Any]:
    """Write an adapter in the format of peft, and return what it adds to each of the base's weights."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(prepare_default() / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]  # tied, and stored once
    random = torch.Generator().manual_seed(7)
    parts: dict[str, Any] = {}
    added: dict[str, Any] = {}
    for name, weight in weights.items():
        if name.split(".")[-2] not in layers:
            continue
        rows_, columns = weight.shape
        down = torch.randn(RANK, columns, generator=random) * 0.03
        up = torch.randn(rows_, RANK, generator=random) * 0.3
        key = f"base_model.model.{name.removesuffix('.weight')}"
        parts |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
        added[name] = up @ down
    folder.mkdir()
    save_file(parts, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": list(layers),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return added


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapter]:
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("adapter")
    added = write_adapter(folder / "radiology", ("q_proj", "v_proj"))
    shutil.copytree(prepare_default(), folder / "merged")
    weights = load_file(prepare_default() / "model.safetensors")
    merged = {
        name: (weight + added[name]).to(weight.dtype) if name in added else weight
        for name, weight in weights.items()
    }
    save_file(merged, folder / "merged" / "model.safetensors", {"format": "pt"})
    address = start(
        folder, "--", "--enable-lora", "--max-lora-rank", "8", "--lora-modules",
        f"radiology={folder / 'radiology'}", VLLM_ALLOW_RUNTIME_LORA_UPDATING="1",
    )  # fmt: skip
    yield Adapter(folder / "radiology", folder / "merged", address)
    stop(address)


async def scored(*backends: Backend) -> list[list[float]]:
    """Log-probabilities for each token of the texts, by backend; all of them asked for at once."""
    try:
        for backend in backends:
            await backend.open()
            await backend.score(CONTEXT, TEXTS[:1])
        calls = [(backend, text) for text in TEXTS for backend in backends]
        found = await asyncio.gather(*(backend.score(CONTEXT, [text]) for backend, text in calls))
    finally:
        for backend in backends:
            await backend.close()
    means = [score.total / len(score.tokens) for (score,), _ in found]
    return [means[at :: len(backends)] for at in range(len(backends))]


def test_base_and_adapter_in_one_batch_score_as_each_alone(adapter: Adapter) -> None:
    url = {"base_url": adapter.address.base_url}
    base, adapted = asyncio.run(
        scored(vllm_server.create(DEFAULT_MODEL, url), vllm_server.create("radiology", url))
    )
    (expected_base,) = asyncio.run(scored(embedded.create(DEFAULT_MODEL, {})))
    (expected_adapted,) = asyncio.run(scored(embedded.create(str(adapter.merged), {})))
    assert base == pytest.approx(expected_base, abs=ROUNDING)
    assert adapted == pytest.approx(expected_adapted, abs=ROUNDING)
    distances = sorted(abs(a - b) for a, b in zip(base, adapted, strict=True))
    assert distances[len(distances) // 2] > ROUNDING, "else equality says nothing"


def test_an_adapter_has_the_context_length_of_its_base(adapter: Adapter) -> None:
    async def opened() -> Capabilities:
        backend = vllm_server.create("radiology", {"base_url": adapter.address.base_url})
        try:
            return await backend.open()
        finally:
            await backend.close()

    capabilities = asyncio.run(opened())
    assert capabilities.max_tokens == 4096
    assert capabilities.revision.startswith(f"{adapter.folder} on ")


def test_a_role_uses_the_adapter_that_its_backend_names(adapter: Adapter, tmp_path: Path) -> None:
    """The server is found by the adapter's name, and what it is asked to weigh it weighs in its own way."""
    write_questions(tmp_path / "in.jsonl", 20)
    url = adapter.address.base_url
    (tmp_path / "imc.yaml").write_text(
        "backends:\n"
        f"  default: {{kind: vllm, model: {DEFAULT_MODEL}, options: {{base_url: '{url}'}}}}\n"
        "  adapter: {kind: vllm, model: radiology}\n"
        "roles:\n"
        "  adjudicate: {backend: adapter}\n"
    )
    done = imc(tmp_path, "refine", "in.jsonl", "-o", "out.jsonl", "-c", "imc.yaml")
    assert done.returncode == 0, done.stderr
    (manifest,) = tmp_path.glob("runs/*/manifest.json")
    models = json.loads(manifest.read_text())["models"]
    assert (models["default"]["model"], models["adapter"]["model"]) == (DEFAULT_MODEL, "radiology")
    plain = imc(
        tmp_path, "refine", "in.jsonl", "-o", "plain.jsonl", "-c", "imc.yaml",
        "--set", "roles.adjudicate.backend=default",
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    weighed, plainly = rows(tmp_path / "out.jsonl"), rows(tmp_path / "plain.jsonl")
    assert [row["id"] for row in weighed] == [row["id"] for row in plainly]
    assert [row["confidence"] for row in weighed] != [row["confidence"] for row in plainly]


def test_an_adapter_of_the_head_is_refused(adapter: Adapter, tmp_path: Path) -> None:
    """vLLM would leave its share out of every score."""
    write_adapter(tmp_path / "head", ("q_proj", "lm_head"))

    async def load() -> tuple[int, str]:
        root = adapter.address.base_url
        headers = {"Authorization": f"Bearer {adapter.address.api_key}"}
        body = {"lora_name": "head", "lora_path": str(tmp_path / "head")}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{root}/load_lora_adapter", json=body) as response,
        ):
            return response.status, await response.text()

    status, text = asyncio.run(load())
    assert status >= 400
    assert "lm_head" in text
