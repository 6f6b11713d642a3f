"""Backend for one or several vLLM servers: ``generate`` through chats, ``score`` through ``prompt_logprobs``.

vLLM does not read its prefix cache for prompts whose log-probabilities are asked for, so that the context that all
questions share would be computed anew with every text. A server that ``imc serve`` started reads it up to the end of
the context (``imc_agents.serving.cached_scores``); the number of tokens that it may read is sent with every request.
Other vLLM servers ignore that number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from imc_agents.errors import BackendUnreachableError, DataError, InfraError
from imc_agents.models.alignment import align_pieces, score_from_pieces
from imc_agents.models.control_tokens import inert
from imc_agents.models.families import checkpoint_config
from imc_agents.models.features import check_features
from imc_agents.models.http import Answer, plain_address
from imc_agents.models.local_servers import servers_with
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
    EngineWork,
    Generation,
    ImageFeatures,
    Message,
    Sampling,
    Score,
    Usage,
)
from imc_agents.models.served import api_key_for
from imc_agents.models.server_pool import PoolLimits, Server, ServerPool
from imc_agents.models.vllm_launch import CACHED_TOKENS
from imc_agents.models.vllm_metrics import WorkCounter, read_metrics

__all__ = ["Settings", "VllmServerBackend", "create"]

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
_KEPT_CONTEXTS = 64
# One pixel, and features that no server can read: enough to be told whether images and features are taken at all.
_PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_PROBE = " a"
_SAME_NATS = 0.2  # what rounding in bfloat16 may come to
_NO_FEATURES = "no features"


class Settings(BaseModel):
    """Options of the ``vllm`` backend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str | tuple[str, ...] | None = Field(
        default=None,
        description="Address of the server, up to and with /v1, or a list of equal ones; null takes what `imc serve` "
        "started on this machine.",
    )
    api_key_env: str = Field(
        default="VLLM_API_KEY",
        description="Environment variable that holds the key; servers of `imc serve` on this machine need none.",
    )
    timeout_seconds: float = Field(default=120.0, gt=0, description="Longest time for one request.")
    attempts: int = Field(default=5, ge=1, description="Attempts where a server fails or is late.")
    patience_seconds: float = Field(
        default=180.0, ge=0, description="How long requests wait while no server can be reached."
    )
    max_in_flight: int | None = Field(
        default=None, ge=1, description="Requests in flight per server; null follows the engine's queue."
    )

    @field_validator("base_url")
    @classmethod
    def _plain_addresses(cls, value: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        urls = tuple(plain_address(url) for url in ([value] if isinstance(value, str) else value))
        if len(set(urls)) < max(len(urls), 1):
            raise ValueError("must name at least one server, and each only once")
        return urls


def create(model: str, options: dict[str, Any]) -> Backend:
    """Make the backend, not yet open. An empty model name means the only model that the server has."""
    return VllmServerBackend(model, Settings.model_validate(options))


class VllmServerBackend:
    """See the module. Safe to call from many tasks of the event loop that opened it."""

    def __init__(self, model: str, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._key_hint = f"set the environment variable {settings.api_key_env}"
        self._pool: ServerPool | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._card: ModelCard | None = None
        self._config: dict[str, Any] | None = None
        self._capabilities: Capabilities | None = None
        self._contexts: dict[str, asyncio.Future[int]] = {}
        self._work = WorkCounter()

    async def open(self) -> Capabilities:
        """Reach the servers, check that all have the model, and find out what it can do.

        Raises:
            BackendUnreachableError: no server answers, a wrong key, or an unknown model.
        """
        if self._capabilities is not None:
            return self._capabilities
        settings = self._settings
        limits = PoolLimits(
            settings.timeout_seconds, settings.attempts, settings.patience_seconds, settings.max_in_flight
        )
        urls = tuple(settings.base_url or ()) or await servers_with(self._model)
        self._pool = ServerPool(urls, self._key, limits, self._check)
        try:
            try:
                await self._pool.open()
            except BackendUnreachableError:
                raise
            except InfraError as error:
                cure = "start it with `imc serve`, or correct base_url in the backend's options"
                raise BackendUnreachableError(f"{error}; {cure}") from error
            assert self._card is not None  # the check of an open pool has found it
            scores, images, features = await asyncio.gather(
                self._can_score(),
                self._takes("image_url", {"url": _PIXEL}),
                self._takes("image_embeds", _NO_FEATURES),
            )
            await self._look()
            self._watcher = asyncio.ensure_future(self._watch())
        except BaseException:
            await self.close()
            raise
        revision = self._card.root or self._card.id
        length = self._card.max_model_len or 4096
        self._capabilities = Capabilities(self._model, revision, scores, length, images, features)
        return self._capabilities

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """Answer a chat; see ``Backend.generate``."""
        takes_images = self._capabilities is None or self._capabilities.images
        if not takes_images and any(message.images for message in messages):
            raise DataError(f"the model {self._model!r} takes no images; serve one that does")
        features = [
            item for message in messages for item in message.images if isinstance(item, ImageFeatures)
        ]
        if features:
            await self._check_features(features)
        started = time.perf_counter()
        plain = [Message(message.role, inert(message.content), message.images) for message in messages]
        response = await self._post("/chat/completions", chat_body(self._model, plain, sampling, schema))
        spent = (time.perf_counter() - started) * 1000
        return read_chat(response, sampling, schema, spent, self._key_hint)

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """Score texts behind a context in one request; see ``Backend.score``."""
        started = time.perf_counter()
        if not texts:
            return [], Usage()
        cached = await self._cacheable(context)
        prompts = [context + text for text in texts]
        reply = await self._scored(prompts, cached)
        try:
            scores, read = _scores(reply, context, texts)
        except InfraError:
            if not cached:
                raise
            # A token that reaches from the context into a text may have been cut off with the context.
            scores, read = _scores(await self._scored(prompts, 0), context, texts)
        return scores, Usage(read, 0, (time.perf_counter() - started) * 1000)

    async def engine_work(self) -> dict[str, EngineWork]:
        """See ``Measured``."""
        if self._pool is not None:
            await self._look()
        return self._work.done

    async def close(self) -> None:
        """Cancel the requests in flight and drop the connections. Idempotent."""
        pool, self._pool, self._capabilities = self._pool, None, None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        if pool is not None:
            await pool.close()
        self._contexts.clear()

    @property
    def _open_pool(self) -> ServerPool:
        if self._pool is None:
            raise InfraError("the backend is not open")
        return self._pool

    def _key(self, url: str) -> str | None:
        # Of a server of ours the key is known; what the environment has may be that of another one.
        return api_key_for(url) or os.environ.get(self._settings.api_key_env)

    async def _check(self, server: Server) -> None:
        """See ``server_pool.Check``: the server's engine lives, and it has the same model as the others."""
        pool = self._open_pool
        health = await pool.ask(server, f"{server.root}/health")
        if health.status >= 500:
            raise InfraError(f"the engine of {server.url} is not healthy (HTTP {health.status})")
        card = find_card(await pool.ask(server, f"{server.url}/models"), self._model, self._key_hint)
        if self._card is None:
            self._card, self._model = card, card.id
        if (card.root, card.max_model_len) != (self._card.root, self._card.max_model_len):
            raise BackendUnreachableError(
                f"{server.url} serves {card.root} with {card.max_model_len} tokens as {card.id!r}, another one "
                f"{self._card.root} with {self._card.max_model_len}; servers of one backend must be equal"
            )

    async def _post(self, path: str, body: dict[str, Any]) -> Answer:
        return await self._open_pool.request("POST", path, body)

    async def _scored(self, prompts: list[str], cached: int) -> Reply:
        body = scoring_body(self._model, prompts, "prompt_logprobs")
        if cached:
            body["vllm_xargs"] = {CACHED_TOKENS: cached}
        return decode(await self._post("/completions", body), Reply, self._key_hint)

    async def _check_features(self, features: Sequence[ImageFeatures]) -> None:
        card, found = self._card, self._capabilities
        if card is not None and found is not None and not found.features:
            raise DataError(
                f"the server of {self._model!r} takes no image features; start it with `imc serve` or with "
                "--enable-mm-embeds, or calibrate inside it: imc serve --calibrate BANK"
            )
        if self._config is None:
            location = (card.root or card.id) if card is not None else self._model
            self._config = await asyncio.to_thread(checkpoint_config, location)
        for item in features:
            check_features(item, self._config, self._model)

    async def _cacheable(self, context: str) -> int:
        """How many tokens at the beginning of a prompt lie in the context whatever follows; found out once."""
        if context not in self._contexts:
            if len(self._contexts) >= _KEPT_CONTEXTS:
                self._contexts.pop(next(iter(self._contexts)))
            self._contexts[context] = asyncio.ensure_future(self._count(context))
        try:
            return await asyncio.shield(self._contexts[context])
        except BaseException:
            self._contexts.pop(context, None)
            raise

    async def _count(self, context: str) -> int:
        """Count, and check that the server's scores are the same with the context from its cache."""
        texts = [_PROBE]
        whole = await self._scored([context + _PROBE], 0)
        pieces, _ = whole.choices[0].prompt_tokens()
        inside = sum(end <= len(context) for _, end in align_pieces(context + _PROBE, pieces))
        cached = inside - 1  # the last one may merge with what follows
        if cached < 1:
            return 0
        (expected,), _ = _scores(whole, context, texts)
        try:
            (found,), _ = _scores(await self._scored([context + _PROBE], cached), context, texts)
        except InfraError:
            return 0
        if abs(found.total - expected.total) > _SAME_NATS:
            _LOG.warning(
                "scores are computed without the prefix cache: with it, %s differs by %.2f nats",
                self._model,
                abs(found.total - expected.total),
            )
            return 0
        return cached

    async def _can_score(self) -> bool:
        try:
            await self.score("A", [" b"])
        except BackendUnreachableError:
            raise
        except (InfraError, DataError):
            return False
        return True

    async def _takes(self, kind: str, value: Any) -> bool:
        """Whether a message may have a part of that kind."""
        part = {"type": kind, kind: value}
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}],
            "max_tokens": 1,
        }
        response = await self._post("/chat/completions", body)
        if response.status < 400:
            return True
        refusal = response.text.lower()
        refused = "multimodal" in refusal or "enable-mm-embeds" in refusal or "at most 0" in refusal
        return kind == "image_embeds" and response.status == 400 and not refused

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        """Read the metrics of every server that answers."""
        pool = self._open_pool
        for server in pool.up:
            with suppress(InfraError):
                response = await pool.ask(server, f"{server.root}/metrics")
                state = read_metrics(response.text) if response.status == 200 else None
                if state is not None:
                    pool.observe(server, state.running, state.waiting)
                    self._work.see(server.url, state.work)


def _scores(reply: Reply, context: str, texts: Sequence[str]) -> tuple[list[Score], int]:
    """The scores of the texts, and how many tokens the model read for them."""
    choices = sorted(reply.choices, key=lambda choice: choice.index)
    if len(choices) != len(texts):
        raise InfraError(f"the server scored {len(choices)} of {len(texts)} texts")
    tokens = [choice.prompt_tokens() for choice in choices]
    scores = [score_from_pieces(context, text, *found) for text, found in zip(texts, tokens, strict=True)]
    return scores, sum(len(pieces) for pieces, _ in tokens)
