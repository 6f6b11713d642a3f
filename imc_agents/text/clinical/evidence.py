"""How clearly a misspelt word stands for one term and not for another.

Distances are optimal string alignment (insertions, deletions, substitutions, swaps of neighbours), after
digits that OCR put for letters are read as letters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache

from imc_agents.text.clinical import load
from imc_agents.text.clinical.tokens import unmask
from imc_agents.text.clinical.vocabulary import affixed_forms, is_direction, look_alikes, opposites

__all__ = ["Known", "distance", "is_real", "nearby_cue", "negation_rival", "rival", "swapped", "words_in"]

Known = Callable[[str], bool]
"""Whether a lower-case word is in the vocabulary."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LONGEST_SLIP = 3
_CLEAR = 2  # slips by which the right reading must be nearer, unless the two readings differ by fewer
_MIN_CUE = 4  # shorter cues are near to too many everyday words
_SHORT_WORD = 3


@lru_cache(maxsize=8192)
def distance(first: str, second: str) -> int:
    """Optimal string alignment distance of two words."""
    from rapidfuzz.distance import OSA

    return OSA.distance(first, second)


def swapped(slip: str, word: str) -> bool:
    """Whether a word was typed with two neighbouring letters swapped."""
    return len(slip) == len(word) and sorted(slip) == sorted(word) and distance(slip, word) == 1


def _read(slip: str, word: str) -> int:
    return min(distance(slip, word), distance(unmask(slip), word))


def _is_misread(slip: str, term: str) -> bool:
    """Whether OCR alone explains the slip (``rn`` for ``m``, ``ii`` for ``u``, ``1`` for ``l``)."""
    from imc_agents.text.shapes import ocr_skeleton

    return ocr_skeleton(slip) == ocr_skeleton(term)


def _shared(slip: str, word: str) -> int:
    """Letters of the word that the slip holds in order."""
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(unmask(slip), word)


def rival(slip: str, term: str, known: Known) -> str | None:
    """Another term that ``slip`` may stand for as well as for ``term``, or None where the evidence is clear.

    An opposite or look-alike of ``term`` must be at least two slips farther away, or as far as the two are
    from each other where that is less: the slip then lies outside of what tells them apart. One slip farther
    will do where the slip keeps a letter that only ``term`` has. Returns ``slip`` where ``term`` is too far.
    """
    near = _read(slip, term)
    misread = near > 1 and _is_misread(slip, term)
    if not misread and near > min(max(_LONGEST_SLIP, len(term) // 4), len(term) // 2):
        return slip
    generated = affixed_forms(term)
    for other in sorted(opposites(term) | look_alikes(term)):
        if other == slip or abs(len(other) - len(slip)) > near + 1:
            continue
        far = _read(slip, other)
        if far - near >= (1 if other in generated else min(_CLEAR, distance(term, other))):
            continue
        if misread and far >= _CLEAR and not _is_misread(slip, other):
            continue
        if near == 1 and far > near and _shared(slip, term) > _shared(slip, other):
            continue
        if known(other):
            return other
    if is_direction(term) and not misread:
        for other in _directions():
            if other != term and abs(len(other) - len(slip)) <= near and _read(slip, other) <= near:
                return other
    return None


@cache
def _directions() -> tuple[str, ...]:
    return tuple(sorted(word for word in load("laterality")["words"] if word.isalpha()))


def _neighbours(word: str) -> Iterator[str]:
    """Words one slip away from a word."""
    for at in range(len(word) + 1):
        head, tail = word[:at], word[at:]
        if tail:
            yield head + tail[1:]
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
        for letter in _LETTERS:
            yield head + letter + tail
            if tail:
                yield head + letter + tail[1:]


def negation_rival(slip: str, cue: str, known: Known) -> str | None:
    """A known word that ``slip`` may stand for instead of ``cue``, or None where it is certain."""
    slip = unmask(slip)
    if slip == cue:
        return None
    if swapped(slip, cue):
        words = (other for other in _neighbours(slip) if swapped(slip, other))
    elif distance(slip, cue) <= min(_CLEAR, len(cue) // 3):
        words = _neighbours(slip)
    else:
        return slip
    return next((other for other in words if other not in (slip, cue) and is_real(other, known)), None)


@cache
def _cues() -> dict[str, tuple[str, ...]]:
    """Cues by each of their forms with one letter left out."""
    words = [*load("negation")["words"], *_directions()]
    found: dict[str, list[str]] = {}
    for word in words:
        if len(word) >= _MIN_CUE:
            for form in {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}:
                found.setdefault(form, []).append(word)
    return {form: tuple(cues) for form, cues in found.items()}


def nearby_cue(slip: str, word: str) -> str | None:
    """A negation or direction that ``slip`` is nearer to than to the ``word`` put in its place, or None."""
    slip = unmask(slip)
    if len(slip) < _MIN_CUE - 1 or slip == word:
        return None
    far = distance(slip, word)
    index = _cues()
    for form in (slip, *(slip[:at] + slip[at + 1 :] for at in range(len(slip)))):
        for cue in index.get(form, ()):
            near = distance(slip, cue)
            if cue != word and (near < far or (swapped(slip, cue) and not swapped(slip, word))):
                return cue
    return None


@cache
def _short_words() -> frozenset[str]:
    return frozenset(load("numbers")["short_words"])


def is_real(word: str, known: Known) -> bool:
    """Whether a string is a word by itself: known, and no fragment such as ``ft`` or ``ence``."""
    return word in _short_words() if len(word) <= _SHORT_WORD else known(word)


def words_in(letters: str, most: int, known: Known) -> Iterator[tuple[str, ...]]:
    """Each way to part letters into at most so many words."""
    if is_real(letters, known):
        yield (letters,)
    if most > 1:
        for at in range(1, len(letters)):
            if is_real(letters[:at], known):
                for tail in words_in(letters[at:], most - 1, known):
                    yield (letters[:at], *tail)
