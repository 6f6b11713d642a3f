"""The embedded backend: a causal language model in this process, no server, no hub, no GPU needed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imc_agents.errors import DataError, InfraError, ModelOutputError
from imc_agents.models.control_tokens import inert
from imc_agents.models.protocol import Capabilities, Generation, Message, Sampling, Score, TokenScore, Usage
from imc_agents.models.replies import parse_reply
from imc_agents.openmp import wait_passively

if TYPE_CHECKING:
    from imc_agents.models.batcher import Work
    from imc_agents.models.packing import PackedRow

__all__ = ["EmbeddedBackend", "Settings", "create"]

_KEPT_PROMPTS = 64
_ROW_TOKENS = 256  # longest packed row; longer ones pay more for attention than sharing a prefix saves


class Settings(BaseModel):
    """``backends.<name>.options`` of kind ``embedded``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="bfloat16 where the hardware has it."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores by default.")
    max_batch_tokens: int = Field(512, ge=64, description="Tokens in one score batch.")
    max_replies: int = Field(32, ge=1, description="Replies written in lock-step.")


def create(model: str, options: dict[str, Any]) -> EmbeddedBackend:
    """Make the backend; nothing is loaded before ``open``."""
    from imc_agents.models.weights import DEFAULT_MODEL

    return EmbeddedBackend(model or DEFAULT_MODEL, Settings.model_validate(options))


