"""Backend for any server that speaks the OpenAI HTTP interface; for vLLM there is the kind ``vllm``.

``generate`` is ``/chat/completions`` with a strict JSON schema. ``score`` is ``/completions``: with
``prompt_logprobs`` where the server has it, else with ``echo`` and ``logprobs``; which one works is found out when the
backend opens. Chat control tokens of known formats inside a message (``<|im_end|>``) are made inert, since the
server's chat template would take them as its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from imc_agents.errors import BackendUnreachableError, DataError, InfraError
from imc_agents.models.alignment import score_from_pieces
from imc_agents.models.control_tokens import inert
from imc_agents.models.http import plain_address
from imc_agents.models.openai_wire import (
    ModelCard,
    Reply,
    chat_body,
    decode,
    find_card,
    read_chat,
    scoring_body,
)
from imc_agents.models.protocol import (
    Backend,
    Capabilities,
    Generation,
    ImageFeatures,
    Message,
    Sampling,
    Score,
    Usage,
)
from imc_agents.models.server_pool import PoolLimits, Server, ServerPool

__all__ = ["OpenAIBackend", "Settings", "create"]

_Style = Literal["prompt_logprobs", "echo"]


class Settings(BaseModel):
    """Options of the ``openai`` backend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(
        default="http://127.0.0.1:8000/v1", description="Address of the server, up to and with /v1."
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        description="Environment variable that holds the key; the key itself is never in a config.",
    )
    timeout_seconds: float = Field(default=120.0, gt=0, description="Longest time for one request.")
    attempts: int = Field(default=4, ge=1, description="Attempts where the server fails or is late.")
    patience_seconds: float = Field(
        default=60.0, ge=0, description="How long requests wait for a server that cannot be reached."
    )
    max_connections: int = Field(default=64, ge=1, description="Requests in flight; more wait.")
    scores: bool | None = Field(
        default=None, description="Whether the server can score prompts; null finds out."
    )
    context_tokens: int | None = Field(
        default=None, ge=1, description="Context length, for servers that do not tell it (vLLM does)."
    )

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        return plain_address(value)


def create(model: str, options: dict[str, Any]) -> Backend:
    """Make the backend, not yet open. An empty model name means the only model that the server has."""
    return OpenAIBackend(model, Settings.model_validate(options))


class OpenAIBackend:
    """See the module. Safe to call from many tasks of the event loop that opened it."""

    def __init__(self, model: str, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._key_hint = f"set the environment variable {settings.api_key_env}"
        self._pool: ServerPool | None = None
        self._capabilities: Capabilities | None = None
        self._style: _Style | None = None
        self._card: ModelCard | None = None

    async def open(self) -> Capabilities:
        """Reach the server, check that it has the model and find out whether it can score.

        Raises:
            BackendUnreachableError: no answer, a wrong key, or an unknown model.
        """
        if self._capabilities is not None:
            return self._capabilities
        settings = self._settings
        limits = PoolLimits(
            settings.timeout_seconds, settings.attempts, settings.patience_seconds, settings.max_connections
        )
        self._pool = ServerPool(
            (settings.base_url,), lambda _: os.environ.get(settings.api_key_env), limits, self._check
        )
        try:
            try:
                await self._pool.open()
            except BackendUnreachableError:
                raise
            except InfraError as error:
                cure = "start the server, or correct base_url in the backend's options"
                raise BackendUnreachableError(f"{error}; {cure}") from error
            if settings.scores is not False:
                self._style = await self._find_style()
            if settings.scores and self._style is None:
                raise BackendUnreachableError(
                    f"the server at {settings.base_url} cannot score prompts (neither prompt_logprobs nor echo with "
                    "logprobs), which the option scores asks for; serve the model with vLLM, or set scores to null"
                )
        except BaseException:
            await self.close()
            raise
        assert self._card is not None  # the check of an open pool has found it
        self._capabilities = Capabilities(
            model=self._model,
            revision=self._card.root or self._card.id,
            scores=self._style is not None,
            max_tokens=settings.context_tokens or self._card.max_model_len or 4096,
        )
        return self._capabilities

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """Answer a chat; see ``Backend.generate``."""
        started = time.perf_counter()
        if any(isinstance(item, ImageFeatures) for message in messages for item in message.images):
            raise DataError("image features go to vLLM only; take the backend kind vllm or vllm-engine")
        plain = [Message(message.role, inert(message.content), message.images) for message in messages]
        body = chat_body(self._model, plain, sampling, schema)
        response = await self._open_pool.request("POST", "/chat/completions", body)
        spent = (time.perf_counter() - started) * 1000
        return read_chat(response, sampling, schema, spent, self._key_hint)

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """Score texts behind a context; see ``Backend.score``. One request for all texts where the server can."""
        started = time.perf_counter()
        if not texts:
            return [], Usage()
        prompts = [context + text for text in texts]
        if self._style == "prompt_logprobs":
            replies = [await self._scored(prompts)]
            choices = sorted(replies[0].choices, key=lambda choice: choice.index)
            tokens = [choice.prompt_tokens() for choice in choices]
        elif self._style == "echo":
            replies = list(await asyncio.gather(*map(self._scored, prompts)))
            tokens = [_echoed(reply) for reply in replies]
        else:
            raise InfraError(
                f"the server at {self._settings.base_url} cannot score prompts; use one that can (vLLM)"
            )
        if len(tokens) != len(texts):
            raise InfraError(f"the server scored {len(tokens)} of {len(texts)} texts")
        scores = [
            score_from_pieces(context, text, pieces, logprobs)
            for text, (pieces, logprobs) in zip(texts, tokens, strict=True)
        ]
        read = sum(reply.usage.read for reply in replies if reply.usage)
        return scores, Usage(read, 0, (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Cancel the requests in flight and drop the connections. Idempotent."""
        pool, self._pool, self._capabilities = self._pool, None, None
        if pool is not None:
            await pool.close()

    @property
    def _open_pool(self) -> ServerPool:
        if self._pool is None:
            raise InfraError("the backend is not open")
        return self._pool

    async def _check(self, server: Server) -> None:
        response = await self._open_pool.ask(server, f"{server.url}/models")
        self._card = find_card(response, self._model, self._key_hint)
        self._model = self._card.id

    async def _scored(self, prompt: str | list[str]) -> Reply:
        assert self._style is not None  # asked for by those who know it
        body = scoring_body(self._model, prompt, self._style)
        return decode(await self._open_pool.request("POST", "/completions", body), Reply, self._key_hint)

    async def _find_style(self) -> _Style | None:
        styles: tuple[_Style, ...] = ("prompt_logprobs", "echo")
        for style in styles:
            self._style = style
            try:
                await self.score("A", [" b"])
            except BackendUnreachableError:
                raise
            except (InfraError, DataError):
                continue
            return style
        return None


def _echoed(reply: Reply) -> tuple[list[str], list[float | None]]:
    return reply.choices[0].echoed_tokens(reply.usage.completion_tokens if reply.usage else 1)
