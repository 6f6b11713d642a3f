"""Careless wording: dropped and swapped words, shorthand, irrelevant sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from imc_agents.noise.text.asr import like_case
from imc_agents.noise.text.core import Candidate, Draws, Word
from imc_agents.text.tables import shorthand

__all__ = ["DROPPABLE", "IRRELEVANT", "propose_drop_shuffle", "propose_irrelevant", "propose_shorthand"]

DROPPABLE = frozenset(
    """
    a an the this that these those it its there here any some you we i
    is are was were be been being am do does did has have had can could would will shall should may might must
    of in on at to by for from
    """.split()  # noqa: SIM905 (a list of fifty quoted words is harder to read)
)
"""Words that may be dropped. Content words only change places, so that the answer stays true."""

IRRELEVANT: tuple[str, ...] = (
    "The coffee machine in the hallway is broken again.",
    "Thanks so much for your help with this.",
    "I am typing this on my phone.",
    "Sorry for the late message.",
    "My colleague asked me to pass this along.",
    "We have a staff meeting this afternoon.",
    "The weather has been lovely this week.",
    "Please excuse the short note.",
    "I hope you had a good weekend.",
    "The parking garage was full this morning.",
    "I forgot my badge at home today.",
    "Lunch is in the cafeteria at noon.",
    "The printer on our floor is out of paper.",
    "My train was late today.",
    "Let me know when you have a moment.",
    "I will be in the office until the evening.",
    "The new computers are really fast.",
    "Someone moved my chair.",
    "I am new to this office.",
    "Have a nice day.",
)
"""Sentences of no clinical content; none holds a negation, a side, a number or a medical word."""

_SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=\S)")


def propose_drop_shuffle(text: str, words: Sequence[Word], draws: Draws) -> Iterator[Candidate]:
    """Propose, per free word, to drop it (function words) or to swap it with the next word.

    Words beside a protected one stay where they are, so that a side or a negation keeps what it belongs to.
    """
    for index, word in enumerate(words):
        draw, drop = draws.uniform(), draws.uniform() < 0.5
        if not word.free:
            continue
        following = words[index + 1] if index + 1 < len(words) else None
        before = words[index - 1] if index else None
        if before is not None and not before.free:
            continue
        if drop and word.text.lower() in DROPPABLE and len(words) > 2:
            # The next word keeps its own case even where the first word went: that is how people type.
            end = following.start if following is not None else word.end
            if text[word.end : end].isspace() and (following is None or following.free):
                yield Candidate(word.start, end, "", "drop", draw)
            continue
        if following is None or not following.free or not text[word.end : following.start].isspace():
            continue
        if "-" in (text[word.start - 1 : word.start], text[following.end : following.end + 1]):
            continue  # half of a compound such as x-ray
        behind = words[index + 2] if index + 2 < len(words) else None
        if behind is not None and not behind.free:
            continue
        swapped = following.text + text[word.end : following.start] + word.text
        yield Candidate(word.start, following.end, swapped, "swap", draw)


@cache
def _phrases() -> tuple[re.Pattern[str], dict[str, list[str]]]:
    short: dict[str, list[str]] = {}
    for entry in shorthand():
        short.setdefault(entry.long, []).append(entry.short)
    longest_first = sorted(short, key=lambda phrase: (-len(phrase), phrase))
    pattern = "|".join(re.escape(phrase).replace(r"\ ", r"\s+") for phrase in longest_first)
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w'\u2019-])", re.IGNORECASE), short


def propose_shorthand(text: str, words: Sequence[Word], draws: Draws) -> Iterator[Candidate]:
    """Propose one abbreviation per phrase of the shorthand table, longest phrases first."""
    pattern, short = _phrases()
    locked = [(word.start, word.end) for word in words if not word.free]
    for match in pattern.finditer(text):
        start, end = match.span()
        draw = draws.uniform()
        after = draws.choose(short[" ".join(match.group().lower().split())])
        if any(start < stop and begin < end for begin, stop in locked):
            continue
        yield Candidate(start, end, like_case(after, match.group()), "abbreviate", draw)


def propose_irrelevant(text: str, words: Sequence[Word], draws: Draws) -> Iterator[Candidate]:
    """Propose five irrelevant sentences between the sentences of the text, in five slots of equal share."""
    if not words:
        return
    places = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    remaining = list(IRRELEVANT)
    for slot in range(5):
        draw = (slot + draws.uniform()) / 5
        place = draws.choose(places)
        sentence = draws.choose(remaining)
        remaining.remove(sentence)
        after = f" {sentence}" if place == len(text) else f"{sentence} "
        yield Candidate(place, place, after, "insert", draw)
