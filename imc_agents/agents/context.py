"""What every agent of one question works with, and its way to the model: each call is counted and recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from imc_agents.agents.outputs import json_schema
from imc_agents.config.schema import Config, RoleConfig
from imc_agents.errors import ImcError, ModelOutputError
from imc_agents.models.protocol import Backend, Generation, ImageFeatures, Message, Sampling, Score, Usage
from imc_agents.prompts import Prompt
from imc_agents.text.lexicon import Lexicon
from imc_agents.trace.events import Called, Event, Recorder

__all__ = ["AgentContext", "Meter"]

_Output = TypeVar("_Output", bound=BaseModel)


@dataclass(slots=True)
class Meter:
    """What one question has cost so far."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, usage: Usage) -> None:
        """Count one call."""
        self.calls += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What the agents share while they work on one question. Lives in the graph's runtime, never in its state.

    Attributes:
        config: The configuration.
        backends: Open backends by name.
        prompts: The prompts that the roles use, by name.
        lexicon: The vocabulary.
        seed: Seed of this sample.
        record: Takes the events.
        meter: Counts the calls.
    """

    config: Config
    backends: Mapping[str, Backend]
    prompts: Mapping[str, Prompt]
    lexicon: Lexicon
    seed: int
    record: Recorder
    meter: Meter = field(default_factory=Meter)

    def role_of(self, kind: str) -> tuple[str, RoleConfig]:
        """The one enabled role of a kind that there is once."""
        return next(
            (name, role) for name, role in self.config.roles.items() if role.kind == kind and role.enabled
        )

    def emit(self, event: Event) -> None:
        """Record an event."""
        self.record(event)

    async def score(
        self,
        agent: str,
        round_: int,
        texts: Sequence[str],
        *,
        context: str | None = None,
    ) -> list[Score]:
        """Score texts behind the context prompt, or behind another context, with the agent's own backend."""
        name = self.config.roles[agent].backend
        if context is None:
            context = self.prompts[self.config.sms.context_prompt].render_text().rstrip()
        shown = json.dumps({"context": context, "texts": list(texts)}, ensure_ascii=False)
        try:
            scores, usage = await self.backends[name].score(context, texts)
        except ImcError as error:
            self._called(agent, round_, "score", name, shown, "", Usage(), str(error))
            raise
        reply = json.dumps([round(score.total, 3) for score in scores])
        self._called(agent, round_, "score", name, shown, reply, usage)
        return scores

    async def ask(
        self,
        agent: str,
        round_: int,
        prompt: str,
        output: type[_Output],
        variables: Mapping[str, object],
        *,
        role: RoleConfig | None = None,
    ) -> _Output:
        """Have the agent's backend answer a prompt with JSON of the output model.

        Raises:
            ModelOutputError: the reply does not fit the output model.
        """
        role = role or self.config.roles[agent]
        messages = self.prompts[prompt].render(**variables)
        reply = await self._generate(agent, round_, role, messages, json_schema(output))
        try:
            return output.model_validate(reply.parsed)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise ModelOutputError(
                f"{agent}: the reply does not fit {output.__name__}: {place}: {problem['msg']}; "
                f"see the prompt {prompt!r} or choose another backend for the role"
            ) from error

    async def reply(
        self,
        agent: str,
        round_: int,
        prompt: str,
        variables: Mapping[str, object],
        *,
        images: tuple[Path | ImageFeatures, ...] = (),
    ) -> str:
        """Have the agent's backend answer a prompt in plain text, with images before the last message."""
        *before, last = self.prompts[prompt].render(**variables)
        messages = (*before, replace(last, images=images))
        return (await self._generate(agent, round_, self.config.roles[agent], messages, None)).text

    async def _generate(
        self,
        agent: str,
        round_: int,
        role: RoleConfig,
        messages: Sequence[Message],
        schema: dict[str, Any] | None,
    ) -> Generation:
        shown = json.dumps([_shown(message) for message in messages], ensure_ascii=False)
        sampling = Sampling(
            temperature=role.sampling.temperature,
            top_p=role.sampling.top_p,
            max_tokens=role.sampling.max_tokens,
            seed=self.seed,
        )
        try:
            reply = await self.backends[role.backend].generate(messages, sampling=sampling, schema=schema)
        except ImcError as error:
            self._called(agent, round_, "generate", role.backend, shown, "", Usage(), str(error))
            raise
        self._called(agent, round_, "generate", role.backend, shown, reply.text, reply.usage)
        return reply

    def _called(
        self,
        agent: str,
        round_: int,
        operation: str,
        backend: str,
        prompt: str,
        reply: str,
        usage: Usage,
        error: str | None = None,
    ) -> None:
        self.meter.add(usage)
        self.emit(
            Called(
                agent=agent,
                round=round_,
                operation="score" if operation == "score" else "generate",
                backend=backend,
                prompt=prompt,
                reply=reply,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                milliseconds=usage.milliseconds,
                error=error,
            )
        )


def _shown(message: Message) -> dict[str, Any]:
    shown: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        shown["images"] = [
            f"features {item.digest[:12]}" if isinstance(item, ImageFeatures) else item.name
            for item in message.images
        ]
    return shown
