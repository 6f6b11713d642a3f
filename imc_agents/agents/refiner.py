"""The refiner: opens what a configuration names and takes single questions through its graphs."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.agents.context import AgentContext, Meter
from imc_agents.agents.contracts import GENERATED_PROMPT
from imc_agents.config.schema import BackendConfig, Config
from imc_agents.errors import ConfigError
from imc_agents.models.protocol import Backend, Capabilities, EngineWork, Measured
from imc_agents.prompts import Prompt, load_prompt
from imc_agents.refinement import Refinement, Status
from imc_agents.trace.events import Recorder

if TYPE_CHECKING:
    from imc_agents.agents.answer import Way

__all__ = ["Refiner"]

_DOUBT = 0.5  # what a flag leaves of the confidence: it says that two readings are open
_RECURSION = 200  # supersteps; eight rounds of seven nodes stay far below


class Refiner:
    """Refines questions; safe for many at once in one event loop.

    Args:
        config: The configuration.
        dry_run: Where given, takes every request as text instead of the models, which are never loaded.
        create: Makes a backend from its config; by default as its kind says.
    """

    def __init__(
        self,
        config: Config,
        *,
        dry_run: Callable[[str], None] | None = None,
        create: Callable[[BackendConfig], Backend] | None = None,
    ) -> None:
        self._config = config
        self._create = create
        self._dry_run = dry_run
        self._prompts = _prompts(config)
        self._backends: dict[str, Backend] = {}
        self._text: Any = None
        self._whole: Any = None
        self._sight: Any = None
        self._lexicon: Any = None

    def prompt_hashes(self) -> dict[str, str]:
        """SHA-256 of every prompt in use, by name."""
        return {name: prompt.sha256 for name, prompt in sorted(self._prompts.items())}

    async def open(self) -> dict[str, Capabilities]:
        """Open the backends of all roles that take part, the vocabulary, the graphs, and the bank if one is named.

        Raises:
            BackendUnreachableError: a backend cannot be opened.
            ConfigError: a graph cannot be found, a role needs what its backend lacks, or the bank cannot be used.
        """
        from imc_agents.models.dry import DryBackend
        from imc_agents.models.registry import create_backend
        from imc_agents.models.weights import cache_directory
        from imc_agents.text.lexicon import load_lexicon

        create = self._create or create_backend
        lexicon = self._config.lexicon
        self._lexicon = load_lexicon(lexicon.min_zipf, lexicon.extra_lists, cache_directory())
        self._text = _load_graph("sms.graph", self._config.sms.graph)
        found: dict[str, Capabilities] = {}
        if self._config.pdc.bank and not self._dry_run:
            found |= await self._open_sight()
        for name in sorted({role.backend for role in self._config.taking_part.values()}):
            spec = self._config.backends[name]
            backend = DryBackend(name, self._dry_run) if self._dry_run else create(spec)
            self._backends[name] = backend
            found[name] = await backend.open()
        for name, role in self._config.roles.items():
            if role.enabled and role.kind in ("perceiver", "adjudicator") and not found[role.backend].scores:
                raise ConfigError(
                    f"roles.{name}: the backend {role.backend!r} gives no token log-probabilities, which the "
                    f"{role.kind} needs; choose another backend for the role"
                )
        return found

    async def refine(
        self, sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        """Take one question through the graph; its image too where a bank is open, and answer it if configured.

        What was found in the image, and the answer, are among the events.

        Args:
            sample_id: Its id, which seeds are derived from.
            question: Its text.
            record: Takes the events.
            image: Path of its image within ``pdc.images``.

        Raises:
            ModelOutputError, InfraError, DataError: a call failed; the events up to then have been recorded.
        """
        ways: tuple[Way, ...] = ("full",) if self._config.run.answer else ()
        return (await self.ask(sample_id, question, record, image=image, ways=ways))[0]

    async def ask(
        self,
        sample_id: str,
        question: str,
        record: Recorder,
        *,
        image: str | None = None,
        ways: Sequence[Way],
    ) -> tuple[Refinement, dict[Way, str]]:
        """As ``refine``, with the answers of the given ways; needs ``run.answer`` where there are any."""
        started = time.perf_counter()
        meter = Meter()
        context = AgentContext(
            self._config,
            self._backends,
            self._prompts,
            self._lexicon,
            _seed(self._config.seed, sample_id),
            record,
            meter,
        )
        limit = {"recursion_limit": _RECURSION}
        answers: dict[Way, str] = {}
        if ways or (image is not None and self._sight is not None):
            done = await self._through_all(context, question, image, ways, limit)
            answers, state = done["answers"], done.get("text", {"text": question})
        else:
            state = await self._text.ainvoke(
                {"original": question, "text": question}, context=context, config=limit
            )
        refined = state["text"]
        status: Status = "ok" if refined != question else "reverted" if state.get("reverted") else "unchanged"
        flags = tuple(dict.fromkeys(state.get("flags", [])))
        refinement = Refinement(
            original=question,
            refined=refined,
            status=status,
            flags=flags,
            confidence=round(state.get("certainty", 1.0) * _DOUBT ** len(flags), 4),
            rounds=state.get("round", 0),
            calls=meter.calls,
            prompt_tokens=meter.prompt_tokens,
            completion_tokens=meter.completion_tokens,
            milliseconds=(time.perf_counter() - started) * 1000,
        )
        return refinement, answers

    async def _through_all(
        self,
        context: AgentContext,
        question: str,
        image: str | None,
        ways: Sequence[Way],
        limit: dict[str, int],
    ) -> dict[str, Any]:
        """Take a question through the whole graph; return its state."""
        from imc_agents.agents.answer import ImcContext
        from imc_agents.agents.sight import for_one

        if self._whole is None:
            pdc = _load_graph("pdc.graph", self._config.pdc.graph)
            self._whole = _load_graph("graph", self._config.graph, self._text, pdc)
        sight = None if self._sight is None else for_one(self._sight)
        whole = ImcContext(context, Path(self._config.pdc.images or "."), sight)
        begin: dict[str, Any] = {"question": question, "ways": tuple(ways)}
        if image is not None:
            begin["image"] = image
        return await self._whole.ainvoke(begin, context=whole, config=limit)

    async def _open_sight(self) -> dict[str, Capabilities]:
        """Load the bank and its encoder; what they are, for the manifest of a run."""
        from imc_agents.agents.sight import bank_digest, load_sight

        settings = self._config.pdc
        self._sight = await asyncio.to_thread(
            load_sight, settings, Path(settings.images or "."), answers=self._config.run.answer
        )
        encoder = self._sight.encoder.info
        digest = await asyncio.to_thread(bank_digest, Path(settings.bank))
        return {"pdc.bank": Capabilities(encoder.spec, f"{encoder.revision}:{digest}", False, 0)}

    async def engine_work(self) -> EngineWork | None:
        """What the engines behind the backends did since they were opened, together; None where none tells it."""
        found: dict[str, EngineWork] = {}
        for backend in self._backends.values():
            if isinstance(backend, Measured):
                found |= await backend.engine_work()
        return sum(found.values(), EngineWork(0, 0, 0, 0)) if found else None

    async def close(self) -> None:
        """Close the backends."""
        while self._backends:
            _, backend = self._backends.popitem()
            await backend.close()


def _seed(base: int, sample_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{base}\0{sample_id}".encode()).digest()[:4], "little")


def _prompts(config: Config) -> dict[str, Prompt]:
    names = {config.sms.context_prompt, config.sms.offtopic_prompt}
    names |= {role.prompt for role in config.taking_part.values() if role.prompt}
    if config.sms.supervisor.mode == "generate":
        names.add(GENERATED_PROMPT)
    return {name: load_prompt(name) for name in sorted(names)}


def _load_graph(key: str, target: str, *parts: Any) -> Any:
    module, _, function = target.partition(":")
    try:
        return getattr(import_module(module), function)(*parts)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{key}: cannot build {target!r}: {error}; it must name a module and a function, e.g. "
            f"{Config().graph if key == 'graph' else f'graphs.{key[:3]}:build'}"
        ) from error
