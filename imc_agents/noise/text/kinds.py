"""The text noises by name, and the one function that applies any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.resources import files
from typing import Any

from imc_agents.errors import UsageError
from imc_agents.noise.registry import NoiseSpec, check_severity, get_noise
from imc_agents.noise.text import asr, layout, ocr, typo, wording
from imc_agents.noise.text.core import Candidate, Draws, Noised, select, words

__all__ = ["TEXT_NOISES", "apply_text_noise"]

REPEAT_WEIGHT = 0.5
"""How likely a second typo or misreading in one word is relative to the first."""

MAX_SLIPS_PER_WORD = 2

_EXTRA = ("spacing", "casing", "irrelevant")


@cache
def _severities() -> dict[str, dict[str, Any]]:
    import yaml

    return yaml.safe_load((files("imc_agents.noise.text") / "severity.yaml").read_text(encoding="utf-8"))


def apply_text_noise(
    text: str,
    kind: str,
    severity: int,
    *,
    seed: int = 0,
    sample_id: str = "",
    dataset: str = "",
    **options: Any,
) -> Noised:
    """Return the text with one kind of noise, and the slips that made it.

    The outcome depends on the arguments alone. The slips of a lower severity are among those of a higher one. At
    least one slip happens wherever one is found that leaves the meaning alone. Negations, sides, numbers with their
    units, answer options and acronyms are never altered.

    Args:
        text: The clean text.
        kind: Name of a text noise; ``imc noise list`` shows them.
        severity: 1 (mild) to 5 (harsh).
        seed: Base seed.
        sample_id: Identifies the sample within its data set; samples draw independently.
        dataset: Name of the data set.
        options: Options of that noise; ``typo`` takes ``min_letters`` (default 4).

    Raises:
        UsageError: for an unknown kind, a severity outside 1..5 or a negative seed.
    """
    return get_noise(kind, "text").apply(
        text, severity, seed=seed, sample_id=sample_id, dataset=dataset, **options
    )


def _noisy(
    text: str,
    severity: int,
    *,
    seed: int,
    sample_id: str,
    dataset: str,
    name: str,
    source: Callable[..., Iterable[Candidate]],
    max_per_word: int | None,
    **options: Any,
) -> Noised:
    check_severity(severity)
    if seed < 0:
        raise UsageError(f"seed {seed} is negative; give 0 or more")
    rate = _severities()[name]["rates"][severity - 1]
    candidates = source(text, words(text), Draws(dataset, sample_id, name, seed), **options)
    return select(text, candidates, rate, max_per_word=max_per_word, repeat_weight=REPEAT_WEIGHT)


def _spec(
    name: str, source: Callable[..., Iterable[Candidate]], description: str, max_per_word: int | None = None
) -> NoiseSpec:
    table = _severities()[name]
    apply = partial(_noisy, name=name, source=source, max_per_word=max_per_word)
    suite = "extra" if name in _EXTRA else "imc-11"
    return NoiseSpec(name, "text", description, table["per"], tuple(table["rates"]), apply, suite=suite)


TEXT_NOISES: tuple[NoiseSpec, ...] = (
    _spec("typo", typo.propose_typos, "keyboard slips in words of 4+ letters", MAX_SLIPS_PER_WORD),
    _spec("ocr", ocr.propose_ocr, "characters read as others of a similar shape", MAX_SLIPS_PER_WORD),
    _spec("asr", asr.propose_asr, "words heard as homophones and near sound-alikes"),
    _spec("drop_shuffle", wording.propose_drop_shuffle, "function words dropped, neighbouring words swapped"),
    _spec("shorthand", wording.propose_shorthand, "clinical phrases abbreviated"),
    _spec("spacing", layout.propose_spacing, "blanks lost between words or gained inside them"),
    _spec("casing", layout.propose_casing, "words in all small letters, all capitals or capitals at random"),
    _spec("irrelevant", wording.propose_irrelevant, "sentences that have nothing to do with the question"),
)
