"""Carries out the rows of a benchmark as the batch runner asks for them: text, then image, then the answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from imc_agents.agents.refiner import Refiner
from imc_agents.bench.baselines import correct_with_pyspellchecker, correct_with_symspell
from imc_agents.bench.matrix.layout import Place, place_of
from imc_agents.bench.matrix.methods import MatrixMethod, TextStep
from imc_agents.bench.methods import rewrite
from imc_agents.config.schema import BackendConfig, Config
from imc_agents.errors import ModelOutputError
from imc_agents.models.cache import CachedBackend, Responses
from imc_agents.models.protocol import Backend, Capabilities, EngineWork
from imc_agents.models.registry import create_backend
from imc_agents.prompts import load_prompt
from imc_agents.refinement import Refinement
from imc_agents.trace.events import Event, Recorder

__all__ = ["MatrixRefiner"]

_REWRITE = "rewrite"
_KEPT_TEXTS = 20_000


@dataclass(slots=True)
class _Text:
    """What one text step makes of one question, for all rows that share it."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    done: Refinement | None = None
    events: list[Event] = field(default_factory=list[Event])


class MatrixRefiner:
    """Does rows; safe for many at once in one event loop.

    Args:
        methods: The methods by name.
        models: The configuration of each model, with ``run.answer``.
        images: Folder of the noisy images.
        responses: File of replies; None makes every call.
    """

    def __init__(
        self,
        methods: Mapping[str, MatrixMethod],
        models: Mapping[str, Config],
        images: Path,
        responses: Path | None,
    ) -> None:
        self._methods = methods
        self._responses_path = responses
        self._responses: Responses | None = None
        self._refiners = {
            name: Refiner(
                config.model_copy(
                    update={"pdc": config.pdc.model_copy(update={"images": str(images.absolute())})}
                ),
                create=partial(self._create, name),
            )
            for name, config in models.items()
        }
        self._configs = models
        self._rewrite = load_prompt(_REWRITE)
        self._writers: dict[str, Backend] = {}
        self._texts: OrderedDict[tuple[str, str, str, TextStep], _Text] = OrderedDict()

    def prompt_hashes(self) -> dict[str, str]:
        """SHA-256 of every prompt in use, by model and name."""
        return {
            f"{name}/{prompt}": digest
            for name, refiner in self._refiners.items()
            for prompt, digest in refiner.prompt_hashes().items()
        }

    async def open(self) -> dict[str, Capabilities]:
        """Open the models one after the other; what they are by model and backend.

        Raises:
            BackendUnreachableError, ConfigError: as ``Refiner.open``.
        """
        if self._responses_path is not None:
            self._responses = Responses(self._responses_path)
        found: dict[str, Capabilities] = {}
        for name, refiner in self._refiners.items():
            found |= {f"{name}/{backend}": what for backend, what in (await refiner.open()).items()}
            if any(method.text == _REWRITE for method in self._methods.values()):
                self._writers[name] = self._create(name, self._configs[name].backends["default"])
                await self._writers[name].open()
        return found

    async def refine(
        self, sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        """Take one row through its method and ask its model; the answer is among the events.

        Args:
            sample_id: Id of the row.
            question: Its text.
            record: Takes the events.
            image: Path of its image within the folder of images.

        Raises:
            ModelOutputError, InfraError, DataError: a call failed, or the image cannot be used.
        """
        place = place_of(sample_id)
        method = self._methods[place.method]
        text = await self._text(place, question, method.text, record)
        asked, _ = await self._refiners[place.model].ask(
            _identity(place),
            text.refined,
            record,
            image=image,
            ways=("image" if method.calibrated else "raw",),
        )
        return replace(
            text,
            calls=text.calls + asked.calls,
            prompt_tokens=text.prompt_tokens + asked.prompt_tokens,
            completion_tokens=text.completion_tokens + asked.completion_tokens,
            milliseconds=text.milliseconds + asked.milliseconds,
        )

    async def engine_work(self) -> EngineWork | None:
        """What the engines behind the models did, together; None where none tells it."""
        told = [await refiner.engine_work() for refiner in self._refiners.values()]
        known = [work for work in told if work is not None]
        return sum(known, EngineWork(0, 0, 0, 0)) if known else None

    async def close(self) -> None:
        """Close the models and the file of replies."""
        for refiner in self._refiners.values():
            await refiner.close()
        while self._writers:
            await self._writers.popitem()[1].close()
        if self._responses is not None:
            self._responses.close()

    def _create(self, model: str, spec: BackendConfig) -> Backend:
        backend = create_backend(spec)
        return backend if self._responses is None else CachedBackend(backend, self._responses, model)

    async def _text(self, place: Place, question: str, step: TextStep, record: Recorder) -> Refinement:
        """Take the question through a text step; what is the same for many rows is done once, and traced in each."""
        if step == "none":
            return Refinement(question, question, "unchanged")
        text = self._shared(place, question, step)
        async with text.turn:
            fresh = text.done is None
            if text.done is None:
                events: list[Event] = []
                text.done = await self._stepped(place, question, step, events.append)
                text.events = events
        for event in text.events:
            record(event)
        if fresh:
            return text.done
        return replace(text.done, calls=0, prompt_tokens=0, completion_tokens=0, milliseconds=0.0)

    def _shared(self, place: Place, question: str, step: TextStep) -> _Text:
        key = (place.model, _identity(place), question, step)
        text = self._texts.setdefault(key, _Text())
        self._texts.move_to_end(key)
        while len(self._texts) > _KEPT_TEXTS:
            self._texts.popitem(last=False)
        return text

    async def _stepped(self, place: Place, question: str, step: TextStep, record: Recorder) -> Refinement:
        if step == "sms":
            refined, _ = await self._refiners[place.model].ask(_identity(place), question, record, ways=())
            return refined
        if step == _REWRITE:
            try:
                better, usage = await rewrite(self._writers[place.model], self._rewrite, question)
            except ModelOutputError:
                return Refinement(question, question, "unchanged", ("rewrite_failed",), calls=1)
            return Refinement(
                question,
                better,
                "ok" if better != question else "unchanged",
                calls=1,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
            )
        better = (correct_with_symspell if step == "symspell" else correct_with_pyspellchecker)(question)
        return Refinement(question, better, "ok" if better != question else "unchanged")


def _identity(place: Place) -> str:
    """What seeds are derived from: neither noise nor method, so that equal texts have equal outcomes."""
    return f"{place.dataset}/{place.sample}"
