"""What every text noise shares: candidates with a draw each, thresholds that nest, and protected spans.

A noise proposes candidate slips; each carries a draw in [0, 1) that depends on dataset, sample id, noise name and
seed, never on the severity. The severity's rate is a threshold on these draws, and candidates are taken in the order
of their draws, so the slips of a lower severity are always a subset of those of a higher one. The candidate with the
smallest draw is taken at every severity: a noisy text differs from the clean one whenever anything is eligible.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from imc_agents.text.edits import Edit, apply_edits
from imc_agents.text.invariants import protected_spans

__all__ = ["Candidate", "Draws", "Noised", "Slip", "Source", "Word", "is_acronym", "select", "words"]

T = TypeVar("T")

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


@dataclass(frozen=True, slots=True)
class Slip:
    """One slip: characters ``start:end`` of the clean text became ``after``.

    Attributes:
        start: Offset of the first replaced character in the clean text.
        end: Offset behind the last replaced character.
        before: The clean characters.
        after: What stands there now.
        operation: How it happened, e.g. ``substitute`` or ``homophone``.
        draw: The draw in [0, 1); the slip is there at every severity whose rate exceeds it.
    """

    start: int
    end: int
    before: str
    after: str
    operation: str
    draw: float


@dataclass(frozen=True, slots=True)
class Noised:
    """A noisy text and the slips that made it, in the order of the text."""

    text: str
    slips: tuple[Slip, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A slip that may happen. ``group`` is the word it hits, where slips per word are limited; -1 otherwise."""

    start: int
    end: int
    after: str
    operation: str
    draw: float
    group: int = -1


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the text: offsets, characters, and whether it may be touched."""

    start: int
    end: int
    text: str
    free: bool


class Draws:
    """A stream of uniform draws in [0, 1), the same on every machine and in every order of samples.

    SHA-256 of the key seeds a numpy ``PCG64`` generator; only ``random()`` is used, whose stream numpy keeps stable.
    """

    def __init__(self, dataset: str, sample_id: str, noise: str, seed: int) -> None:
        from numpy.random import PCG64, Generator

        # Lengths keep ("a", "bc") and ("ab", "c") apart.
        key = "\x1f".join(f"{len(part)}:{part}" for part in (dataset, sample_id, noise, str(seed)))
        self._generator = Generator(
            PCG64(int.from_bytes(sha256(key.encode("utf-8", "surrogatepass")).digest()))
        )

    def uniform(self) -> float:
        """Return the next draw in [0, 1)."""
        return float(self._generator.random())

    def choose(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """Return one of the options with one draw, equally likely or by weights that need not sum to 1."""
        draw = self.uniform()
        if weights is None:
            return options[int(draw * len(options))]
        sums: list[float] = []
        for weight in weights:
            sums.append(weight + (sums[-1] if sums else 0.0))
        return options[min(bisect_right(sums, draw * sums[-1]), len(options) - 1)]


Source = Callable[[str, Sequence[Word], Draws], Iterable[Candidate]]
"""Proposes the candidates for a text, given its words; draws in the order of the text."""


def is_acronym(word: str) -> bool:
    """Whether a word has two capitals or more (``MRI``, ``CXRs``, ``II``): such words are never altered."""
    return sum(character.isupper() for character in word) >= 2


def words(text: str) -> list[Word]:
    """Return the words of a text; protected spans, acronyms and words with digits are not free to alter."""
    protected = protected_spans(text)
    found: list[Word] = []
    for match in _WORD.finditer(text):
        start, end = match.span()
        word = match.group()
        free = not (
            is_acronym(word)
            or any(character.isdigit() or character == "_" for character in word)
            or any(start < span.end and span.start < end for span in protected)
        )
        found.append(Word(start, end, word, free))
    return found


def select(
    text: str,
    candidates: Iterable[Candidate],
    rate: float,
    *,
    max_per_word: int | None = None,
    repeat_weight: float = 1.0,
) -> Noised:
    """Apply the candidates whose draws lie below the rate, and the one with the smallest draw in any case.

    A candidate is passed over at every severity alike when it overlaps one with a smaller draw, changes nothing, or
    would make, break or move a protected span (``bone`` never becomes ``none``).

    Args:
        text: The clean text.
        candidates: The candidate slips.
        rate: Threshold of the severity in [0, 1].
        max_per_word: Most slips in one word (``Candidate.group``); None for any number.
        repeat_weight: How likely a second slip in a word is relative to the first, in (0, 1].
    """
    ranked = sorted(
        _weigh_repeats(candidates, max_per_word, repeat_weight), key=lambda c: (c.draw, c.start, c.end)
    )
    kept: list[Edit] = []
    slips: list[Slip] = []
    noisy = text
    meaning = _meaning(text)
    for candidate in ranked:
        if slips and candidate.draw >= rate:
            break
        edit = Edit(candidate.start, candidate.end, candidate.after)
        before = edit.before(text)
        if before == candidate.after or any(_clash(edit, other) for other in kept):
            continue
        attempt = apply_edits(text, [*kept, edit])
        if attempt == text or _meaning(attempt) != meaning:
            continue
        kept.append(edit)
        slips.append(
            Slip(candidate.start, candidate.end, before, candidate.after, candidate.operation, candidate.draw)
        )
        noisy = attempt
    return Noised(noisy, tuple(sorted(slips, key=lambda slip: (slip.start, slip.end))))


def _weigh_repeats(
    candidates: Iterable[Candidate], max_per_word: int | None, repeat_weight: float
) -> Iterable[Candidate]:
    """Drop what exceeds the limit per word and raise the draws of second and later slips."""
    if max_per_word is None:
        yield from candidates
        return
    seen: dict[int, int] = {}
    for candidate in sorted(candidates, key=lambda c: (c.draw, c.start)):
        earlier = seen.get(candidate.group, 0)
        if earlier >= max_per_word:
            continue
        seen[candidate.group] = earlier + 1
        draw = candidate.draw / repeat_weight**earlier
        if draw < 1:
            yield Candidate(
                candidate.start, candidate.end, candidate.after, candidate.operation, draw, candidate.group
            )


def _clash(edit: Edit, other: Edit) -> bool:
    """Whether two edits exclude each other; whole insertions may follow each other at one place."""
    return not (edit.start == edit.end and other.start == other.end) and edit.overlaps(other)


def _meaning(text: str) -> list[str]:
    """The protected spans that a slip could make out of other words: ``bone`` -> ``none``, ``is`` -> ``15``.

    Acronyms and codes are left out: capitals and digits inside words are what casing and OCR noise is made of.
    """
    return [
        text[span.start : span.end].casefold()
        for span in protected_spans(text)
        if span.invariant != "acronym" and not _is_code(text[span.start : span.end])
    ]


def _is_code(part: str) -> bool:
    return any(character.isdigit() for character in part) and any(character.isalpha() for character in part)
