"""What an OpenAI-compatible server answers: only the fields that are read, checked on arrival."""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel, Field

from imc_agents.errors import InfraError

__all__ = ["Choice", "ModelCard", "ModelList", "Reply", "TokenCounts", "error_line"]


class ModelCard(BaseModel):
    """One entry of ``/models``; vLLM adds where the weights come from and the context length."""

    id: str
    root: str | None = None
    max_model_len: int | None = None


class ModelList(BaseModel):
    """The reply of ``/models``."""

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


def error_line(body: Any) -> str:
    """The server's error message on one line; servers put it at the top, or below ``error``."""
    found: Any = body
    for key in ("error", "message"):
        found = cast("dict[str, Any]", found).get(key, found) if isinstance(found, dict) else found
    return " ".join(str(found).split())[:300]