class EmbeddedBackend:
    """See ``imc_agents.models.protocol.Backend``."""

    def __init__(self, model: str, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._batcher: Any = None
        self._engine: Any = None
        self._encoder: Any = None
        self._specials: tuple[str, ...] = ()
        self._grammar: Any = None
        self._contexts: dict[str, tuple[int, ...]] = {}
        self._shared: dict[str, tuple[int, ...]] = {}

    async def open(self) -> Capabilities:
        """Find and load the model; the default one is dequantised into the cache the first time."""
        from imc_agents.models.batcher import Batcher
        from imc_agents.models.engine import load_engine
        from imc_agents.models.weights import hub_commit, locate

        wait_passively()
        settings = self._settings
        checkpoint = await asyncio.to_thread(locate, self._model)
        self._batcher = Batcher(
            lambda: load_engine(
                checkpoint, device=settings.device, dtype=settings.dtype, threads=settings.threads
            ),
            max_batch_tokens=settings.max_batch_tokens,
            max_replies=settings.max_replies,
        )
        self._engine = await asyncio.wrap_future(self._batcher.start())
        tokenizer = self._engine.tokenizer
        self._encoder = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._encoder.no_padding()
        self._encoder.no_truncation()
        self._encoder.encode_special_tokens = True  # control tokens in a question are text
        self._specials = tuple(str(token) for token in tokenizer.added_tokens_decoder.values())
        weights = checkpoint.revision or hub_commit(checkpoint.location)
        revision = f"{weights}:{str(self._engine.model.dtype).removeprefix('torch.')}"
        return Capabilities(self._model, revision, True, self._engine.max_tokens)

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """See the protocol. Tokens that the texts share at their beginning are computed once."""
        from imc_agents.models.packing import unpack

        self._check_open()
        started = time.perf_counter()
        if not texts:
            return [], Usage()
        head, rows, encoded = self._pack(context, texts)
        values: list[list[float]] = [[] for _ in rows]
        if any(row.tokens for row in rows):
            values = await asyncio.wrap_future(self._batcher.score(head, rows))
        found: dict[int, list[float]] = {}
        for row, logprobs in zip(rows, values, strict=True):
            found |= unpack(row, logprobs)
        scores = [
            _score(text, item.offsets, found[i])
            for i, (text, item) in enumerate(zip(texts, encoded, strict=True))
        ]
        spent = (time.perf_counter() - started) * 1000
        return scores, Usage(sum(len(row.tokens) for row in rows), 0, spent)

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """See the protocol. Control tokens inside a message are made inert before the chat template sees them."""
        from imc_agents.models.decoding import Request, grammar_matcher, grammar_tokenizer

        self._check_open()
        started = time.perf_counter()
        if any(message.images for message in messages):
            raise DataError(
                f"the embedded model {self._model!r} takes no images; serve one that does (imc serve)"
            )
        chat = [{"role": m.role, "content": inert(m.content, self._specials)} for m in messages]
        ids = self._chat_tokens(chat, opens_reply=True)
        fixed = len(list(takewhile(lambda message: message.fixed, messages[:-1])))
        context = self._shared_tokens(chat[:fixed], ids)
        if len(ids) + sampling.max_tokens > self._engine.max_tokens:
            raise DataError(
                f"the prompt of {len(ids)} tokens and {sampling.max_tokens} for the reply exceed the "
                f"{self._engine.max_tokens} tokens that the model {self._model!r} reads; shorten the question"
            )
        matcher = None
        if schema is not None:
            self._grammar = self._grammar or grammar_tokenizer(self._engine)
            matcher = grammar_matcher(self._grammar, schema)
        reply = await asyncio.wrap_future(
            self._batcher.reply(Request(context, ids[len(context) :], sampling, matcher))
        )
        text = self._engine.tokenizer.decode(reply.tokens, skip_special_tokens=True)
        usage = Usage(len(ids) - len(context), len(reply.tokens), (time.perf_counter() - started) * 1000)
        if not reply.complete:
            raise ModelOutputError(
                f"the reply was cut at {sampling.max_tokens} tokens ({text[:60]!r}...); raise the role's "
                "sampling.max_tokens"
            )
        return Generation(text, parse_reply(text, schema) if schema is not None else None, usage)

    @property
    def work(self) -> Work:
        """What the model has scored since it was opened."""
        self._check_open()
        return self._batcher.work

    async def replay(self, requests: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Put the rows of many score requests through the model in full batches, and drop the results.

        This is the most that the model can do; ``work`` tells what it took.
        """
        self._check_open()
        packed = [self._pack(context, texts)[:2] for context, texts in requests]
        waiting = [self._batcher.score(head, rows) for head, rows in packed]
        await asyncio.gather(*map(asyncio.wrap_future, waiting))

    async def close(self) -> None:
        """See the protocol."""
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            await asyncio.to_thread(batcher.close)
            self._engine = None

    def _check_open(self) -> None:
        if self._batcher is None:
            raise InfraError("the embedded backend is not open; call open() first")

    def _pack(
        self, context: str, texts: Sequence[str]
    ) -> tuple[tuple[int, ...], list[PackedRow], Sequence[Any]]:
        """The tokens of the context, the packed rows of the texts, and each text as the tokenizer encodes it."""
        from imc_agents.models.packing import pack

        head = self._context_tokens(context)
        encoded = self._encoder.encode_batch(list(texts), add_special_tokens=False)
        tokens = [list(item.ids) for item in encoded]
        longest = len(head) + max(len(ids) for ids in tokens)
        if longest > self._engine.max_tokens:
            raise DataError(
                f"the question needs {longest} tokens, the model {self._model!r} reads {self._engine.max_tokens}; "
                "shorten it or lower sms.max_question_chars"
            )
        return head, pack(tokens, _ROW_TOKENS), encoded

    def _chat_tokens(self, chat: Sequence[dict[str, str]], *, opens_reply: bool) -> list[int]:
        prompt = self._engine.tokenizer.apply_chat_template(
            chat, add_generation_prompt=opens_reply, tokenize=False
        )
        return list(self._engine.tokenizer(prompt, add_special_tokens=False).input_ids)

    def _shared_tokens(self, chat: Sequence[dict[str, str]], ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens of the leading fixed messages where they open ``ids``, else none."""
        from jinja2 import TemplateError

        key = json.dumps(chat)
        if key not in self._shared:
            if len(self._shared) > _KEPT_PROMPTS:
                self._shared.clear()
            try:
                self._shared[key] = tuple(self._chat_tokens(chat, opens_reply=False)) if chat else ()
            except TemplateError:  # some chat templates refuse a chat without a question
                self._shared[key] = ()
        shared = self._shared[key]
        return shared if tuple(ids[: len(shared)]) == shared else ()

    def _context_tokens(self, context: str) -> tuple[int, ...]:
        if context not in self._contexts:
            if not context:
                raise ValueError("score needs a context; give at least one word that precedes the texts")
            if len(self._contexts) > _KEPT_PROMPTS:
                self._contexts.clear()
            ids = self._encoder.encode(context, add_special_tokens=False).ids
            opening = self._engine.tokenizer("", add_special_tokens=True).input_ids
            self._contexts[context] = (*opening[:1], *ids)
        return self._contexts[context]


def _score(text: str, offsets: Sequence[tuple[int, int]], logprobs: Sequence[float]) -> Score:
    tokens: list[TokenScore] = []
    at = 0
    for (_, end), logprob in zip(offsets, logprobs, strict=True):
        # Byte-level tokens leave out the blank before a word and share a character that they split; the spans
        # reported here are contiguous instead.
        stop = max(at, end)
        tokens.append(TokenScore(at, stop, logprob))
        at = stop
    if tokens and at < len(text):
        tokens[-1] = TokenScore(tokens[-1].start, len(text), tokens[-1].logprob)
    return Score(tuple(tokens))
