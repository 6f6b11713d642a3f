"""Two texts under comparison, and the reason why a change between them must not stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imc_agents.text.clinical.evidence import Known
from imc_agents.text.clinical.tokens import Token
from imc_agents.text.clinical.vocabulary import is_clinical, is_listed

__all__ = ["Pair", "Reason", "show"]

Reason = tuple[str, str]
"""(invariant, detail) of a broken invariant."""


@dataclass(frozen=True)
class Pair:
    """Two texts under comparison, read into tokens; ``moved`` words only changed their place."""

    before: Sequence[Token]
    after: Sequence[Token]
    is_known: Known
    is_medical: Known
    shouted: bool
    moved: frozenset[str] = frozenset()

    def known(self, word: str) -> bool:
        """Whether a lower-case word is in the vocabulary or in the guard's lists."""
        return is_listed(word) or self.is_known(word)

    def clinical(self, word: str) -> bool:
        """Whether a lower-case word is clinical."""
        return is_clinical(word) or self.is_medical(word)


def show(tokens: Sequence[Token]) -> str:
    """The tokens as the user wrote them, parted by blanks."""
    return " ".join(token.raw for token in tokens)
