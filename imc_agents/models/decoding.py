"""Lock-step generation of several replies, each with its own sampling and grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from imc_agents.models.engine import Engine
from imc_agents.models.protocol import Sampling

__all__ = ["Decoding", "Reply", "Request", "grammar_matcher", "grammar_tokenizer"]


@dataclass(slots=True)
class Request:
    """One prompt to answer.

    Attributes:
        context: The tokens that the prompts of a role begin with, read once and kept.
        prompt: The tokens behind them, at least one.
        sampling: How to sample.
        matcher: An llguidance matcher, or None for free text.
    """

    context: tuple[int, ...]
    prompt: list[int]
    sampling: Sampling
    matcher: Any | None = None


@dataclass(slots=True)
class Reply:
    """The tokens of a reply, without the end token; ``complete`` unless max_tokens cut it."""

    tokens: list[int] = field(default_factory=list[int])
    complete: bool = False


def grammar_tokenizer(engine: Engine) -> Any:
    """The tokenizer as llguidance needs it; takes about a second, keep it."""
    import llguidance.hf

    return llguidance.hf.from_tokenizer(
        engine.tokenizer, n_vocab=engine.vocabulary, eos_token=engine.tokenizer.eos_token_id
    )


def grammar_matcher(tokenizer: Any, schema: dict[str, Any]) -> Any:
    """A matcher that admits only JSON of the schema, without free white space."""
    import llguidance

    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False})
    return llguidance.LLMatcher(tokenizer, grammar)


class Decoding:
    """Replies that are written in lock-step, to prompts behind one context.

    ``step`` writes one token each until ``active`` is empty.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self.replies = [Reply() for _ in requests]
        self.active = list(range(len(requests)))
        self._engine = engine
        self._requests = requests
        self._ends = _end_tokens(engine)
        self._draws = [np.random.default_rng(request.sampling.seed) for request in requests]
        context = engine.context(requests[0].context)
        self._before = context.length
        self._cache, self._filled, logits = engine.prefill(context, [request.prompt for request in requests])
        self._tokens = self._choose(logits)

    def step(self) -> None:
        """Take the chosen tokens in, drop the replies that are done, and choose the next tokens."""
        kept = [line for line, index in enumerate(self.active) if self._take(index, self._tokens[line])]
        if len(kept) < len(self.active):
            self.active = [self.active[line] for line in kept]
            if not self.active:
                return
            self._select(kept)
        lines = self._engine.lines(self.active)
        tokens = [self.replies[index].tokens[-1] for index in lines]
        positions = [
            self._before + len(self._requests[index].prompt) + len(self.replies[index].tokens) - 1
            for index in lines
        ]
        self._filled = np.concatenate([self._filled, np.ones((len(self._filled), 1), dtype=np.bool_)], axis=1)
        self._tokens = self._choose(self._engine.step(self._cache, self._filled, tokens, positions))

    def cancel(self, index: int) -> None:
        """Give up one reply; its row goes with the next step."""
        self._requests[index].sampling = Sampling(max_tokens=0)

    def _take(self, index: int, token: int) -> bool:
        reply, request = self.replies[index], self._requests[index]
        if token in self._ends:
            reply.complete = True
            return False
        if len(reply.tokens) >= request.sampling.max_tokens:
            return False
        reply.tokens.append(token)
        if request.matcher is not None:
            request.matcher.consume_token(token)
            if request.matcher.is_stopped():
                reply.complete = True
                return False
        return True

    def _select(self, lines: list[int]) -> None:
        import torch

        rows = self._engine.lines(lines)
        self._cache.batch_select_indices(torch.tensor(rows, device=self._engine.device))
        self._filled = self._filled[rows]

    def _choose(self, logits: npt.NDArray[np.float32]) -> list[int]:
        return [
            _choose(logits[line], self._requests[index], self._draws[index])
            for line, index in enumerate(self.active)
        ]


def _end_tokens(engine: Engine) -> set[int]:
    ends: int | list[int] | None = engine.model.generation_config.eos_token_id
    found: list[int | None] = [*ends] if isinstance(ends, list) else [ends]
    return {token for token in (*found, engine.tokenizer.eos_token_id) if token is not None}


def _choose(logits: npt.NDArray[np.float32], request: Request, draws: np.random.Generator) -> int:
    if request.matcher is not None:
        logits = np.where(_allowed(request.matcher, len(logits)), logits, -np.inf)
    sampling = request.sampling
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = (logits.astype(np.float64) - logits.max()) / sampling.temperature
    probabilities = np.exp(scaled)
    order = np.argsort(-probabilities, kind="stable")
    cumulative = np.cumsum(probabilities[order]) / probabilities.sum()
    kept = order[: int(np.searchsorted(cumulative, sampling.top_p)) + 1]
    weights = probabilities[kept] / probabilities[kept].sum()
    return int(kept[min(int(np.searchsorted(np.cumsum(weights), draws.random())), len(kept) - 1)])


def _allowed(matcher: Any, vocabulary: int) -> npt.NDArray[np.bool_]:
    import llguidance.numpy as masks

    words = masks.allocate_token_bitmask(1, vocabulary)
    masks.fill_next_token_bitmask(matcher, words)
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:vocabulary].astype(np.bool_)
