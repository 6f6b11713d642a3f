"""Backend for any server that speaks the OpenAI HTTP interface: vLLM, or another one that can score prompts.

``generate`` is ``/chat/completions`` with a strict JSON schema. ``score`` is ``/completions``: with
``prompt_logprobs`` where the server has it (vLLM), else with ``echo`` and ``logprobs``; which one works is found out
when the backend opens. Chat control tokens inside a message (``<|im_end|>``) are the server's to neutralise: its
chat template renders the messages.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from imc_agents.errors import BackendUnreachableError, DataError, InfraError, ModelOutputError, nearest
from imc_agents.models.alignment import score_from_pieces
from imc_agents.models.openai_wire import ModelCard, ModelList, Reply, TokenCounts, error_line
from imc_agents.models.protocol import Backend, Capabilities, Generation, Message, Sampling, Score, Usage
from imc_agents.models.replies import parse_reply

__all__ = ["OpenAIBackend", "Settings", "create"]

_Answer = TypeVar("_Answer", bound=BaseModel)
_Style = Literal["prompt_logprobs", "echo"]
_TOO_LONG = (
    "context length",
    "context_length",
    "maximum context",
    "max_model_len",
    "too long",
    "context size",
)


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
        url = httpx.URL(value)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("must be an http:// or https:// address such as http://127.0.0.1:8000/v1")
        if url.userinfo:
            raise ValueError(
                "must not hold credentials; put the key into the variable that api_key_env names"
            )
        return value.rstrip("/")


def create(model: str, options: dict[str, Any]) -> Backend:
    """Make the backend, not yet open. An empty model name means the only model that the server has."""
    return OpenAIBackend(model, Settings.model_validate(options))


class OpenAIBackend:
    """See the module. Safe to call from many tasks of the event loop that opened it."""

    def __init__(self, model: str, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._client: httpx.AsyncClient | None = None
        self._capabilities: Capabilities | None = None
        self._style: _Style | None = None
        self._in_flight: set[asyncio.Task[httpx.Response]] = set()

    async def open(self) -> Capabilities:
        """Reach the server, check that it has the model and find out whether it can score.

        Raises:
            BackendUnreachableError: no answer, a wrong key, or an unknown model.
        """
        if self._capabilities is not None:
            return self._capabilities
        settings = self._settings
        key = os.environ.get(settings.api_key_env, "")
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.timeout_seconds, pool=None),
            limits=httpx.Limits(max_connections=settings.max_connections),
            # Proxies from the environment are not for servers on this machine.
            trust_env=httpx.URL(settings.base_url).host not in ("127.0.0.1", "localhost", "::1"),
        )
        try:
            card = self._card((await self._served()).data)
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
        self._capabilities = Capabilities(
            model=self._model,
            revision=card.root or card.id,
            scores=self._style is not None,
            max_tokens=settings.context_tokens or card.max_model_len or 4096,
        )
        return self._capabilities

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """Answer a chat; see ``Backend.generate``."""
        started = time.perf_counter()
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.temperature > 0:
            body["seed"] = sampling.seed
        if schema is not None:
            form = {"name": "reply", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        reply = await self._post("/chat/completions", body)
        choice = reply.choices[0]
        if choice.finish_reason == "length":
            raise ModelOutputError(
                f"the reply was cut after max_tokens = {sampling.max_tokens}; raise sampling.max_tokens of the role"
            )
        text = choice.message.content
        if text is None:
            raise ModelOutputError(f"the model gave no text (finish_reason {choice.finish_reason!r})")
        counts = reply.usage or TokenCounts()
        usage = Usage(counts.read, counts.completion_tokens, (time.perf_counter() - started) * 1000)
        return Generation(text, None if schema is None else parse_reply(text, schema), usage)

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """Score texts behind a context; see ``Backend.score``. One request for all texts where the server can."""
        started = time.perf_counter()
        if not texts:
            return [], Usage()
        prompts = [context + text for text in texts]
        if self._style == "prompt_logprobs":
            replies = [await self._post("/completions", self._scoring(prompts))]
            choices = sorted(replies[0].choices, key=lambda choice: choice.index)
            tokens = [choice.prompt_tokens() for choice in choices]
        elif self._style == "echo":
            replies = list(
                await asyncio.gather(*(self._post("/completions", self._scoring(p)) for p in prompts))
            )
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
        client, self._client, self._capabilities = self._client, None, None
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        if client is not None:
            await client.aclose()

    def _scoring(self, prompt: str | list[str]) -> dict[str, Any]:
        # One token is generated and thrown away: servers refuse 0.
        body: dict[str, Any] = {"model": self._model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        return body | (
            {"prompt_logprobs": 0} if self._style == "prompt_logprobs" else {"echo": True, "logprobs": 0}
        )

    async def _served(self) -> ModelList:
        url = self._settings.base_url
        try:
            response = await self._send("GET", "/models", None)
            if response.status_code == 404:
                raise BackendUnreachableError(
                    f"{url}/models is not there (HTTP 404); base_url usually ends in /v1"
                )
            return self._decode(response, ModelList)
        except BackendUnreachableError:
            raise
        except InfraError as error:
            cure = "start the server, or correct base_url in the backend's options"
            raise BackendUnreachableError(f"{error}; {cure}") from error

    def _card(self, served: list[ModelCard]) -> ModelCard:
        names = [card.id for card in served]
        if not self._model and len(names) == 1:
            self._model = names[0]
        if self._model not in names:
            raise BackendUnreachableError(
                f"the server at {self._settings.base_url} has no model {self._model!r}{nearest(self._model, names)}; "
                f"it serves: {', '.join(names) or 'nothing'}"
            )
        return served[names.index(self._model)]

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

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        if self._client is None:
            raise InfraError("the backend is not open")
        url = self._settings.base_url + path
        task = asyncio.ensure_future(self._client.request(method, url, json=body))
        self._in_flight.add(task)
        try:
            return await task
        except httpx.TimeoutException as error:
            seconds = self._settings.timeout_seconds
            raise InfraError(f"no answer from {url} within timeout_seconds = {seconds:g}") from error
        except httpx.HTTPError as error:
            raise InfraError(f"no connection to {url}: {str(error) or type(error).__name__}") from error
        finally:
            self._in_flight.discard(task)

    async def _post(self, path: str, body: dict[str, Any]) -> Reply:
        return self._decode(await self._send("POST", path, body), Reply)

    def _decode(self, response: httpx.Response, answer: type[_Answer]) -> _Answer:
        url, status = response.request.url, response.status_code
        if status in (401, 403):
            # The server's own message may repeat the key.
            raise BackendUnreachableError(
                f"{url} refused the key (HTTP {status}); set the environment variable {self._settings.api_key_env}"
            )
        try:
            reply: Any = json.loads(response.content)
        except ValueError as error:
            raise InfraError(f"{url} did not answer with JSON (HTTP {status})") from error
        if status >= 400:
            message = error_line(reply)
            if status in (400, 413, 422) and any(mark in message.lower() for mark in _TOO_LONG):
                raise DataError(f"the request does not fit the model's context: {message}")
            if status == 404:
                raise BackendUnreachableError(f"{url} is not there (HTTP 404): {message}")
            raise InfraError(f"{url} failed with HTTP {status}: {message}")
        try:
            return answer.model_validate(reply)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InfraError(
                f"{url} answered something else than an OpenAI server: {place}: {first['msg']}"
            ) from error


def _echoed(reply: Reply) -> tuple[list[str], list[float | None]]:
    return reply.choices[0].echoed_tokens(reply.usage.completion_tokens if reply.usage else 1)
