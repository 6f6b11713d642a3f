"""Optical character recognition: characters and pairs of characters read as others of a similar shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imc_agents.noise.text.core import Candidate, Draws, Word
from imc_agents.text.tables import ocr_confusions

__all__ = ["propose_ocr"]


def propose_ocr(text: str, words: Sequence[Word], draws: Draws) -> Iterator[Candidate]:
    """Propose one misreading per confusable place of every free word of two letters or more."""
    table = dict(ocr_confusions())
    for number, word in enumerate(words):
        if len(word.text) < 2:
            continue
        for at in range(word.start, word.end):
            for length in (2, 1):
                read = table.get(text[at : at + length]) if at + length <= word.end else None
                if read is not None:
                    draw, after = draws.uniform(), draws.choose(read)
                    if word.free:
                        yield Candidate(at, at + length, after, "misread", draw, number)
