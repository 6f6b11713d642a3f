"""Keyboard slips: a neighbouring key, a letter too many, one too few, two letters swapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imc_agents.noise.text.core import Candidate, Draws, Word
from imc_agents.text.tables import QWERTY

__all__ = ["OPERATIONS", "propose_typos"]

OPERATIONS: dict[str, float] = {"substitute": 0.4, "delete": 0.2, "insert": 0.2, "transpose": 0.2}
"""How often each kind of slip happens."""


def propose_typos(
    text: str, words: Sequence[Word], draws: Draws, *, min_letters: int = 4
) -> Iterator[Candidate]:
    """Propose one slip per letter a-z of every free word of at least ``min_letters`` letters."""
    for number, word in enumerate(words):
        if sum(character.isalpha() for character in word.text) < min_letters:
            continue
        for at in range(word.start, word.end):
            letter = text[at]
            near = QWERTY.get(letter.lower())
            if near is None:
                continue
            draw = draws.uniform()
            operation = draws.choose(tuple(OPERATIONS), tuple(OPERATIONS.values()))
            # A doubled letter is as common a surplus as a neighbouring key.
            key = draws.choose(near if operation != "insert" else near + letter.lower() * len(near))
            key = key.upper() if letter.isupper() else key
            end = at + 1
            if operation == "transpose":
                following = text[at + 1 : at + 2] if at + 1 < word.end else ""
                if following.lower() in QWERTY and following.lower() != letter.lower():
                    after, end = _like(following, letter) + _like(letter, following), at + 2
                else:
                    operation, after = "delete", ""
            elif operation == "delete":
                after = ""
            elif operation == "insert":
                after = letter + key.lower()
            else:
                after = key
            if word.free:
                yield Candidate(at, end, after, operation, draw, number)


def _like(letter: str, model: str) -> str:
    return letter.upper() if model.isupper() else letter.lower()
