"""The OpenAI HTTP interface: what is sent, and what is answered (only the fields that are read, checked on arrival)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError

from imc_agents.errors import BackendUnreachableError, DataError, InfraError, ModelOutputError, nearest
from imc_agents.models.features import features_part
from imc_agents.models.http import Answer
from imc_agents.models.images import data_url
from imc_agents.models.protocol import Generation, ImageFeatures, Message, Sampling, Usage
from imc_agents.models.replies import parse_reply

__all__ = [
    "Choice",
    "ModelCard",
    "Reply",
    "TokenCounts",
    "chat_body",
    "decode",
    "find_card",
    "read_chat",
    "scoring_body",
]

_Answer = TypeVar("_Answer", bound=BaseModel)
_TOO_LONG = (
    "context length",
    "context_length",
    "maximum context",
    "max_model_len",
    "too long",
    "context size",
)


class ModelCard(BaseModel):
    """One entry of ``/models``; vLLM adds where the weights come from and the context length."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    owned_by: str | None = None


class _ModelList(BaseModel):
    data: list[ModelCard]


class _Token(BaseModel):
    logprob: float | None = None
    decoded_token: str | None = None


class _Echo(BaseModel):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []


class _Text(BaseModel):
    content: str | None = None


class Choice(BaseModel):
    """One choice of a completion or of a chat completion."""

    index: int = 0
    message: _Text = Field(default_factory=_Text)
    finish_reason: str | None = None
    prompt_logprobs: list[dict[str, _Token] | None] | None = None
    logprobs: _Echo | None = None

    def prompt_tokens(self) -> tuple[list[str], list[float | None]]:
        """Pieces and log-probabilities of the prompt's tokens, as vLLM gives them.

        A server that read the beginning of the prompt from its prefix cache gives the tokens behind it only.

        Raises:
            InfraError: the server gave none.
        """
        if self.prompt_logprobs is None:
            raise InfraError("the server's reply has no prompt_logprobs")
        # The prompt's own token comes first; the first position has none, as nothing precedes it.
        tokens = [next(iter(entry.values())) if entry else _Token() for entry in self.prompt_logprobs]
        return [token.decoded_token or "" for token in tokens], [token.logprob for token in tokens]

    def echoed_tokens(self, written: int) -> tuple[list[str], list[float | None]]:
        """Pieces and log-probabilities of an echoed prompt, less the ``written`` tokens behind it.

        Raises:
            InfraError: the server gave none.
        """
        if self.logprobs is None or not self.logprobs.token_logprobs:
            raise InfraError("the server's reply has no logprobs")
        end = len(self.logprobs.tokens) - written
        return self.logprobs.tokens[:end], self.logprobs.token_logprobs[:end]


class _Details(BaseModel):
    cached_tokens: int | None = None


