"""What the model writes for each role, as pydantic models that also constrain its decoding.

Every text and list has a bound: constrained decoding stops at it, where a small model would go on for ever.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from imc_agents.errors import ConfigError, nearest
from imc_agents.prompts import Prompt

__all__ = [
    "NOISE_KINDS",
    "OUTPUTS",
    "CritiqueVerdict",
    "NewSpecialist",
    "NoiseFinding",
    "NoiseJudgement",
    "NoiseKind",
    "SpanEdit",
    "SpanEdits",
    "json_schema",
    "output_model",
]

NoiseKind = Literal["typo", "ocr", "asr", "drop_shuffle", "shorthand", "spacing", "casing", "irrelevant"]
"""The kinds of text noise that perceive may name and a specialist may handle."""

NOISE_KINDS: tuple[str, ...] = get_args(NoiseKind)

_Sentence = Annotated[str, Field(max_length=200)]


class _Output(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoiseFinding(_Output):
    """One kind of noise and how bad it is: 1 is barely there, 5 makes the text hard to read."""

    kind: NoiseKind
    severity: Annotated[int, Field(ge=1, le=5)]


class NoiseJudgement(_Output):
    """The perceiver's judgement of a question."""

    clean: bool
    noise: Annotated[tuple[NoiseFinding, ...], Field(max_length=4)] = ()


class SpanEdit(_Output):
    """Replace ``find``, as it stands in the question, by ``replace``."""

    find: Annotated[str, Field(min_length=1, max_length=160)]
    replace: Annotated[str, Field(max_length=160)]
    reason: _Sentence


class SpanEdits(_Output):
    """A specialist's proposals; none where the question is fine."""

    edits: Annotated[tuple[SpanEdit, ...], Field(max_length=8)]


class NewSpecialist(_Output):
    """A specialist that the supervisor writes for noise that no role handles."""

    name: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")]
    instructions: Annotated[str, Field(min_length=1, max_length=800)]


class CritiqueVerdict(_Output):
    """The critic's verdict on a refined question."""

    noisy: bool
    reason: _Sentence


OUTPUTS: dict[str, type[BaseModel]] = {
    model.__name__: model for model in (NoiseJudgement, SpanEdits, NewSpecialist, CritiqueVerdict)
}
"""The models that the front matter of a prompt may name as ``output``."""


def output_model(prompt: Prompt) -> type[BaseModel] | None:
    """Return the model of the prompt's replies, or None where it names none.

    Raises:
        ConfigError: the prompt names a model that does not exist.
    """
    if prompt.output is None:
        return None
    if prompt.output not in OUTPUTS:
        hint = nearest(prompt.output, set(OUTPUTS)) or f"; there are {', '.join(OUTPUTS)}"
        raise ConfigError(f"{prompt.where('output')}: unknown output model {prompt.output!r}{hint}")
    return OUTPUTS[prompt.output]


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema that constrains the decoding of a reply."""
    return model.model_json_schema()
