"""A backend as a LangChain chat model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from imc_agents.errors import UsageError
from imc_agents.models.chat import as_chat_model
from tests.contract.openai_server import backend_for, serve


class Watcher(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[Any], **kwargs: Any
    ) -> None:
        self.seen.append("start")

    async def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.seen.append("end")


def test_callbacks_see_the_reply_and_what_it_cost() -> None:
    watcher = Watcher()

    async def scenario() -> AIMessage:
        with serve("none", model=False) as server:
            backend = backend_for(server, scores=False)
            await backend.open()
            choice = {"message": {"content": '{"a": 1}'}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 5, "completion_tokens": 2}
            server.answer = (200, json.dumps({"choices": [choice], "usage": usage}).encode())
            chat = [
                SystemMessage("Be brief."),
                HumanMessage("Hi"),
                AIMessage("Hello"),
                HumanMessage("A number?"),
            ]
            reply = await as_chat_model(backend).ainvoke(
                chat, config={"callbacks": [watcher]}, schema={"type": "object"}
            )
            await backend.close()
            roles = [message["role"] for message in server.requests[-1][1]["messages"]]
            assert roles == ["system", "user", "assistant", "user"]
            return reply

    reply = asyncio.run(scenario())
    assert watcher.seen == ["start", "end"]
    assert reply.additional_kwargs["parsed"] == {"a": 1}
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["total_tokens"] == 7


def test_calling_it_without_an_event_loop_is_refused_clearly() -> None:
    with serve("none", model=False) as server, pytest.raises(UsageError, match="ainvoke"):
        as_chat_model(backend_for(server)).invoke("hi")
