"""Which clinical abbreviation may be written out as what, and when the context decides it."""

from __future__ import annotations

from functools import cache, lru_cache

from imc_agents.text.clinical import load
from imc_agents.text.clinical.tokens import Token, read_tokens
from imc_agents.text.tables import shorthand

__all__ = ["ambiguous", "expands", "is_short"]


@lru_cache(maxsize=1024)
def _norms(phrase: str) -> tuple[str, ...]:
    return tuple(token.norm for token in read_tokens(phrase))


@cache
def _plain() -> dict[tuple[str, ...], frozenset[tuple[str, ...]]]:
    """Readings of the abbreviations that have one meaning: the guard's own and the shorthand specialist's."""
    readings: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for short, longs in load("shorthand")["plain"].items():
        readings.setdefault(_norms(short), set()).update(_norms(long) for long in longs)
    for entry in shorthand():
        key = _norms(entry.short)
        if not entry.ambiguous and not (len(key) == 1 and key[0] in _ambiguous()):
            readings.setdefault(key, set()).add(_norms(entry.long))
    return {short: frozenset(longs) for short, longs in readings.items()}


@cache
def _ambiguous() -> dict[str, dict[tuple[str, ...], frozenset[str]]]:
    return {
        short: {_norms(long): frozenset(context) for long, context in readings.items()}
        for short, readings in load("shorthand")["ambiguous"].items()
    }


@cache
def _sides() -> tuple[dict[str, str], frozenset[str]]:
    data = load("shorthand")
    return data["side"], frozenset(data["side_nouns"].split())


def _small_letters(short: str, reading: tuple[str, ...]) -> frozenset[str]:
    """Context that counts only where the abbreviation is in small letters."""
    table: dict[str, dict[str, list[str]]] = load("shorthand")["small_letters"]
    return frozenset(table.get(short, {}).get(" ".join(reading), []))


@cache
def _first_words() -> frozenset[str]:
    return frozenset(short[0] for short in _plain()) | frozenset(_ambiguous())


def is_short(word: str) -> bool:
    """Whether an abbreviation of the lists begins with a lower-case word."""
    return word in _first_words()


def ambiguous(word: str) -> bool:
    """Whether a lower-case word is an abbreviation with several readings."""
    return word in _ambiguous()


def expands(short: tuple[Token, ...], long: tuple[Token, ...], text: tuple[Token, ...], at: int) -> bool:
    """Whether ``short`` (at token ``at`` of ``text``) may be written out as ``long``.

    Ambiguous abbreviations need a context word of that reading and none of another one.
    """
    before, after = tuple(t.norm for t in short), tuple(t.norm for t in long)
    if after in _plain().get(before, frozenset()):
        return True
    if len(short) != 1:
        return False
    sides, nouns = _sides()
    if len(after) == 1 and sides.get(short[0].raw) == after[0]:
        return at + 1 < len(text) and text[at + 1].norm in nouns
    readings = _ambiguous().get(before[0])
    if readings is None or after not in readings:
        return False
    context = {token.norm for place, token in enumerate(text) if place != at}
    decisive = readings[after] | (
        _small_letters(before[0], after) if short[0].raw.islower() else frozenset[str]()
    )
    return bool(context & decisive) and not any(
        context & words for reading, words in readings.items() if reading != after
    )
