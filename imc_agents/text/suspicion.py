"""Where a text looks noisy, and by which kind of noise: lexicon evidence weighed with the model's surprisal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from imc_agents.models.protocol import TokenScore
from imc_agents.text.channels import CHANNELS, is_odd_case, sentences, word_spans
from imc_agents.text.invariants import is_clinical, protected_spans
from imc_agents.text.lexicon import Lexicon
from imc_agents.text.tables import clinical_people, shorthand, sound_alikes

__all__ = ["Suspicion", "Thresholds", "find_suspicions", "span_surprisal"]

_CODE = re.compile(
    r"(?!I\d)[A-Z]{1,4}\d{1,3}[a-z]?|[tcls]\d{1,2}|\d+(?:st|nd|rd|th|[dD]|mg|g|kg|mcg|ug|ml|l|mm|cm|m|h|hr|hrs|min|sec|y|yo|yr|yrs|x)"
)
"""Vertebral levels, sequences and the like (T2, L4, FEV1), and numbers with an ordinal ending or a unit."""


_ALIKE_ZIPF = 0.5  # a sound-alike this much rarer in medical prose is not looked at
_CASED_ZIPF = (0.0, 5.0)  # a word of two letters (pH, mA, kV) must be as common as "in" or "is"
_SENTENCE_WORDS = 3  # fewer are the likes of "- open" or "yes/no"
_PAIR_NATS = 6.0  # two known words that would make one are looked at from this surprisal each


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A span that may be a slip.

    Attributes:
        start: Offset of the first character.
        end: Offset behind the last character.
        kinds: Noise kinds that may explain it, most plausible first.
        reason: In words a person understands.
        known: Whether the span is a known word (then an edit must be worth more).
        surprisal: Negative log-probability of the span in nats.
    """

    start: int
    end: int
    kinds: tuple[str, ...]
    reason: str
    known: bool
    surprisal: float

    @property
    def misspelt(self) -> bool:
        """Whether the span is no word, so that the text is noisy for certain."""
        return not self.known


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a word is looked at; see ``PerceiveConfig``. ``slip_costs`` maps the noise kinds that have a specialist."""

    web_word_nats: float
    known_word_nats: float
    alike_nats: float
    noisy_discount_nats: float
    slip_costs: Mapping[str, float]


def span_surprisal(tokens: Sequence[TokenScore], start: int, end: int, offset: int = 0) -> float:
    """Negative log-probability of the tokens that overlap ``start:end``; the tokens' text begins ``offset`` early."""
    return -sum(t.logprob for t in tokens if t.start < end + offset and t.end > start + offset)


def find_suspicions(
    text: str,
    surprisal: Callable[[int, int], float],
    lexicon: Lexicon,
    thresholds: Thresholds,
    protected: Callable[[int, int], bool],
) -> list[Suspicion]:
    """Return the suspicious spans in the order of the text; they do not overlap.

    Args:
        text: The working text.
        surprisal: Negative log-probability of a span.
        lexicon: The vocabulary.
        thresholds: When a known word is looked at.
        protected: Whether a span must be left alone (acronyms, answer options, the user's terms).
    """
    words = [span for span in word_spans(text) if not protected(*span)]
    found: list[Suspicion] = []
    if "irrelevant" in thresholds.slip_costs:
        _add(found, (s for s in _irrelevant_sentences(text, lexicon) if not protected(s.start, s.end)))
    if "casing" in thresholds.slip_costs:
        _add(found, (_oddly_cased(text, *span, surprisal(*span), lexicon) for span in words))
    if "shorthand" in thresholds.slip_costs:
        _add(found, (s for s in _shorthand_hits(text) if not protected(s.start, s.end)))
    if "spacing" in thresholds.slip_costs:
        _add(found, _joins(text, words, surprisal, lexicon))
    _add(found, (_misspelt(text, *span, surprisal(*span), lexicon, thresholds) for span in words))
    noisy = any(suspicion.misspelt for suspicion in found)
    least = thresholds.known_word_nats - (thresholds.noisy_discount_nats if noisy else 0.0)
    _add(found, (_misplaced(text, *span, surprisal(*span), lexicon, thresholds, least) for span in words))
    return sorted(found, key=lambda s: s.start)


def _add(found: list[Suspicion], more: Iterable[Suspicion | None]) -> None:
    for suspicion in more:
        if suspicion is not None and not any(
            suspicion.start < s.end and s.start < suspicion.end for s in found
        ):
            found.append(suspicion)


def _oddly_cased(text: str, start: int, end: int, nats: float, lexicon: Lexicon) -> Suspicion | None:
    """A known word with capitals where nobody puts them. Short ones such as pH or mA may be meant so."""
    word = text[start:end]
    if (
        not is_odd_case(word)
        or not lexicon.is_known(word)
        or lexicon.frequency(word) < _CASED_ZIPF[len(word) <= 2]
    ):
        return None
    return Suspicion(start, end, ("casing",), "capitals inside a word", True, nats)


def _misspelt(
    text: str, start: int, end: int, nats: float, lexicon: Lexicon, thresholds: Thresholds
) -> Suspicion | None:
    """A token that is no word."""
    word = text[start:end]
    if not word.isascii():
        return None
    if any(c.isdigit() for c in word):
        if _CODE.fullmatch(word) or not any(c.isalpha() for c in word):
            return None
        return Suspicion(
            start, end, _kinds(text, start, end, lexicon, thresholds), "a digit inside a word", False, nats
        )
    if lexicon.is_known(word) or len(word) < 2 or (len(word) <= 5 and word.isupper()):
        return None
    kinds = _kinds(text, start, end, lexicon, thresholds)
    if not lexicon.is_seen(word):
        return Suspicion(start, end, kinds, "not in the vocabulary", False, nats)
    if nats < thresholds.web_word_nats or (word[:1].isupper() and text[:start].strip()):
        return None
    return Suspicion(start, end, kinds, "seen on the web, in no dictionary", False, nats)


