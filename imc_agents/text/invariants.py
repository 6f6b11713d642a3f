"""The clinical guard: deterministic invariants that no edit and no refined text may break.

A correction that turns hypodense into hyperdense is worse than any slip that it repairs. So every edit, and
the refined text as a whole, is compared with what the user wrote: what changed must be a repair of a slip
whose meaning is certain, or it is a violation, whatever a model thinks of it. What is uncertain is left to a
person.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache

from imc_agents.text.clinical import load
from imc_agents.text.clinical.align import Change, changes
from imc_agents.text.clinical.judge import judge
from imc_agents.text.clinical.pair import Pair
from imc_agents.text.clinical.shorthand import expands, is_short
from imc_agents.text.clinical.tokens import Token, option_marks, read_tokens
from imc_agents.text.clinical.vocabulary import clinical_pair, is_clinical
from imc_agents.text.protected import ProtectedSpan, protected_spans, shouted

__all__ = [
    "INVARIANTS",
    "ProtectedSpan",
    "Violation",
    "check_text",
    "clinical_pair",
    "is_clinical",
    "protected_spans",
]

INVARIANTS: dict[str, str] = {
    "number": "Numbers, ranges, comparators, codes such as T2, and number words stay as they are.",
    "unit": "Units of numbers stay as they are.",
    "negation": "No negation is added, dropped, moved or turned into another word.",
    "laterality": "No side, position or direction is added, dropped, moved or turned into another.",
    "opposite_prefix": "No word becomes its opposite (hypo/hyper, ab/ad, benign/malignant).",
    "look_alike_term": "No term becomes one that looks or sounds alike (ilium/ileum).",
    "look_alike_drug": "No drug becomes one with a similar name (vinblastine/vincristine).",
    "known_medical_term": "A known medical word never becomes another word, be it ever so rare.",
    "protected_term": "Terms that the configuration protects stay as they are.",
    "acronym": "Acronyms stay as they are; ambiguous ones are written out only where the context decides.",
    "answer_option": "The marks of answer options stay as they are.",
    "content_loss": "No clinical word is deleted.",
    "content_gain": "No clinical word is added that the letters of the text do not bear out.",
    "language": "Letters of other scripts are neither added nor dropped.",
    "length": "The text neither grows nor shrinks beyond a bound.",
}
"""Name of each invariant and what it holds. The names are stable: config and traces use them."""

_MOST_GROWTH = 2.5
_FREE_GROWTH = 40  # characters
_LEAST_SHARE = 0.1
_FREE_WORDS = 2  # words that may be added to any text; or one for five words that it has
_FUNCTION_WORD = 3  # letters up to which an added word is taken for a function word
_LATIN_END = 0x24F
_SIDE_LINKS = frozenset({"of", "to", "from", "and", "or", "than"})
_ARTICLES = frozenset({"a", "an", "the"})
_SCOPE_LINKS = frozenset({"and", "or"})


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken invariant: its name, what happened, and where (``start:end`` of the text before)."""

    invariant: str
    detail: str
    start: int
    end: int


def check_text(
    before: str,
    after: str,
    *,
    is_known: Callable[[str], bool],
    is_medical: Callable[[str], bool] | None = None,
    protected_terms: Collection[str] = (),
) -> list[Violation]:
    """Return what has been broken between two texts, however the second came about; empty where nothing was.

    Args:
        before: The text as the user wrote it.
        after: The text as it is to be.
        is_known: Whether a lower-case word is in the vocabulary.
        is_medical: Whether a known lower-case word is medical, in addition to the guard's own lists.
        protected_terms: Words or phrases that must stay, in any case.
    """
    if before == after:
        return []
    old, new = read_tokens(before), read_tokens(after)
    texts = Pair(old, new, is_known, is_medical or (lambda _word: False), shouted(before))
    found = _judged(texts, thorough=False)
    if found and len(old) > 1:
        found = _judged(texts, thorough=True)
    found += _casing(texts)
    found += _whole(before, after, protected_terms)
    return sorted(set(found), key=lambda v: (v.start, v.end, v.invariant, v.detail))


