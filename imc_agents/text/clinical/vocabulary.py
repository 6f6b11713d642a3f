"""What the guard knows of words: opposites, look-alikes, cues, clinical terms; from the YAML lists."""

from __future__ import annotations

import re
from functools import cache, lru_cache

from imc_agents.text.clinical import load
from imc_agents.text.clinical.groups import SHORTEST_STEM, Family, Groups, parse_groups

__all__ = [
    "affixal_root",
    "affixed_forms",
    "clinical_pair",
    "group_invariant",
    "groups_apart",
    "is_clinical",
    "is_direction",
    "is_listed",
    "is_negation",
    "is_number_word",
    "look_alikes",
    "opposites",
]

_SHORTEST_MORPH = 7


@cache
def _opposites() -> Groups:
    data = load("opposites")
    stems = data["hypo_hyper_stems"].split()
    return parse_groups([*data["pairs"], *(f"hypo{stem} | hyper{stem}" for stem in stems)])


@cache
def _look_alike_terms() -> Groups:
    return parse_groups(load("look_alikes")["pairs"])


@cache
def _drugs() -> Groups:
    return parse_groups(load("drugs")["pairs"])


@cache
def _families() -> tuple[Family, ...]:
    return tuple(
        Family(
            entry["affix"] == "suffix",
            entry.get("always") == "yes",
            tuple(sorted(entry["members"].split(), key=len, reverse=True)),
            frozenset(entry.get("plain", "").split()),
        )
        for entry in load("opposites")["families"]
    )


@cache
def _affixes() -> dict[str, frozenset[str]]:
    """Prefixes that stand by themselves (intra-axial) with their counterparts."""
    found: dict[str, set[str]] = {}
    for family in _families():
        for member in family.members:
            if not family.suffix and len(member) >= SHORTEST_STEM:
                found.setdefault(member, set()).update(other for other in family.members if other != member)
    return {member: frozenset(others) for member, others in found.items()}


@lru_cache(maxsize=4096)
def _counterparts(word: str) -> tuple[frozenset[str], frozenset[str]]:
    """The word under other affixes of its families: (those that always count, those that must be known)."""
    sure: set[str] = set()
    likely: set[str] = set()
    for family in _families():
        for affix, stem in family.stems(word):
            for other in family.members:
                if other != affix:
                    (sure if family.always else likely).add(stem + other if family.suffix else other + stem)
    return frozenset(sure - {word}), frozenset(likely - sure - {word})


def opposites(word: str) -> frozenset[str]:
    """Words that turn the meaning of a lower-case word round: listed ones and other affixes on its stem.

    Affixed forms are generated, so some may not be words: check them against a vocabulary first.
    """
    sure, likely = _counterparts(word)
    negated = {root for root in (affixal_root(word),) if root}
    affixes = _affixes().get(word, frozenset[str]())
    return _opposites().others(word) | affixes | sure | likely | negated | _negated_forms(word)


def affixed_forms(word: str) -> frozenset[str]:
    """The opposites of a word that no list holds: made by rule, so weaker evidence."""
    listed = _opposites().others(word) | _affixes().get(word, frozenset())
    listed |= _counterparts(word)[0] | _negated().get(word, frozenset())
    root = _prefixed().get(word)
    return opposites(word) - listed - ({root} if root else set())


def look_alikes(word: str) -> frozenset[str]:
    """Clinical terms and drug names that a lower-case word is confused with."""
    return _look_alike_terms().others(word) | _drugs().others(word)


@cache
def _negation() -> frozenset[str]:
    return frozenset(load("negation")["words"])


@cache
def _contraction() -> re.Pattern[str]:
    return re.compile(
        r"(?:is|are|was|were|do|does|did|has|have|had|wo|ca|could|would|should|must|need|ai)n'?t"
    )


def is_negation(word: str) -> bool:
    """Whether a lower-case word negates or sets the scope of a negation (no, without, denies, isn't, but)."""
    return word in _negation() or _contraction().fullmatch(word) is not None


@cache
def _directions() -> tuple[frozenset[str], re.Pattern[str]]:
    data = load("laterality")
    return frozenset(word for word in data["words"] if "-" not in word), re.compile(data["compounds"])