def _kinds(text: str, start: int, end: int, lexicon: Lexicon, thresholds: Thresholds) -> tuple[str, ...]:
    """The kinds of slip that can explain a token that is no word."""
    able = {"typo": True, "ocr": bool(lexicon.same_shape(text[start:end])), "spacing": False}
    if "spacing" in thresholds.slip_costs:
        able["spacing"] = bool(CHANNELS["spacing"](text, start, end, lexicon))
    return tuple(kind for kind, can in able.items() if can and kind in thresholds.slip_costs)


def _misplaced(
    text: str, start: int, end: int, nats: float, lexicon: Lexicon, thresholds: Thresholds, least: float
) -> Suspicion | None:
    """A known word that a commoner one may have become.

    The gain to expect is the word's surprisal minus that of the other word by its frequency alone; what the other
    word is worth in this place only the model can tell.
    """
    word = text[start:end].lower()
    costs = thresholds.slip_costs
    if text[start:end].isupper() or len(word) < 2 or not word.isascii() or not costs:
        return None
    gains: dict[str, float] = {}
    if "ocr" in costs and nats - costs["ocr"] >= least:
        gains["ocr"] = _gain(lexicon.best_same_shape(word), nats)
    if "typo" in costs and len(word) > 2 and nats - costs["typo"] >= least:
        gains["typo"] = _gain(lexicon.best_near(word), nats)
    kinds = sorted(
        (kind for kind in gains if gains[kind] - costs[kind] >= least),
        key=lambda kind: costs[kind] - gains[kind],
    )
    if "asr" in costs and nats >= min(
        thresholds.alike_nats, thresholds.alike_nats - thresholds.known_word_nats + least
    ):
        kinds += _likelier_alike(word, lexicon)
    if not kinds:
        return None
    return Suspicion(start, end, tuple(kinds), "a known word, surprising in this place", True, nats)


def _likelier_alike(word: str, lexicon: Lexicon) -> list[str]:
    """``["asr"]`` where a sound-alike is about as common in medical prose as the word, or more."""
    own = lexicon.domain_frequency(word)
    for other in sound_alikes().get(word, ()):
        if min(lexicon.domain_frequency(part) for part in other.split()) >= own - _ALIKE_ZIPF:
            return ["asr"]
    return []


def _gain(frequency: float, nats: float) -> float:
    return nats - math.log(10) * (9.0 - frequency)


def _joins(
    text: str,
    words: Sequence[tuple[int, int]],
    surprisal: Callable[[int, int], float],
    lexicon: Lexicon,
) -> list[Suspicion]:
    """Neighbouring pieces that make one word; of two that share a piece, the one that makes the commoner word."""
    found: list[tuple[float, Suspicion]] = []
    for (start, middle), (after, end) in pairwise(words):
        left, right = text[start:middle], text[after:end]
        joined = left + right
        worth = max(lexicon.frequency(joined), lexicon.domain_frequency(joined))
        if not text[middle:after].isspace() or not joined.isalpha() or not lexicon.is_known(joined):
            continue
        known = all(lexicon.is_known(part) and (len(part) > 1 or part in "aAI") for part in (left, right))
        nats = surprisal(start, end)
        if worth < (3.0 if known else 1.0) or (known and nats < 2 * _PAIR_NATS):
            continue
        found.append(
            (worth, Suspicion(start, end, ("spacing",), "two pieces that make one word", known, nats))
        )
    kept: list[Suspicion] = []
    for _, suspicion in sorted(found, key=lambda pair: (-pair[0], pair[1].start)):
        if not any(suspicion.start < other.end and other.start < suspicion.end for other in kept):
            kept.append(suspicion)
    return kept


def _shorthand_hits(text: str) -> Iterator[Suspicion]:
    shorts = {entry.short: entry for entry in shorthand() if entry.is_expandable}
    for match in re.finditer(r"(?<![\w/-])[A-Za-z][\w./-]*[\w/]|(?<![\w/-])[A-Za-z](?![\w/-])", text):
        word = match.group()
        entry = shorts.get(word) or (shorts.get(word[:1].lower() + word[1:]) if word[1:].islower() else None)
        if entry is not None:
            yield Suspicion(*match.span(), ("shorthand",), f"may stand for {entry.long}", True, 0.0)


def _irrelevant_sentences(text: str, lexicon: Lexicon) -> Iterator[Suspicion]:
    spans = sentences(text)
    if len(spans) < 2:
        return
    if not any("?" in text[start:end] for start, end in spans):
        return
    kept = [(span.start, span.end) for span in protected_spans(text)]
    for start, end in spans:
        words = [text[a:b] for a, b in _inside(text, (start, end))]
        if any(word.lower() in clinical_people() for word in words):
            continue
        if "?" in text[start:end] or len(words) < _SENTENCE_WORDS:
            continue
        if any(begin < end and start < stop for begin, stop in kept):
            continue
        if not any(is_clinical(word.lower()) or lexicon.is_medical(word) for word in words):
            reason = "a sentence that asks nothing and names nothing clinical"
            yield Suspicion(start, end, ("irrelevant",), reason, True, 0.0)


def _inside(text: str, span: tuple[int, int]) -> list[tuple[int, int]]:
    return [(a + span[0], b + span[0]) for a, b in word_spans(text[span[0] : span[1]])]