def _judged(texts: Pair, *, thorough: bool) -> list[Violation]:
    """Judge each change between two texts, and the changes of order."""
    old, new = texts.before, texts.after
    short = {at for at, token in enumerate(old) if is_short(token.norm) or token.raw in ("R", "L")}

    def is_expansion(i1: int, i2: int, j1: int, j2: int) -> bool:
        return i1 in short and expands(tuple(old[i1:i2]), tuple(new[j1:j2]), tuple(old), i1)

    changed = changes(old, new, is_expansion, thorough=thorough)
    gone = Counter(t.norm for c in changed if c.j1 == c.j2 for t in old[c.i1 : c.i2] if not t.cue)
    come = Counter(t.norm for c in changed if c.i1 == c.i2 for t in new[c.j1 : c.j2] if not t.cue)
    texts = replace(texts, moved=frozenset(gone & come))
    found: list[Violation] = []
    added = [word for word in (come - gone).elements() if len(word) > _FUNCTION_WORD]
    if len(added) > max(_FREE_WORDS, len(old) // 5):
        end = old[-1].end if old else 0
        found.append(Violation("content_gain", f"{len(added)} words added: {' '.join(added[:8])}", end, end))
    for change in changed:
        reason = judge(change, texts) or _link(change, texts)
        if reason:
            found.append(Violation(*reason, *_span(old, change)))
    if texts.moved and not found:
        found += _moved_cues(texts)
    return found


def _span(tokens: Sequence[Token], change: Change) -> tuple[int, int]:
    if change.i1 < change.i2:
        return tokens[change.i1].start, tokens[change.i2 - 1].end
    place = tokens[change.i1].start if change.i1 < len(tokens) else (tokens[-1].end if tokens else 0)
    return place, place


def _link(change: Change, texts: Pair) -> tuple[str, str] | None:
    """Small words between a side and its noun, or in the scope of a negation, may not come or go."""
    if change.i1 < change.i2 and change.j1 < change.j2:
        return None
    tokens, first, last = (
        (texts.before, change.i1, change.i2) if change.i1 < change.i2 else (texts.after, change.j1, change.j2)
    )
    words = {token.norm for token in tokens[first:last]}
    detail = f"{' '.join(token.raw for token in tokens[first:last])!r} came or went"
    following = next((token for token in tokens[last:] if token.norm not in _ARTICLES), None)
    preceding = tokens[first - 1] if first else None
    sided = preceding is not None and preceding.cue == "laterality" and bool(words & _SIDE_LINKS)
    if sided and following is not None and texts.clinical(following.norm):
        return "laterality", f"{detail} between a side and {following.raw!r}"
    if words & _SCOPE_LINKS and any(token.cue == "negation" for token in texts.before):
        return "negation", f"{detail} in a text with a negation"
    return None


def _moved_cues(texts: Pair) -> list[Violation]:
    """Each cue must keep its neighbours when words change their places."""

    def surroundings(tokens: Sequence[Token]) -> list[tuple[Token, str, str]]:
        content = [t for t in tokens if t.cue or texts.clinical(t.norm) or t.norm in texts.moved]
        words = ["", *(t.norm for t in content), ""]
        return [(t, words[at], words[at + 2]) for at, t in enumerate(content) if t.cue]

    return [
        Violation(cue.cue, f"{cue.raw!r} now stands at other words", cue.start, cue.end)
        for (cue, *old), (_, *new) in zip(surroundings(texts.before), surroundings(texts.after), strict=False)
        if old != new
    ]


@cache
def _case_bound() -> tuple[dict[str, frozenset[str]], frozenset[str], frozenset[str]]:
    data = load("case_bound")
    groups = {group[0].casefold(): frozenset(group) for group in data["case_bound"]}
    return groups, frozenset(data["function_words"]), frozenset(data["plain"])


def _casing(texts: Pair) -> list[Violation]:
    """Acronyms whose case tells what they are (mg/Mg, US/us) keep it, unless the writer shouts."""
    if texts.shouted:
        return []
    groups, function_words, plain = _case_bound()
    old = [token for token in texts.before if token.norm in groups]
    new = [token for token in texts.after if token.norm in groups]
    if [t.norm for t in old] != [t.norm for t in new]:
        return []  # the change of words has been judged
    careless = any(t.raw in plain and len(t.raw) > 1 and t.norm not in groups for t in texts.before)
    return [
        Violation("acronym", f"{was.raw!r} became {now.raw!r}", was.start, was.end)
        for was, now in zip(old, new, strict=True)
        if was.raw != now.raw
        and {was.raw, now.raw} <= groups[was.norm]
        and not (careless and was.norm in function_words)
    ]


def _whole(before: str, after: str, protected_terms: Collection[str]) -> list[Violation]:
    """What only the texts as wholes can show."""
    found: list[Violation] = []
    end = len(before)
    marks = option_marks(before), option_marks(after)
    if marks[0] != marks[1]:
        found.append(Violation("answer_option", f"options {marks[0]} became {marks[1]}", 0, end))
    scripts = _foreign(before), _foreign(after)
    if scripts[0] != scripts[1]:
        found.append(Violation("language", "letters of another script came or went", 0, end))
    sizes = len("".join(before.split())), len("".join(after.split()))
    if sizes[1] > _MOST_GROWTH * sizes[0] + _FREE_GROWTH or sizes[1] < _LEAST_SHARE * sizes[0]:
        found.append(Violation("length", f"{sizes[0]} characters became {sizes[1]}", 0, end))
    for term in protected_terms:
        words = tuple(token.norm for token in read_tokens(term))
        there, left = _occurrences(words, before), _occurrences(words, after)
        if len(left) < len(there):
            found.append(Violation("protected_term", f"{term!r} was changed", *there[0]))
    return found


def _occurrences(words: tuple[str, ...], text: str) -> list[tuple[int, int]]:
    """The spans of the text that read as these words."""
    tokens = read_tokens(text)
    norms = tuple(token.norm for token in tokens)
    size = len(words)
    return [
        (tokens[at].start, tokens[at + size - 1].end)
        for at in range(len(norms) - size + 1 if size else 0)
        if norms[at : at + size] == words
    ]


def _foreign(text: str) -> Counter[str]:
    """Letters beyond the Latin script."""
    if text.isascii():
        return Counter()
    return Counter(c for c in unicodedata.normalize("NFKC", text) if ord(c) > _LATIN_END and c.isalpha())
