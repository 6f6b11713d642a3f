"""The model's thread: when the model fails, or nobody waits for it any more, every caller hears of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from imc_agents.errors import InfraError
from imc_agents.models.batcher import Batcher
from imc_agents.models.decoding import Request
from imc_agents.models.engine import Engine
from imc_agents.models.packing import pack
from imc_agents.models.protocol import Sampling


class OutOfMemory:
    """An engine whose every pass fails."""

    def context(self, tokens: tuple[int, ...]) -> None:
        pass

    def score(self, context: Any, rows: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    model: Any = None  # so that a reply cannot begin either


def batcher(load: Any) -> Batcher:
    return Batcher(cast(Any, load), max_batch_tokens=64, max_replies=4)


def test_a_failing_pass_is_told_to_all_whom_it_was_for_and_the_thread_lives_on() -> None:
    model = batcher(OutOfMemory)
    model.start().result(10)
    for _ in range(2):
        first, second = (model.score((1,), pack([[1, 2, 3]], 256)) for _ in range(2))
        for future in (first, second):
            with pytest.raises(InfraError, match="CUDA out of memory"):
                future.result(10)
        with pytest.raises(InfraError, match="the embedded model failed"):
            model.reply(Request((), [1], Sampling())).result(10)
    model.close()


def test_giving_up_while_the_model_loads_leaves_the_thread_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    crashed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", crashed.append)
    go_on = threading.Event()

    def load() -> Engine:
        go_on.wait(10)
        return cast(Engine, OutOfMemory())

    async def scenario() -> None:
        model = batcher(load)
        opening = asyncio.ensure_future(asyncio.wrap_future(model.start()))
        await asyncio.sleep(0.05)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        go_on.set()
        await asyncio.to_thread(model.close)

    asyncio.run(scenario())
    assert crashed == []
