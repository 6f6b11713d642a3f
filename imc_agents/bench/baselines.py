"""The baselines of the text benchmark that need no model: nothing, and two spelling correctors."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from imc_agents.errors import UsageError

__all__ = ["correct_with_pyspellchecker", "correct_with_symspell"]

# Stretches of words parted by single blanks; punctuation, possessive endings and odd white space stay outside.
_STRETCH = re.compile(r"(?<!['\u2019])[^\W_]+(?: [^\W_]+)*")
_WORD = re.compile(r"[^\W_]+")


@cache
def _symspell() -> Any:
    from symspellpy import SymSpell

    corrector = SymSpell(max_dictionary_edit_distance=2, prefix_length=7)
    data = files("symspellpy")
    corrector.load_dictionary(str(data / "frequency_dictionary_en_82_765.txt"), term_index=0, count_index=1)
    corrector.load_bigram_dictionary(
        str(data / "frequency_bigramdictionary_en_243_342.txt"), term_index=0, count_index=2
    )
    return corrector


def correct_with_symspell(text: str) -> str:
    """Correct with symspellpy's ``lookup_compound`` and its own dictionaries.

    It would drop punctuation and case, so it is given the stretches of words between punctuation marks and told to
    transfer the case and to leave numbers and acronyms alone.
    """
    corrector = _symspell()

    def correct(match: re.Match[str]) -> str:
        if len(match.group()) == 1:
            return match.group()  # the x of x-ray
        best = corrector.lookup_compound(match.group(), 2, ignore_non_words=True, transfer_casing=True)
        return best[0].term if best and best[0].term else match.group()

    return _STRETCH.sub(correct, text)


@cache
def _spellchecker() -> Any:
    try:
        from spellchecker import SpellChecker
    except ImportError:
        raise UsageError(
            "method pyspellchecker needs the extra 'bench': pip install 'imc-agents[bench]'"
        ) from None
    return SpellChecker()


@cache
def _words_by_length() -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for word in sorted(_spellchecker()):
        found.setdefault(len(word), []).append(word)
    return found


@cache
def _correct_word(word: str) -> str:
    """Return what pyspellchecker corrects a word to.

    Its own search tries every string two edits away, up to a second a word. Where it comes to that, the same words
    are found by comparing with all that it knows: two of its edits are a Damerau-Levenshtein distance of two.
    """
    from rapidfuzz.distance import DamerauLevenshtein
    from rapidfuzz.process import extract

    checker = _spellchecker()
    edits = checker.edit_distance_1(word)
    if checker.known([word]) or checker.known(edits) or edits == {word}:  # the last: it leaves numbers alone
        return checker.correction(word) or word
    near: list[str] = []
    for length in range(len(word) - 2, len(word) + 3):
        choices = _words_by_length().get(length, [])
        found = extract(word, choices, scorer=DamerauLevenshtein.distance, score_cutoff=2, limit=None)
        near += [choice for choice, _, _ in found]
    return max(near, key=checker.__getitem__, default=word)


def correct_with_pyspellchecker(text: str) -> str:
    """Correct word by word with pyspellchecker, keeping capitals, punctuation, numbers and acronyms."""

    def correct(match: re.Match[str]) -> str:
        word = match.group()
        if word == word.upper() or sum(character.isupper() for character in word) >= 2:
            return word
        better = _correct_word(word.lower())
        if better == word.lower():
            return word
        return better[:1].upper() + better[1:] if word[0].isupper() else better

    return _WORD.sub(correct, text)
