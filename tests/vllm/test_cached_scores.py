"""Scores that read vLLM's prefix cache are those that do not, and all of a text's are there."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from imc_agents.models.protocol import EngineWork, Score
from imc_agents.models.vllm_launch import CACHED_TOKENS
from imc_agents.models.vllm_server import create
from imc_agents.prompts import load_prompt
from tests.vllm.servers import Address, needs_vllm

pytestmark = needs_vllm

TEXTS = [
    " Is there cardiomegaly?",
    " Is there cardiomegalyy?",
    " Où est la lésion pleurale 🫁?",
    " What is shown in the left lower lobe on this chest radiograph of a child with fever and cough? " * 4,
    " x",
    "",
]


@pytest.fixture(scope="module")
def context() -> str:
    return load_prompt("likelihood").render_text().rstrip()


async def plain(address: Address, prompts: list[str], **further: Any) -> list[list[float | None]]:
    """The log-probabilities as the server gives them to anyone."""
    body = {
        "model": "smollm2-135m-instruct",
        "prompt": prompts,
        "max_tokens": 1,
        "prompt_logprobs": 0,
        **further,
    }
    headers = {"Authorization": f"Bearer {address.api_key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{address.base_url}/completions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        choices = sorted((await response.json())["choices"], key=lambda choice: choice["index"])
    return [
        [next(iter(entry.values()))["logprob"] if entry else None for entry in choice["prompt_logprobs"]]
        for choice in choices
    ]


def test_scores_from_the_cache_are_the_same_and_complete(vllm_server: Address, context: str) -> None:
    async def scenario() -> tuple[list[list[Score]], EngineWork]:
        backend = create("", {"base_url": vllm_server.base_url})
        await backend.open()
        try:
            # The second time the texts themselves are in the cache; their scores must not come from there.
            found = [(await backend.score(context, TEXTS))[0] for _ in range(3)]
            (work,) = (await backend.engine_work()).values()
        finally:
            await backend.close()
        return found, work

    found, work = asyncio.run(scenario())
    expected = asyncio.run(plain(vllm_server, [context + text for text in TEXTS]))
    for text, first, again, row in zip(TEXTS, found[0], found[2], expected, strict=True):
        assert [token.logprob for token in first.tokens] == row[len(row) - len(first.tokens) :], text
        assert again == first, text
        assert (first.tokens[-1].end if text else 0) == len(text)
    assert work.hit_rate is not None
    assert work.hit_rate > 0.4


def test_nobody_else_is_answered_from_the_middle(vllm_server: Address, context: str) -> None:
    """Without our argument every token of the prompt has its log-probability, whatever the cache holds."""
    for _ in range(2):
        (row,) = asyncio.run(plain(vllm_server, [context + TEXTS[0]]))
        assert row[0] is None
        assert len(row) > 130
        assert all(value is not None and value <= 0 for value in row[1:])


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 10**6, -5])
def test_any_number_of_tokens_is_safe(vllm_server: Address, context: str, tokens: int) -> None:
    prompt = context + TEXTS[0]
    (whole,) = asyncio.run(plain(vllm_server, [prompt]))
    (part,) = asyncio.run(plain(vllm_server, [prompt], vllm_xargs={CACHED_TOKENS: tokens}))
    assert part[0] is None
    assert part[1:] == whole[len(whole) - len(part) + 1 :]
    assert len(whole) - len(part) <= max(tokens, 0)
