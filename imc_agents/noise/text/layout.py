"""Layout slips: blanks missing or in excess, and careless capitals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from imc_agents.noise.text.core import Candidate, Draws, Word

__all__ = ["propose_casing", "propose_spacing"]


def propose_spacing(text: str, words: Sequence[Word], draws: Draws) -> Iterator[Candidate]:
    """Propose, per gap between two free words, to lose the blank, or to gain one inside the word that follows."""
    for word, following in pairwise(words):
        draw, lose, place = draws.uniform(), draws.uniform() < 0.6, draws.uniform()
        gap = text[word.end : following.start]
        if lose:
            if word.free and following.free and gap.isspace():
                yield Candidate(word.end, following.start, "", "join", draw)
        elif following.free and len(following.text) >= 4 and following.text.isalpha():
            at = following.start + 1 + int(place * (len(following.text) - 1))
            yield Candidate(at, at, " ", "split", draw)


def propose_casing(_text: str, words: Sequence[Word], draws: Draws) -> Iterator[Candidate]:
    """Propose, per free word, its careless form: all small, all capitals, or capitals at random, one way a text."""
    way = draws.choose(("lower", "upper", "random"))
    for word in words:
        draw = draws.uniform()
        flips = [draws.uniform() < 0.5 for _ in word.text]
        if not word.free:
            continue
        if way == "lower":
            after = word.text.lower()
        elif way == "upper":
            after = word.text.upper()
        else:
            after = "".join(c.swapcase() if flip else c for c, flip in zip(word.text, flips, strict=True))
        if after != word.text and after.casefold() == word.text.casefold():
            yield Candidate(word.start, word.end, after, way, draw)
