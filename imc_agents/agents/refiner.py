"""The refiner: opens what a configuration names and takes single questions through its graph."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from imc_agents.agents.context import AgentContext, Meter
from imc_agents.agents.contracts import GENERATED_PROMPT
from imc_agents.config.schema import BackendConfig, Config
from imc_agents.errors import ConfigError
from imc_agents.models.protocol import Backend, Capabilities, EngineWork, Measured
from imc_agents.prompts import Prompt, load_prompt
from imc_agents.refinement import Refinement, Status
from imc_agents.trace.events import Recorder

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
        self._graph: Any = None
        self._lexicon: Any = None

    def prompt_hashes(self) -> dict[str, str]:
        """SHA-256 of every prompt in use, by name."""
        return {name: prompt.sha256 for name, prompt in sorted(self._prompts.items())}

    async def open(self) -> dict[str, Capabilities]:
        """Open the backends of all enabled roles, the vocabulary and the graph.

        Raises:
            BackendUnreachableError: a backend cannot be opened.
            ConfigError: the graph cannot be found, or a role needs what its backend lacks.
        """
        from imc_agents.models.dry import DryBackend
        from imc_agents.models.registry import create_backend
        from imc_agents.models.weights import cache_directory
        from imc_agents.text.lexicon import load_lexicon

        create = self._create or create_backend
        lexicon = self._config.lexicon
        self._lexicon = load_lexicon(lexicon.min_zipf, lexicon.extra_lists, cache_directory())
        self._graph = _load_graph(self._config.sms.graph)
        found: dict[str, Capabilities] = {}
        for name in sorted({role.backend for role in self._config.roles.values() if role.enabled}):
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

    async def refine(self, sample_id: str, question: str, record: Recorder) -> Refinement:
        """Take one question through the graph.

        Raises:
            ModelOutputError, InfraError, DataError: a call failed; the events up to then have been recorded.
        """
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
        state: dict[str, Any] = await self._graph.ainvoke(
            {"original": question, "text": question}, context=context, config={"recursion_limit": _RECURSION}
        )
        refined = state["text"]
        status: Status = "ok" if refined != question else "reverted" if state.get("reverted") else "unchanged"
        flags = tuple(dict.fromkeys(state.get("flags", [])))
        return Refinement(
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
    names |= {role.prompt for role in config.roles.values() if role.enabled and role.prompt}
    if config.sms.supervisor.mode == "generate":
        names.add(GENERATED_PROMPT)
    return {name: load_prompt(name) for name in sorted(names)}


def _load_graph(target: str) -> Any:
    module, _, function = target.partition(":")
    try:
        return getattr(import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"sms.graph: cannot build {target!r}: {error}; it must name a module and a function, e.g. graphs.sms:build"
        ) from error