class TokenCounts(BaseModel):
    """What a request cost."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None

    @property
    def read(self) -> int:
        """Prompt tokens that the model read, those from a prefix cache left out."""
        details = self.prompt_tokens_details
        return self.prompt_tokens - ((details.cached_tokens or 0) if details else 0)


class Reply(BaseModel):
    """The reply of ``/completions`` and ``/chat/completions``."""

    choices: list[Choice] = Field(min_length=1)
    usage: TokenCounts | None = None


def chat_body(
    model: str, messages: Sequence[Message], sampling: Sampling, schema: dict[str, Any] | None
) -> dict[str, Any]:
    """The body of a ``/chat/completions`` request.

    Raises:
        DataError: an image cannot be read.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": _content(message)} for message in messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.temperature > 0:
        body["seed"] = sampling.seed
    if schema is not None:
        form = {"name": "reply", "schema": schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    return [*(_image_part(image) for image in message.images), {"type": "text", "text": message.content}]


def _image_part(image: Path | ImageFeatures) -> dict[str, Any]:
    if isinstance(image, ImageFeatures):
        return features_part(image)
    return {"type": "image_url", "image_url": {"url": data_url(image)}}


def scoring_body(
    model: str, prompt: str | list[str], style: Literal["prompt_logprobs", "echo"]
) -> dict[str, Any]:
    """The body of a ``/completions`` request that asks for the log-probabilities of the prompt."""
    # One token is generated and thrown away: servers refuse 0.
    body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    return body | ({"prompt_logprobs": 0} if style == "prompt_logprobs" else {"echo": True, "logprobs": 0})


def read_chat(
    response: Answer,
    sampling: Sampling,
    schema: dict[str, Any] | None,
    milliseconds: float,
    key_hint: str,
) -> Generation:
    """The generation in the answer to a chat request.

    Raises:
        ModelOutputError, DataError, InfraError, BackendUnreachableError: as ``decode``, and where the reply was cut,
            is empty or is no JSON of the schema.
    """
    reply = decode(response, Reply, key_hint)
    choice = reply.choices[0]
    if choice.finish_reason == "length":
        raise ModelOutputError(
            f"the reply was cut after max_tokens = {sampling.max_tokens}; raise sampling.max_tokens of the role"
        )
    text = choice.message.content
    if text is None:
        raise ModelOutputError(f"the model gave no text (finish_reason {choice.finish_reason!r})")
    counts = reply.usage or TokenCounts()
    usage = Usage(counts.read, counts.completion_tokens, milliseconds)
    return Generation(text, None if schema is None else parse_reply(text, schema), usage)


def decode(response: Answer, answer: type[_Answer], key_hint: str) -> _Answer:
    """The answer of a server as a model of ours.

    Args:
        response: What the server answered.
        answer: What it should be.
        key_hint: What to do where the server refuses the key.

    Raises:
        BackendUnreachableError: a wrong key, address or model name.
        DataError: the request does not fit the model's context.
        InfraError: any other error, or an answer that is something else.
    """
    url, status = response.url, response.status
    if status in (401, 403):
        # The server's own message may repeat the key.
        raise BackendUnreachableError(f"{url} refused the key (HTTP {status}); {key_hint}")
    if status < 400:
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "json_invalid":
                raise InfraError(f"{url} did not answer with JSON (HTTP {status})") from error
            place = ".".join(str(part) for part in first["loc"])
            raise InfraError(
                f"{url} answered something else than an OpenAI server: {place}: {first['msg']}"
            ) from error
    try:
        message = _error_line(json.loads(response.content))
    except ValueError as error:
        raise InfraError(f"{url} did not answer with JSON (HTTP {status})") from error
    if status in (400, 413, 422) and any(mark in message.lower() for mark in _TOO_LONG):
        raise DataError(f"the request does not fit the model's context: {message}")
    if status == 404:
        raise BackendUnreachableError(f"{url} is not there (HTTP 404): {message}")
    raise InfraError(f"{url} failed with HTTP {status}: {message}")


def find_card(response: Answer, model: str, key_hint: str) -> ModelCard:
    """The card of a model in the answer of ``/models``; an empty name means the only one that the server has.

    That of an adapter has the context length of its base, and says in ``root`` what it adapts.

    Raises:
        BackendUnreachableError: a wrong key or address, or the server does not have the model.
        InfraError: the answer cannot be read.
    """
    url = response.url.removesuffix("/models")
    if response.status == 404:
        raise BackendUnreachableError(f"{url}/models is not there (HTTP 404); base_url usually ends in /v1")
    cards = decode(response, _ModelList, key_hint).data
    # A LoRA adapter is served beside its base model; without a name the base is meant.
    bases = [card for card in cards if not card.parent]
    if not model and len(bases) == 1:
        return bases[0]
    names = [card.id for card in cards]
    if model not in names:
        wanted = f"no model {model!r}{nearest(model, names)}" if model else "more than one model; name one"
        raise BackendUnreachableError(
            f"the server at {url} has {wanted}; it serves: {', '.join(names) or 'nothing'}"
        )
    card = cards[names.index(model)]
    base = next((other for other in bases if other.id == card.parent), None)
    if base is None:
        return card
    # Of an adapter, servers tell neither what it adapts nor the context length.
    return card.model_copy(
        update={"root": f"{card.root} on {base.root}", "max_model_len": base.max_model_len}
    )


def _error_line(body: Any) -> str:
    """The server's error message on one line; servers put it at the top, or below ``error``."""
    found: Any = body
    for key in ("error", "message"):
        found = cast("dict[str, Any]", found).get(key, found) if isinstance(found, dict) else found
    return " ".join(str(found).split())[:300]
