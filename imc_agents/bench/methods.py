"""The methods that the text benchmark sets side by side, each behind the same three calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imc_agents.bench.baselines import correct_with_pyspellchecker, correct_with_symspell
from imc_agents.config.schema import Config
from imc_agents.errors import ImcError, UsageError, nearest

if TYPE_CHECKING:
    from imc_agents.models.protocol import Backend, Usage
    from imc_agents.prompts import Prompt

__all__ = ["METHODS", "MODEL_METHODS", "Method", "Restored", "make_method", "rewrite"]


@dataclass(frozen=True, slots=True)
class Restored:
    """What a method made of one question.

    Attributes:
        text: The restored question; the question as it came where the method failed.
        flags: Marks for a person.
        calls: Model calls.
        prompt_tokens: Tokens read by the model.
        completion_tokens: Tokens written by the model.
        error: Why the method failed, or None.
    """

    text: str
    flags: tuple[str, ...] = ()
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


class Method(Protocol):
    """Restores noisy questions; many at once may be in flight.

    Attributes:
        at_once: Whether it wants all questions of a cell at once, to keep its batches full.
    """

    at_once: bool

    async def open(self) -> None:
        """Load what is needed, so that the clock measures work only."""
        ...

    async def restore(self, sample_id: str, text: str) -> Restored:
        """Restore one question. A failure of the model is in ``Restored.error``."""
        ...

    async def close(self) -> None:
        """Free what was loaded."""
        ...


async def rewrite(backend: Backend, prompt: Prompt, text: str) -> tuple[str, Usage]:
    """Ask a model once, by a prompt with the variable ``question``, to rewrite a question.

    Raises:
        ModelOutputError: the reply runs away; a faithful rewrite is about as long as the question.
        InfraError, DataError: as ``Backend.generate``.
    """
    from imc_agents.models.protocol import Sampling

    sampling = Sampling(max_tokens=16 + len(text) // 2)
    reply = await backend.generate(prompt.render(question=text), sampling=sampling)
    return reply.text.strip() or text, reply.usage


class _Plain:
    """A method that is one function of the text."""

    at_once = False

    def __init__(self, correct: Callable[[str], str]) -> None:
        self._correct = correct

    async def open(self) -> None:
        self._correct("warm")

    async def restore(self, sample_id: str, text: str) -> Restored:  # noqa: ARG002
        return Restored(self._correct(text))

    async def close(self) -> None:
        return None


class _Rewrite:
    """The same model asked once, by prompt, to rewrite the question."""

    at_once = True  # replies are written in lock-step; who comes late waits for the next group

    def __init__(self, config: Config) -> None:
        from imc_agents.models.registry import create_backend
        from imc_agents.prompts import load_prompt

        self._backend = create_backend(config.backends["default"])
        self._prompt = load_prompt("rewrite")

    async def open(self) -> None:
        await self._backend.open()

    async def restore(self, sample_id: str, text: str) -> Restored:  # noqa: ARG002
        try:
            better, usage = await rewrite(self._backend, self._prompt, text)
        except ImcError as error:
            return Restored(text, calls=1, error=str(error))
        return Restored(
            better, calls=1, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens
        )

    async def close(self) -> None:
        await self._backend.close()


class _Imc:
    """The multi-agent system."""

    at_once = False

    def __init__(self, config: Config) -> None:
        from imc_agents.agents.refiner import Refiner

        self._refiner = Refiner(config)

    async def open(self) -> None:
        await self._refiner.open()
        await self.restore("warm", "Is ther a mas in the left lung?")

    async def restore(self, sample_id: str, text: str) -> Restored:
        try:
            done = await self._refiner.refine(sample_id, text, lambda _event: None)
        except ImcError as error:
            return Restored(text, error=str(error))
        return Restored(
            done.refined, done.flags, done.calls, done.prompt_tokens, done.completion_tokens, done.error
        )

    async def close(self) -> None:
        await self._refiner.close()


METHODS: dict[str, Callable[[Config], Method]] = {
    "identity": lambda _config: _Plain(lambda text: text),
    "symspell": lambda _config: _Plain(correct_with_symspell),
    "pyspellchecker": lambda _config: _Plain(correct_with_pyspellchecker),
    "rewrite": _Rewrite,
    "imc": _Imc,
}
"""By name; the order is that of the tables."""

MODEL_METHODS = frozenset({"rewrite", "imc"})
"""Methods that use the model of ``backends.default``."""


def make_method(name: str, config: Config) -> Method:
    """Make a method, not yet open.

    Raises:
        UsageError: if there is no such method; names the nearest.
    """
    if name not in METHODS:
        hint = nearest(name, list(METHODS)) or f"; known: {', '.join(METHODS)}"
        raise UsageError(f"unknown method {name!r}{hint}")
    return METHODS[name](config)
