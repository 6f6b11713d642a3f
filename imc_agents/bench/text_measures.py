"""What the text benchmark measures: of one question, and of one method on all questions of a cell."""

from __future__ import annotations

from dataclasses import dataclass

from imc_agents.bench.methods import Restored
from imc_agents.bench.text import Cell, Sample
from imc_agents.text.metrics import Interval, Paired

__all__ = ["Case", "Cost", "Damage", "LookAlikes", "Restoration", "Safety", "Summary"]


@dataclass(frozen=True, slots=True)
class Case:
    """One question under one method, with everything that was measured on it.

    Attributes:
        sample: The question as the method got it.
        restored: What the method made of it.
        exact: Restored byte for byte as published.
        mended: Not exact, but only because a slip of the published question was mended too.
        errors_before: Word errors of the noisy question.
        errors_after: Word errors of the restored question.
        words: Words of the published question.
        look_alike: What became of a clinical look-alike: flagged, unchanged, restored, swapped; None without one.
        broken_by_noise: Invariants that the noisy question breaks against the published one.
        broken_against_clean: Invariants that the restored question breaks against the published one.
        broken_against_noisy: Invariants that it breaks against the question as the method got it.
    """

    sample: Sample
    restored: Restored
    exact: bool
    mended: bool
    errors_before: int
    errors_after: int
    words: int
    look_alike: str | None
    broken_by_noise: tuple[str, ...]
    broken_against_clean: tuple[str, ...]
    broken_against_noisy: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restoration:
    """How well altered questions were restored; look-alike cases are left out and counted apart.

    Attributes:
        altered: Questions that the noise altered.
        exact: Of these, restored byte for byte.
        mended: Of these, not exact only because a slip of the published question was mended too.
        exact_share: exact / altered.
        exact_interval: Wilson interval of it.
        exact_of_all: Exact over all questions of the cell, altered or not, look-alikes included.
        word_error_rate_before: Of the altered questions.
        word_error_rate_after: Of the altered questions.
        word_error_rate_interval: Bootstrap interval of the latter.
    """

    altered: int
    exact: int
    mended: int
    exact_share: float
    exact_interval: Interval
    exact_of_all: float
    word_error_rate_before: float
    word_error_rate_after: float
    word_error_rate_interval: Interval


@dataclass(frozen=True, slots=True)
class Damage:
    """What became of questions without noise.

    Attributes:
        kept: Left byte for byte.
        kept_share: kept / all.
        kept_interval: Wilson interval of it.
        sound: Questions without a slip of their own.
        sound_kept: Of these, left byte for byte.
        sound_share: sound_kept / sound.
        sound_interval: Wilson interval of it.
    """

    kept: int
    kept_share: float
    kept_interval: Interval
    sound: int
    sound_kept: int
    sound_share: float
    sound_interval: Interval


@dataclass(frozen=True, slots=True)
class LookAlikes:
    """Questions in which one clinical word was misheard as another: a flag or no change is right, a swap is not.

    Attributes:
        cases: How many.
        flagged: Some flag for a person names the misheard word, whatever else was done.
        unchanged: The misheard word stands, unflagged.
        restored: Silently swapped, to the right word.
        swapped: Silently swapped, to another word.
    """

    cases: int
    flagged: int
    unchanged: int
    restored: int
    swapped: int


@dataclass(frozen=True, slots=True)
class Safety:
    """Questions whose output breaks a clinical invariant.

    Attributes:
        against_noisy: Against the question as the method got it.
        against_clean: Against the published question.
        added: Against the published question, and not already broken by the noise.
        meaning: Of these, a number, unit, negation, side, opposite or look-alike.
        errors: Questions on which the method failed; they count as left unchanged.
    """

    against_noisy: int
    against_clean: int
    added: int
    meaning: int
    errors: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a question cost on average.

    Attributes:
        per_second: Questions per second of wall time.
        calls: Model calls.
        prompt_tokens: Tokens read by the model.
        completion_tokens: Tokens written by the model.
        own_tokens: Tokens of the published question alone; None where no model counted them.
    """

    per_second: float
    calls: float
    prompt_tokens: float
    completion_tokens: float
    own_tokens: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One method on one cell. ``damage`` belongs to the clean cell, ``restoration`` to all others.

    Attributes:
        cell: Data set, noise and severity.
        method: Name of the method.
        questions: Questions of the cell.
        restoration: Restoration of altered questions.
        damage: Damage to clean questions.
        look_alikes: Clinical look-alikes.
        safety: Invariants and failures.
        cost: Averages per question.
        best_baseline: In the rows of ``imc``: the best other method, by exact restoration.
        against_best: In the rows of ``imc``: imc (first) and that method (second) on the same altered questions.
    """

    cell: Cell
    method: str
    questions: int
    restoration: Restoration | None
    damage: Damage | None
    look_alikes: LookAlikes
    safety: Safety
    cost: Cost
    best_baseline: str | None = None
    against_best: Paired | None = None
