"""Dictation: words heard as their homophones and near sound-alikes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imc_agents.noise.text.core import Candidate, Draws, Word
from imc_agents.text.tables import sound_alikes

__all__ = ["like_case", "propose_asr"]


def propose_asr(_text: str, words: Sequence[Word], draws: Draws) -> Iterator[Candidate]:
    """Propose one mishearing per free word that has a sound-alike."""
    table = sound_alikes()
    for word in words:
        heard = table.get(word.text.lower())
        if heard is None:
            continue
        draw, after = draws.uniform(), like_case(draws.choose(heard), word.text)
        if word.free:
            yield Candidate(word.start, word.end, after, "sound_alike", draw)


def like_case(after: str, before: str) -> str:
    """Return ``after`` with a capital first letter where ``before`` has one."""
    return after[:1].upper() + after[1:] if before[:1].isupper() else after
