"""The lexicon channels: for a suspicious span, what may have been meant, ranked before the model sees any of it.

A channel knows how one kind of slip comes about. It returns edits in order of plausibility (fewest slips, commonest
word); ``Edit.slips`` says how many slips of the channel an edit explains.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from imc_agents.text.edits import Edit
from imc_agents.text.lexicon import DICTIONARY, Lexicon
from imc_agents.text.tables import QWERTY, shorthand, sound_alikes

__all__ = ["CHANNELS", "is_odd_case", "like_case", "plausibility", "sentences", "word_spans"]

Channel = Callable[[str, int, int, Lexicon], list[Edit]]
"""(text, start, end, lexicon) -> edits of that span, best first."""

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE = re.compile(r"[^.?!]+[.?!]*\s*|[.?!]+\s*")
_SHORT_WORDS = frozenset("a an as at be by do he i if in is it me my no of on or so the to up us we".split())  # noqa: SIM905
_USUAL_CAPITALS = re.compile(
    r"(?:Mc|Mac|De|Di|La|Le|Van|O['\u2019])[A-Z][a-z]+|[A-Z]+s|[A-Z]+['\u2019]s|[A-Z]+\d+[a-z]*"
)
_WEB_PENALTY = 1.0  # Zipf points: a word that no dictionary has is a less likely repair
_NEPERS = math.log(10)
_MOST_EDITS = 64  # of a word with hundreds of neighbours; no role may ask for more (max_candidates)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Spans of the words: letters and digits with inner apostrophes; hyphens and slashes part words."""
    return [match.span() for match in _WORD.finditer(text)]


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences with the white space behind them; together they cover the text."""
    return [match.span() for match in _SENTENCE.finditer(text)]


def is_odd_case(word: str) -> bool:
    """Whether capitals stand where nobody puts them: ``lIVEr``, ``ABDOMinal``; not ``McBurney`` or ``CTs``."""
    if word.islower() or word.isupper() or word[:1] + word[1:].lower() == word:
        return False
    return any(c.isalpha() for c in word) and not _USUAL_CAPITALS.fullmatch(word)


def like_case(word: str, model: str) -> str:
    """The word in the case of the model: ALL CAPS, Capitalised, or as it is."""
    return _caser(model)(word)


def _caser(model: str) -> Callable[[str], str]:
    letters = [c for c in model if c.isalpha()]
    if not letters or is_odd_case(model):
        return str
    if len(letters) > 1 and all(c.isupper() for c in letters):
        return str.upper
    return _capitalised if letters[0].isupper() and model[:1] == letters[0] else str


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]


def plausibility(word: str, slips: float, lexicon: Lexicon) -> float:
    """How likely a word is what was meant, before any context: its frequency less what the slips cost, in nats."""
    place = lexicon.index.get(word)
    if place is None:
        return -math.inf
    zipf = max(float(lexicon.zipf[place]), float(lexicon.domain[place]), 0.5)
    if lexicon.tier[place] != DICTIONARY:
        zipf -= _WEB_PENALTY
    return _NEPERS * zipf - 6.0 * slips


def _ranked(
    found: dict[str, float], text: str, start: int, end: int, kind: str, lexicon: Lexicon
) -> list[Edit]:
    recase = _caser(text[start:end])
    order = heapq.nsmallest(
        _MOST_EDITS, found, key=lambda word: (-plausibility(word, found[word], lexicon), word)
    )
    return [Edit(start, end, recase(word), kind, slips=found[word]) for word in order]


def keyboard(text: str, start: int, end: int, lexicon: Lexicon) -> list[Edit]:
    """Keys hit beside, twice, not at all, or in the wrong order: words within two slips (one for short words)."""
    word = text[start:end].lower()
    opening = not text[:start].strip()
    reach = 2 if len(word) >= 4 else 1
    found = {
        other: _typing_slips(word, other, distance)
        for other, distance in lexicon.near(word, reach)
        if len(other) > 1 and abs(len(other) - len(word)) < max(len(word), 2)
    }
    edits = _ranked(found, text, start, end, "typo", lexicon)
    if opening:  # a question opens with a capital; a slip in its first letter may have lost it
        edits = [_opened(edit) if edit.after[:1].lower() != word[:1] else edit for edit in edits]
    return edits


def _opened(edit: Edit) -> Edit:
    return replace(edit, after=_capitalised(edit.after))


def _typing_slips(word: str, other: str, distance: int) -> float:
    if distance != 1:
        return float(distance)
    if len(word) == len(other) + 1 and any(
        word[:i] + word[i + 1 :] == other and word[i] in word[i - 1 : i] + word[i + 1 : i + 2]
        for i in range(len(word))
    ):
        return 0.8  # a key hit twice
    if len(word) != len(other):
        return 1.0
    pairs = [(a, b) for a, b in zip(word, other, strict=True) if a != b]
    if len(pairs) != 1:
        return 1.0  # a transposition
    a, b = pairs[0]
    return 1.0 if b in QWERTY.get(a, "") else 1.5


def ocr(text: str, start: int, end: int, lexicon: Lexicon) -> list[Edit]:
    """Shapes that recognition confuses, any number of them in a word."""
    from rapidfuzz.distance import OSA

    word = text[start:end]
    found = {other: 0.5 + 0.5 * OSA.distance(word.lower(), other) for other in lexicon.same_shape(word)}
    edits = _ranked(found, text, start, end, "ocr", lexicon)
    opening = not text[:start].strip()
    if opening and not word[:1].islower():
        edits = [_opened(edit) for edit in edits]
    elif opening:  # a small letter that opens a question and was misread may have been a capital: ls was Is
        edits = [_opened(edit) if edit.after[:1] != word[:1] else edit for edit in edits]
    elif word[:1] == "I":  # inside a sentence a leading I is a misread l
        edits = [replace(edit, after=edit.after[:1].lower() + edit.after[1:]) for edit in edits]
    return edits


def sound(text: str, start: int, end: int, lexicon: Lexicon) -> list[Edit]:
    """Words and phrases that dictation hears alike; clinical ones too, which the guard then flags."""
    del lexicon
    before = text[start:end]
    heard = sound_alikes().get(" ".join(before.lower().split()), ())
    return [Edit(start, end, like_case(word, before), "asr") for word in heard]


def spacing(text: str, start: int, end: int, lexicon: Lexicon) -> list[Edit]:
    """Blanks that are missing (the span is one token) or in excess (the span holds blanks)."""
    span = text[start:end]
    if any(c.isspace() for c in span):
        joined = "".join(span.split())
        return [Edit(start, end, joined, "spacing", slips=float(len(span.split()) - 1))]
    found = sorted(_splits(span, lexicon), key=lambda parts: (len(parts), -_worth(parts, lexicon), parts))
    return [Edit(start, end, " ".join(parts), "spacing", slips=len(parts) - 1.0) for parts in found]


def _splits(span: str, lexicon: Lexicon, most: int = 3) -> Iterator[tuple[str, ...]]:
    for at in range(1, len(span)):
        left, right = span[:at], span[at:]
        if not _is_part(left, lexicon):
            continue
        if _is_part(right, lexicon):
            yield (left, right)
        elif most > 2 and len(right) >= 4:
            for parts in _splits(right, lexicon, most - 1):
                yield (left, *parts)


def _is_part(word: str, lexicon: Lexicon) -> bool:
    lower = word.lower()
    if len(lower) <= 2 or lower in _SHORT_WORDS:
        return lower in _SHORT_WORDS
    return lexicon.is_known(lower) and (lexicon.frequency(lower) >= 2.5 or len(lower) >= 5)


def _worth(parts: tuple[str, ...], lexicon: Lexicon) -> float:
    return sum(max(lexicon.frequency(part), 1.0) for part in parts) / len(parts)


def casing(text: str, start: int, end: int, lexicon: Lexicon) -> list[Edit]:
    """The word in small letters, with a capital where it opens the text."""
    del lexicon
    small = text[start:end].lower()
    after = small if text[:start].strip() else small[:1].upper() + small[1:]
    return [Edit(start, end, after, "casing")]


def expand(text: str, start: int, end: int, lexicon: Lexicon) -> list[Edit]:
    """What a clinical abbreviation stands for. Forms marked as ambiguous in the table are offered at a higher cost."""
    del lexicon
    before = text[start:end]
    capitalised = before[:1].isupper() and before[1:].islower()
    return [
        Edit(
            start,
            end,
            entry.long[:1].upper() + entry.long[1:] if capitalised else entry.long,
            "shorthand",
            slips=2.0 if entry.ambiguous else 1.0,
        )
        for entry in shorthand()
        if before in (entry.short, entry.short[:1].upper() + entry.short[1:])
    ]


def relevance(text: str, start: int, end: int, lexicon: Lexicon) -> list[Edit]:
    """Drop a whole sentence, with the white space that parts it from its neighbours."""
    del lexicon
    if end == len(text):
        while start > 0 and text[start - 1].isspace():
            start -= 1
    return [Edit(start, end, "", "irrelevant")]


CHANNELS: dict[str, Channel] = {
    "keyboard": keyboard,
    "ocr": ocr,
    "sound": sound,
    "spacing": spacing,
    "casing": casing,
    "shorthand": expand,
    "relevance": relevance,
}
"""The channels that a specialist with source ``lexicon`` may name."""
