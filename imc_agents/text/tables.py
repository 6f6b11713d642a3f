"""The word tables shared by noise (which writes slips) and by the specialists (which read them backwards).

The tables are data in ``text/data/``; every loader returns one cached value, which nobody may change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = [
    "QWERTY",
    "Shorthand",
    "clinical_groups",
    "clinical_people",
    "ocr_confusions",
    "shorthand",
    "sound_alikes",
]


QWERTY: dict[str, str] = {
    "q": "wa", "w": "qeas", "e": "wrsd", "r": "etdf", "t": "ryfg", "y": "tugh", "u": "yihj", "i": "uojk",
    "o": "ipkl", "p": "ol", "a": "qwsz", "s": "awedxz", "d": "serfcx", "f": "drtgvc", "g": "ftyhbv",
    "h": "gyujnb", "j": "huikmn", "k": "jiolm", "l": "kop", "z": "asx", "x": "zsdc", "c": "xdfv",
    "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk",
}  # fmt: skip
"""The keys that touch each key of a US keyboard."""


@dataclass(frozen=True, slots=True)
class Shorthand:
    """One abbreviation.

    Attributes:
        long: What is meant, in lower case.
        short: What people type.
        ambiguous: Whether ``short`` also stands for something else, so that only context can expand it.
        informal: Whether a form in capitals is informal, so that it is written out.
    """

    long: str
    short: str
    ambiguous: bool = False
    informal: bool = False

    @property
    def is_expandable(self) -> bool:
        """Whether the form calls for being written out: it is not a standard acronym in capitals."""
        return self.informal or not self.short.replace(" contrast", "").isupper()


def _load(name: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((files("imc_agents.text") / "data" / name).read_text(encoding="utf-8"))


@cache
def shorthand() -> tuple[Shorthand, ...]:
    """Return the clinical abbreviations, in the order of the file."""
    return tuple(Shorthand(**entry) for entry in _load("shorthand.yaml")["entries"])


@cache
def clinical_people() -> frozenset[str]:
    """Return words of people, bodies and habits: a sentence with one of them may be history, never small talk."""
    return frozenset(word for group in _load("history.yaml").values() for word in group)


@cache
def ocr_confusions() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return (printed, ways it is read) of one or two characters each; case-sensitive."""
    table: dict[str, list[str]] = _load("ocr_confusions.yaml")["confusions"]
    return tuple((printed, tuple(read)) for printed, read in table.items())


@cache
def clinical_groups() -> tuple[frozenset[str], ...]:
    """Return the groups of sound-alikes that are all clinical words: a swap among them calls for a person."""
    return tuple(frozenset(group) for group in _load("sound_alikes.yaml")["clinical"])


@cache
def sound_alikes() -> dict[str, tuple[str, ...]]:
    """Return, for each word in lower case, the words or phrases that it may be heard as; sorted."""
    table = _load("sound_alikes.yaml")
    heard: dict[str, set[str]] = {}
    for section in ("homophones", "near", "clinical"):
        for group in table[section]:
            for word in group:
                heard.setdefault(word, set()).update(other for other in group if other != word)
    return {word: tuple(sorted(others)) for word, others in sorted(heard.items())}