@lru_cache(maxsize=4096)
def is_direction(word: str) -> bool:
    """Whether a lower-case word tells side, position or direction."""
    words, compounds = _directions()
    return word in words or compounds.fullmatch(word) is not None


@cache
def _number_words() -> frozenset[str]:
    return frozenset(load("numbers")["number_words"])


def is_number_word(word: str) -> bool:
    """Whether a lower-case word carries a number (two, third, twice)."""
    return word in _number_words()


@cache
def _prefixed() -> dict[str, str]:
    data = load("negation")["prefixed"]
    return {prefix + rest: rest for prefix, rests in data.items() for rest in rests}


@cache
def _negated() -> dict[str, frozenset[str]]:
    forms: dict[str, set[str]] = {}
    for form, root in _prefixed().items():
        forms.setdefault(root, set()).add(form)
    return {root: frozenset(words) for root, words in forms.items()}


def affixal_root(word: str) -> str | None:
    """The word without its negating prefix (``atypical`` -> ``typical``), or None.

    For ``un`` and ``non`` any rest of four letters counts; whether it is a word is for the caller to check.
    """
    listed = _prefixed().get(word)
    if listed:
        return listed
    for prefix in load("negation")["productive_prefixes"]:
        if word.startswith(prefix) and len(word) >= len(prefix) + 4:
            return word[len(prefix) :]
    return None


def _negated_forms(word: str) -> frozenset[str]:
    productive = (prefix + word for prefix in load("negation")["productive_prefixes"] if len(word) >= 4)
    return _negated().get(word, frozenset()) | frozenset(productive)


@cache
def _terms() -> tuple[frozenset[str], tuple[str, ...], tuple[str, ...], frozenset[str]]:
    data = load("terms")
    everyday = frozenset(data["everyday"].split())
    words = set(data["words"].split())
    words.update(_affixes())
    for groups in (_opposites(), _look_alike_terms(), _drugs()):
        words.update(groups.places)
    return (
        frozenset(words - everyday),
        tuple(data["suffixes"].split()),
        tuple(data["prefixes"].split()),
        everyday,
    )


@lru_cache(maxsize=8192)
def is_clinical(word: str) -> bool:
    """Whether a lower-case word is clinical vocabulary: listed, or built like a term of art."""
    words, suffixes, prefixes, everyday = _terms()
    if word in words or is_direction(word):
        return True
    if len(word) < _SHORTEST_MORPH or word in everyday or not word.isalpha():
        return False
    return word.endswith(suffixes) or word.startswith(prefixes)


@lru_cache(maxsize=8192)
def is_listed(word: str) -> bool:
    """Whether one of the guard's own lists holds the lower-case word, so that it is a word for certain."""
    return (
        word in _terms()[0]
        or word in _opposites().places
        or word in _look_alike_terms().places
        or is_direction(word)
        or is_negation(word)
        or is_number_word(word)
    )


@lru_cache(maxsize=8192)
def group_invariant(word: str) -> str | None:
    """Which list of opposites or look-alikes holds a lower-case word, as the name of its invariant."""
    if word in _opposites().places or word in _affixes() or (_counterparts(word)[0] and len(word) > 7):
        return "opposite_prefix"
    if word in _drugs().places:
        return "look_alike_drug"
    return "look_alike_term" if word in _look_alike_terms().places else None


@lru_cache(maxsize=8192)
def groups_apart(first: str, second: str) -> str | None:
    """The invariant that parts two lower-case words: opposites or look-alikes of each other; else None."""
    if second in _negated_forms(first) or first in _negated_forms(second):
        return "negation"
    sure, likely = _counterparts(first)
    if second in _opposites().others(first) | _affixes().get(first, frozenset()) | sure | likely:
        return "opposite_prefix"
    if second in _drugs().others(first):
        return "look_alike_drug"
    return "look_alike_term" if second in _look_alike_terms().others(first) else None


def clinical_pair(first: str, second: str) -> str | None:
    """The invariant that replacing the known lower-case word ``first`` by ``second`` would break, or None."""
    if first == second:
        return None
    if is_number_word(first) or is_number_word(second):
        return "number"
    if is_negation(first) or is_negation(second):
        return "negation"
    if is_direction(first) or is_direction(second):
        return "laterality"
    return groups_apart(first, second) or ("known_medical_term" if is_clinical(first) else None)
