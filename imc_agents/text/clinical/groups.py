"""Words that stand against each other: lines of opposed or confusable words, and families of affixes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["SHORTEST_STEM", "Family", "Groups", "parse_groups"]

SHORTEST_STEM = 3
"""Letters that a word must have beside an affix."""


@dataclass(frozen=True)
class Groups:
    """Opposed or confusable words: for each word the lines it stands in, as (line, side)."""

    places: dict[str, tuple[tuple[int, int], ...]]
    lines: tuple[tuple[tuple[str, ...], ...], ...]

    def others(self, word: str) -> frozenset[str]:
        """Words on other sides of the lines of a word, less those that also stand beside it."""
        beside: set[str] = {word}
        apart: set[str] = set()
        for line, side in self.places.get(word, ()):
            for at, words in enumerate(self.lines[line]):
                (beside if at == side else apart).update(words)
        return frozenset(apart - beside)


def parse_groups(pairs: list[str]) -> Groups:
    """Read lines of words; "|" parts the sides, blanks part the words of one side."""
    lines = tuple(tuple(tuple(side.split()) for side in pair.split("|")) for pair in pairs)
    places: dict[str, list[tuple[int, int]]] = {}
    for number, line in enumerate(lines):
        for side, words in enumerate(line):
            for word in words:
                places.setdefault(word, []).append((number, side))
    return Groups({word: tuple(found) for word, found in places.items()}, lines)


@dataclass(frozen=True)
class Family:
    """Affixes that turn one stem into different findings."""

    suffix: bool
    always: bool
    members: tuple[str, ...]
    plain: frozenset[str]

    def stems(self, word: str) -> Iterator[tuple[str, str]]:
        """(affix, stem) for each member that the word has, longest affix first."""
        if word in self.plain:
            return
        for member in self.members:
            if len(word) < len(member) + SHORTEST_STEM:
                continue
            if self.suffix and word.endswith(member):
                yield member, word[: -len(member)]
            elif not self.suffix and word.startswith(member):
                yield member, word[len(member) :]
