"""A backend as a LangChain chat model, so that callbacks, LangGraph Studio and instrumentation see every reply.

This module imports langchain-core; import it where it is needed, not at the top of a command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import ConfigDict

from imc_agents.errors import UsageError
from imc_agents.models.protocol import Backend, Message, Sampling

__all__ = ["BackendChatModel", "as_chat_model"]


def as_chat_model(backend: Backend, sampling: Sampling | None = None) -> BackendChatModel:
    """Wrap an open backend. Its model answers through ``ainvoke``; ``schema=`` asks for JSON."""
    return BackendChatModel(backend=backend, sampling=sampling or Sampling())


class BackendChatModel(BaseChatModel):
    """The adapter. The decoded JSON of a reply is in ``additional_kwargs["parsed"]``."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    backend: Any
    sampling: Sampling

    @property
    def _llm_type(self) -> str:
        return "imc"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"backend": type(self.backend).__name__, "sampling": self.sampling}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del messages, stop, run_manager, kwargs
        raise UsageError("backends answer on their event loop only; call ainvoke instead of invoke")

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        schema: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager
        if stop or kwargs:
            raise UsageError(f"unsupported arguments: {', '.join(sorted(kwargs) + ['stop'] * bool(stop))}")
        reply = await self.backend.generate(_plain(messages), sampling=self.sampling, schema=schema)
        read, written = reply.usage.prompt_tokens, reply.usage.completion_tokens
        message = AIMessage(
            content=reply.text,
            additional_kwargs={} if reply.parsed is None else {"parsed": reply.parsed},
            usage_metadata={"input_tokens": read, "output_tokens": written, "total_tokens": read + written},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _plain(messages: Sequence[BaseMessage]) -> list[Message]:
    return [
        Message(
            "assistant"
            if isinstance(message, AIMessage)
            else "system"
            if isinstance(message, SystemMessage)
            else "user",
            str(message.text),
        )
        for message in messages
    ]
