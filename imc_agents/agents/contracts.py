"""What each node of the graph offers to its prompt and expects back: the contract that a swapped prompt must keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from imc_agents.agents.outputs import NOISE_KINDS, output_model
from imc_agents.config.load import Origin
from imc_agents.config.schema import Config, RoleConfig
from imc_agents.errors import ConfigError, nearest
from imc_agents.prompts import Prompt, load_prompt

__all__ = [
    "BASELINE_PROMPT",
    "CONTRACTS",
    "GENERATED_PROMPT",
    "Contract",
    "check_prompt",
    "check_roles",
    "role_problems",
]

GENERATED_PROMPT = "specialist_generated"
"""The prompt around the instructions that the supervisor writes in mode ``generate``."""

BASELINE_PROMPT = "rewrite"
"""The single-prompt rewrite that the bench compares with."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a node offers and expects.

    Attributes:
        variables: Variables that a prompt may use, each with an example for ``imc prompts render``.
        output: Name of the model of the reply; None for plain text.
        chat: Whether the prompt is messages rather than plain text.
    """

    variables: Mapping[str, Any]
    output: str | None
    chat: bool = True


_QUESTION = "Is there a pnemothorax on the left side?"

CONTRACTS: Mapping[str, Contract] = MappingProxyType(
    {
        "perceiver": Contract({"question": _QUESTION, "suspicious": ["pnemothorax"]}, "NoiseJudgement"),
        "supervisor": Contract(
            {
                "question": _QUESTION,
                "noise": ["drop_shuffle"],
                "catalogue": [{"name": "spelling", "description": "Undoes keyboard slips."}],
            },
            "NewSpecialist",
        ),
        "specialist": Contract(
            {"question": _QUESTION, "description": "Restores dropped words."}, "SpanEdits"
        ),
        GENERATED_PROMPT: Contract(
            {"question": _QUESTION, "instructions": "Put words that were swapped back in order."}, "SpanEdits"
        ),
        "adjudicator": Contract(
            {"original": _QUESTION, "candidate": "Is there a pneumothorax on the left side?"}, None
        ),
        "critic": Contract(
            {"original": _QUESTION, "question": "Is there a pneumothorax on the left side?"},
            "CritiqueVerdict",
        ),
        "answerer": Contract({"question": "Is there a pneumothorax on the left side?"}, None),
        "context": Contract({}, None, chat=False),
        "baseline": Contract({"question": _QUESTION}, None),
    }
)
"""By the key ``role`` of a prompt's front matter; a generated specialist has one of its own."""


def check_prompt(name: str, role: str) -> Prompt:
    """Load a prompt for a kind of role and check it against the contract.

    Args:
        name: Name of the prompt.
        role: A key of ``CONTRACTS``.

    Raises:
        ConfigError: there is no such prompt, it is not sound, or it breaks the contract; names file and line.
    """
    prompt = load_prompt(name)
    contract = CONTRACTS[role]
    kind = "specialist" if role == GENERATED_PROMPT else role
    if prompt.role != kind:
        raise ConfigError(
            f"{prompt.where('role')}: the prompt is for the role {prompt.role}, but a {kind} uses it"
        )
    for variable in prompt.variables:
        if variable not in contract.variables:
            hint = nearest(variable, set(contract.variables))
            offered = f"; a {kind} gets {', '.join(contract.variables) or 'no variables'}"
            raise ConfigError(f"{prompt.where('variables')}: unknown variable {variable!r}{hint or offered}")
    output_model(prompt)
    if prompt.output != contract.output:
        expected = f"must be {contract.output}" if contract.output else "must be left out"
        raise ConfigError(f"{prompt.where('output')}: the output of a {kind} {expected}, not {prompt.output}")
    if prompt.is_chat != contract.chat:
        cure = "needs a heading '# User'" if contract.chat else "must be plain text without headings"
        raise ConfigError(f"{prompt.path}: the prompt of a {kind} {cure}")
    return prompt


def role_problems(name: str, role: RoleConfig) -> list[tuple[str, str]]:
    """Return (dotted key, problem) for everything that keeps the role from working as configured."""
    problems: list[tuple[str, str]] = []
    for kind in role.handles:
        if kind not in NOISE_KINDS:
            hint = nearest(kind, NOISE_KINDS) or f"; there are {', '.join(NOISE_KINDS)}"
            problems.append((f"roles.{name}.handles", f"unknown noise {kind!r}{hint}"))
    if role.prompt is not None:
        problems += _prompt_problem(f"roles.{name}.prompt", role.prompt, role.kind)
    return problems


def check_roles(config: Config, origins: Mapping[str, Origin] | None = None) -> None:
    """Check noise kinds and prompts of all enabled roles, and the prompts that the settings name.

    Args:
        config: The configuration.
        origins: Where its keys were set, for the messages.

    Raises:
        ConfigError: with one line for each problem.
    """
    problems = [
        line for name, role in config.roles.items() if role.enabled for line in role_problems(name, role)
    ]
    problems += _prompt_problem("sms.context_prompt", config.sms.context_prompt, "context")
    problems += _prompt_problem("sms.offtopic_prompt", config.sms.offtopic_prompt, "context")
    if config.sms.supervisor.mode == "generate":
        problems += _prompt_problem("sms.supervisor.mode", GENERATED_PROMPT, GENERATED_PROMPT)
    problems += _unasked(config)
    if problems:
        places = origins or {}
        raise ConfigError(
            "\n".join(
                f"{places[key].where}: {key}: {problem}" if key in places else f"{key}: {problem}"
                for key, problem in problems
            )
        )


def _prompt_problem(key: str, prompt: str, role: str) -> list[tuple[str, str]]:
    try:
        check_prompt(prompt, role)
    except ConfigError as error:
        return [(key, str(error))]
    return []


def _unasked(config: Config) -> list[tuple[str, str]]:
    # A role that is to write, by the mode of its node, but has nothing to ask with.
    sms = config.sms
    writers = {
        "perceiver": ("sms.perceive.judgement: model", sms.perceive.judgement == "model"),
        "supervisor": ("sms.supervisor.mode: generate", sms.supervisor.mode == "generate"),
        "adjudicator": ("sms.adjudicate.judge: meaning", sms.adjudicate.judge == "meaning"),
        "critic": ("sms.critique.mode: model", sms.critique.mode == "model"),
        "answerer": ("run.answer: true", config.run.answer),
    }
    return [
        (f"roles.{name}.prompt", f"needs a prompt because of {writers[role.kind][0]}")
        for name, role in config.roles.items()
        if role.enabled and role.prompt is None and role.kind in writers and writers[role.kind][1]
    ]
