"""The configuration as frozen pydantic models: every key, its default, its unit and what it is for.

``Field(description=...)`` is the single source for ``imc config schema``, for the comments that ``imc init`` writes
and for the reference page in docs/.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AdjudicateConfig",
    "BackendConfig",
    "Config",
    "CritiqueConfig",
    "GuardConfig",
    "LexiconConfig",
    "PdcConfig",
    "PerceiveConfig",
    "RoleConfig",
    "RunConfig",
    "SamplingConfig",
    "SmsConfig",
    "SupervisorConfig",
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackendConfig(_Section):
    """One served model."""

    kind: str = Field(
        default="embedded",
        description="Registered backend: embedded, vllm, vllm-engine, openai, or one from an entry point.",
    )
    model: str = Field(
        default="",
        description="Model name, hub id or local checkpoint directory, as the kind takes it; empty is "
        "smollm2-135m-instruct for embedded, and the only model of a server.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of that kind of backend; `imc doctor` lists them."
    )


class SamplingConfig(_Section):
    """How a role samples its replies."""

    temperature: float = Field(default=0.0, ge=0, le=2, description="0 is greedy and needs no seed.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus sampling mass.")
    max_tokens: int = Field(default=256, ge=1, le=8192, description="Longest reply in tokens.")


class RoleConfig(_Section):
    """One role that the MLLM plays. Specialists are config and a prompt, not code."""

    kind: Literal["perceiver", "supervisor", "specialist", "adjudicator", "critic", "answerer"] = Field(
        description="The node of the graph that plays the role; there may be many specialists, one of each other."
    )
    description: str = Field(default="", description="One line that the supervisor and the trace show.")
    enabled: bool = Field(default=True, description="Whether the role takes part.")
    prompt: str | None = Field(
        default=None, description="Prompt file in prompts/ without .md; needed where the model writes."
    )
    backend: str = Field(default="default", description="Which entry of `backends` plays the role.")
    source: Literal["lexicon", "model"] = Field(
        default="model",
        description="Specialists only: edits from a lexicon channel, or written by the model.",
    )
    channel: str | None = Field(
        default=None,
        description="Specialists with source lexicon only: keyboard, ocr, sound, spacing, casing, shorthand or "
        "relevance.",
    )
    handles: tuple[str, ...] = Field(
        default=(), description="Specialists only: noise kinds it is instantiated for."
    )
    slip_cost: float = Field(
        default=5.0,
        ge=0,
        description="Nats that the likelihood must gain per slip for an edit of this role to be accepted.",
    )
    max_candidates: int = Field(
        default=8, ge=1, le=64, description="Edits per suspicious span that go to the model."
    )
    sampling: SamplingConfig = Field(
        default_factory=SamplingConfig, description="How the role samples replies."
    )


class PerceiveConfig(_Section):
    """When a word is suspicious."""

    web_word_nats: float = Field(
        default=3.0,
        ge=0,
        description="Surprisal from which a word is looked at that the web knows and no dictionary has.",
    )
    known_word_nats: float = Field(
        default=1.0,
        description="Expected gain, beyond the slip cost, from which a known word is looked at in a text without "
        "any misspelt word: its surprisal minus that of the commonest word it may be a slip of.",
    )
    alike_nats: float = Field(
        default=8.0,
        ge=0,
        description="Surprisal from which a word is looked at that sounds like one as common in medicine.",
    )
    noisy_discount_nats: float = Field(
        default=4.0,
        ge=0,
        description="By how much less a known word is trusted beside misspelt ones: slips come in numbers.",
    )
    judgement: Literal["evidence", "model"] = Field(
        default="evidence",
        description="Name the noise from surprisal and lexicon evidence only, or also ask the model for a judgement.",
    )


class SupervisorConfig(_Section):
    """How specialists are chosen."""

    mode: Literal["catalogue", "generate"] = Field(
        default="catalogue",
        description="Choose from `roles` only, or also write a new specialist for noise that no role handles.",
    )
    max_generated: int = Field(
        default=1, ge=0, le=4, description="New specialists per question in mode generate."
    )


class AdjudicateConfig(_Section):
    """How edits are assessed."""

    window_words: int = Field(
        default=4, ge=1, le=64, description="Words right of an edit whose likelihood is assessed."
    )
    known_word_cost: float = Field(
        default=3.0,
        ge=0,
        description="Extra nats an edit must gain where the original is a known word, less beside misspelt ones.",
    )
    domain_weight: float = Field(
        default=0.5,
        ge=0,
        description="Nats per Zipf point that a word's frequency in medical prose counts for.",
    )
    accept_margin: float = Field(
        default=0.0, description="Nats by which an edit must beat leaving the text alone."
    )
    ambiguity_nats: float = Field(
        default=0.3,
        ge=0,
        description="An edit that wins over another one by less is ambiguous: nothing is changed, a flag set.",
    )
    protected_ambiguity_nats: float = Field(
        default=3.0,
        ge=0,
        description="The same where one of the two is a number, a negation or a side and the other is not.",
    )
    revisit_nats: float = Field(
        default=8.0,
        ge=0,
        description="Edits this close are weighed again once a doubtful word behind them is decided; 0 never.",
    )
    judge: Literal["none", "meaning"] = Field(
        default="none",
        description="Also ask for the probability that the meaning is unchanged (for stronger models).",
    )
    min_meaning: float = Field(
        default=0.5, ge=0, le=1, description="Edits below this probability are rejected by the judge."
    )


class CritiqueConfig(_Section):
    """When another round runs."""

    mode: Literal["none", "likelihood", "model"] = Field(
        default="likelihood",
        description="No critique, perceive the refined text again, or also ask the model.",
    )
    max_rounds: int = Field(
        default=2, ge=1, le=8, description="Rounds of specialists at most; then the best text so far."
    )


class SmsConfig(_Section):
    """The multi-agent system for text."""

    graph: str = Field(
        default="graphs.sms:build", description="`module:function` that builds the graph from the config."
    )
    context_prompt: str = Field(
        default="likelihood", description="Prompt file whose text precedes every question that is scored."
    )
    offtopic_prompt: str = Field(
        default="offtopic",
        description="Prompt file of what is off the topic; a sentence likelier behind it may be irrelevant.",
    )
    max_question_chars: int = Field(
        default=4000, ge=1, description="Longer questions are left unchanged with the flag too_long."
    )
    perceive: PerceiveConfig = Field(default_factory=PerceiveConfig, description="When a word is suspicious.")
    supervisor: SupervisorConfig = Field(
        default_factory=SupervisorConfig, description="How specialists are chosen."
    )
    adjudicate: AdjudicateConfig = Field(
        default_factory=AdjudicateConfig, description="How edits are assessed."
    )
    critique: CritiqueConfig = Field(default_factory=CritiqueConfig, description="When another round runs.")


class PdcConfig(_Section):
    """The calibration of image features."""

    graph: str = Field(
        default="graphs.pdc:build", description="`module:function` that builds the graph of the image branch."
    )
    bank: str = Field(
        default="",
        description="Folder that `imc prototypes build` made; empty leaves images as they are.",
    )
    encoder: str = Field(
        default="", description="Where the bank's encoder is now, if it was moved, as `--encoder` takes it."
    )
    device: str = Field(default="cpu", description="Where the encoder runs: cpu, cuda or cuda:N.")
    operator: str = Field(
        default="auto", description="auto, identity, or an operator; `imc prototypes show` lists them."
    )
    strength: float = Field(default=1.0, ge=0, description="Factor on every correction.")
    images: str = Field(
        default="",
        description="Folder in which the images of the rows lie; empty is that of the input file.",
    )


class GuardConfig(_Section):
    """The clinical invariants that no edit may break."""

    disabled: tuple[str, ...] = Field(
        default=(), description="Invariants to switch off; `imc doctor` lists all. Not advised."
    )
    protected_terms: tuple[str, ...] = Field(default=(), description="Further words that are never changed.")


class LexiconConfig(_Section):
    """The vocabulary behind the lexicon channels."""

    min_zipf: float = Field(
        default=1.5, description="General English words rarer than this are not in the vocabulary."
    )
    extra_lists: tuple[str, ...] = Field(
        default=(),
        description="Further word lists: paths of text files, one word a line, or hunspell .dic files.",
    )


class RunConfig(_Section):
    """How a batch runs."""

    directory: str = Field(default="runs", description="Folder that holds the run folders.")
    concurrency: int = Field(default=128, ge=1, le=4096, description="Questions in flight.")
    timeout_seconds: float = Field(
        default=300.0, gt=0, description="Longest time for one question; then status timeout."
    )
    infra_retries: int = Field(
        default=3, ge=0, description="Attempts after an infrastructure error, with back-off."
    )
    error_threshold: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of failed rows above which the run ends with exit code 3.",
    )
    answer: bool = Field(
        default=False,
        description="Also answer each question, from the refined text and its image if it has one.",
    )
    keep_prompts: bool = Field(default=True, description="Keep prompts and replies in the trace.")


class Config(_Section):
    """The whole configuration."""

    seed: int = Field(
        default=0, ge=0, description="Base seed; each sample derives its own from it and its id."
    )
    graph: str = Field(
        default="graphs.imc:build",
        description="`module:function` that joins the graphs of text and images into the whole one.",
    )
    backends: dict[str, BackendConfig] = Field(
        default_factory=lambda: {"default": BackendConfig()},
        description="Models by name; roles refer to them. `default` must be there.",
    )
    roles: dict[str, RoleConfig] = Field(
        default_factory=dict, description="The roles by name. Adding a specialist is adding an entry here."
    )
    sms: SmsConfig = Field(default_factory=SmsConfig, description="The multi-agent system for text.")
    pdc: PdcConfig = Field(default_factory=PdcConfig, description="The calibration of image features.")
    guard: GuardConfig = Field(default_factory=GuardConfig, description="Clinical invariants.")
    lexicon: LexiconConfig = Field(default_factory=LexiconConfig, description="Vocabulary.")
    run: RunConfig = Field(default_factory=RunConfig, description="How a batch runs.")

    @property
    def taking_part(self) -> dict[str, RoleConfig]:
        """The roles that are played: the enabled ones, and the answerer only where questions are answered."""
        return {
            name: role
            for name, role in self.roles.items()
            if role.enabled and (role.kind != "answerer" or self.run.answer)
        }
