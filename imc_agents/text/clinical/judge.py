"""Whether one change between two texts may stand: the rules behind the guard's invariants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from imc_agents.text.clinical import load
from imc_agents.text.clinical.align import Change
from imc_agents.text.clinical.evidence import (
    distance,
    is_real,
    nearby_cue,
    negation_rival,
    rival,
    swapped,
    words_in,
)
from imc_agents.text.clinical.measures import measured
from imc_agents.text.clinical.pair import Pair, Reason, show
from imc_agents.text.clinical.shorthand import ambiguous
from imc_agents.text.clinical.tokens import Token, unmask
from imc_agents.text.clinical.vocabulary import (
    affixal_root,
    clinical_pair,
    group_invariant,
    groups_apart,
    is_listed,
    is_negation,
)

__all__ = ["is_acronym", "judge"]

_FARTHEST = 0.5  # share of letters that may change where a clinical word is put in
_SHORT_WORD = 3
_ACRONYM_LETTERS = range(2, 6)


@cache
def _acronyms() -> tuple[frozenset[str], frozenset[str], frozenset[str], frozenset[str]]:
    data = load("case_bound")
    upper = frozenset(data["acronyms"])
    bound = frozenset(form.casefold() for group in data["case_bound"] for form in group)
    lower = frozenset(word.casefold() for word in upper) - bound - frozenset(data["also_words"])
    return upper, lower, frozenset(data["plain"]), frozenset(data["function_words"])


def is_acronym(token: Token, shouted: bool) -> bool:
    """Whether a token is an acronym: a listed one, or two or three capitals in a text that does not shout."""
    upper, lower, plain, _ = _acronyms()
    if token.kind != "word":
        return False
    raw = token.raw
    if raw in plain:
        return False
    if raw.isupper() and len(raw) in _ACRONYM_LETTERS:
        return (
            raw in upper and raw.casefold() in lower if shouted else raw in upper or len(raw) <= _SHORT_WORD
        )
    return token.norm in lower


def judge(change: Change, texts: Pair) -> Reason | None:
    """Return why a change must not stand, or None where it is harmless or clearly a repair."""
    before, after = texts.before[change.i1 : change.i2], texts.after[change.j1 : change.j2]
    if change.shorthand:
        return None
    if not before:
        return _first(_lost_or_added(token, texts, "added") for token in after)
    if not after:
        return _deletion(change, texts)
    if any(token.kind != "word" for token in (*before, *after)):
        return measured(before, after, change, texts)
    if len(before) == len(after) == 1:
        return _replaced(before[0], after[0], texts)
    return _respaced(before, after, texts)


def _first(reasons: Iterable[Reason | None]) -> Reason | None:
    return next((reason for reason in reasons if reason), None)


def _lost_or_added(token: Token, texts: Pair, verb: str) -> Reason | None:
    """A word that vanishes or appears must carry nothing clinical."""
    word = token.norm
    if token.cue:
        return token.cue, f"{token.raw!r} {verb}"
    if is_acronym(token, texts.shouted):
        return "acronym", f"{token.raw!r} {verb}"
    if word in texts.moved:
        return None
    loss = "content_loss" if verb == "removed" else "content_gain"
    if texts.clinical(word):
        return loss, f"clinical word {token.raw!r} {verb}"
    if len(word) > _SHORT_WORD and not texts.known(word):
        return loss, f"unknown word {token.raw!r} {verb}"
    return None


def _deletion(change: Change, texts: Pair) -> Reason | None:
    """Words vanished; one of two equal words side by side says nothing."""
    stays = {token.norm for token in texts.after}

    def repeated(at: int) -> bool:
        word = texts.before[at].norm
        beside = (texts.before[place].norm for place in (at - 1, at + 1) if 0 <= place < len(texts.before))
        return not texts.before[at].cue and word in stays and word in beside

    return _first(
        _lost_or_added(texts.before[at], texts, "removed")
        for at in range(change.i1, change.i2)
        if not repeated(at)
    )


def _replaced(old: Token, new: Token, texts: Pair) -> Reason | None:
    """One word for one word."""
    detail = f"{old.raw!r} became {new.raw!r}"
    if any(c.isdigit() for c in new.raw):
        return "number", detail
    before, after = old.norm, new.norm
    abbreviation = ambiguous(before) and texts.clinical(after)
    if abbreviation or is_acronym(old, texts.shouted) or is_acronym(new, texts.shouted):
        moved = swapped(before, after) and not texts.known(before) and not old.raw.isupper()
        return None if moved else ("acronym", detail)
    if old.cue:
        return old.cue, detail
    if new.cue:
        return _cue_made(old, new, texts, detail)
    if not old.suspect and texts.known(before):
        return _known_swapped(before, after, texts, detail)
    near = nearby_cue(before, after)
    if near:
        invariant = "negation" if is_negation(near) else "laterality"
        return invariant, f"{detail}; it is nearer to {near!r}"
    return _made(before, after, texts, detail)


def _made(before: str, after: str, texts: Pair, detail: str) -> Reason | None:
    """A misspelt word became a term: the evidence must point to no opposite or look-alike of it."""
    other = rival(before, after, texts.known)
    if other is None:
        return None
    if other != before:
        return groups_apart(after, other) or "look_alike_term", f"{detail}; it may be {other!r} as well"
    special = group_invariant(after)
    letters = max(len(before), len(after))
    if special or (texts.clinical(after) and distance(unmask(before), after) > _FARTHEST * letters):
        return special or "content_gain", f"{detail}; too far from it"
    lost = len(before) > _SHORT_WORD and not texts.known(before)
    return ("content_loss", f"{detail}; too far from it") if lost else None


def _cue_made(old: Token, new: Token, texts: Pair, detail: str) -> Reason | None:
    """A word became a negation, direction or number word: only from a slip that can be no other word."""
    slip = not texts.known(old.norm) or old.suspect
    if swapped(old.norm, new.norm) and not is_listed(old.norm) and old.norm not in _acronyms()[3]:
        slip = True
    if not slip:
        return new.cue, detail
    if new.cue in ("negation", "number"):
        other = negation_rival(old.norm, new.norm, texts.known)
    else:
        other = rival(old.norm, new.norm, texts.known)
    if other is None:
        return None
    return new.cue, detail if other == old.norm else f"{detail}; it may be {other!r} as well"


def _known_swapped(before: str, after: str, texts: Pair, detail: str) -> Reason | None:
    """A known word became another word."""
    broken = clinical_pair(before, after) or ("known_medical_term" if texts.clinical(before) else None)
    return (broken, detail) if broken else _made(before, after, texts, detail)


def _respaced(before: Sequence[Token], after: Sequence[Token], texts: Pair) -> Reason | None:
    """Words joined or parted, with or without a slip besides."""
    detail = f"{show(before)!r} became {show(after)!r}"
    old, new = "".join(t.norm for t in before), "".join(t.norm for t in after)
    if any(is_acronym(t, texts.shouted) for t in (*before, *after)) and old != new:
        return "acronym", detail
    if _marks(before, texts) != _marks(after, texts):
        return _cue_respaced(before, after, texts, detail)
    if old == new or unmask(old) == new:
        listed = group_invariant(old) if len(before) == 1 and texts.known(old) else None
        return (listed, detail) if listed else None
    kept = {t.norm for t in after}
    lost = next(
        (t for t in before if t.norm not in kept and is_real(t.norm, texts.known) and texts.clinical(t.norm)),
        None,
    )
    if lost is not None:
        return "known_medical_term", detail
    if len(after) == 1:
        return _made(old, new, texts, detail)
    gained = [t for t in after if t.norm not in {s.norm for s in before} and texts.clinical(t.norm)]
    return _first(_made(_rest(old, after, t), t.norm, texts, detail) for t in gained)


def _cue_respaced(before: Sequence[Token], after: Sequence[Token], texts: Pair, detail: str) -> Reason | None:
    """Spacing that makes or unmakes a cue: only where the letters can be read in no other way."""
    old, new = unmask("".join(t.norm for t in before)), "".join(t.norm for t in after)
    invariant = next((t.cue for t in (*after, *before) if t.cue), "negation")
    affixal = any(_negates(t, texts) for t in (*before, *after))
    if affixal or any(t.cue for t in before) or all(is_real(t.norm, texts.known) for t in before):
        return invariant, detail
    if len(after) == 1:
        other = (
            rival(old, new, texts.known)
            if invariant == "laterality"
            else negation_rival(old, new, texts.known)
        )
        return None if other is None else (invariant, f"{detail}; it may be {other!r} as well")
    if old != new:
        return invariant, detail
    wanted = tuple(t.norm for t in after)
    for words in words_in(old, len(after), texts.known):
        if words != wanted:
            return invariant, f"{detail}; it may be {' '.join(words)!r} as well"
    return None


def _rest(letters: str, after: Sequence[Token], token: Token) -> str:
    """The letters that are left for one of the words when the others are taken off at both ends."""
    words = [t.norm for t in after]
    at = words.index(token.norm)
    return letters.removeprefix("".join(words[:at])).removesuffix("".join(words[at + 1 :]))


def _negates(token: Token, texts: Pair) -> bool:
    """Whether a token is a word with a negating prefix: atypical, unaffected."""
    root = affixal_root(token.norm)
    return root is not None and texts.known(root)


def _marks(tokens: Sequence[Token], texts: Pair) -> list[str]:
    """The cues and negating prefixes in order; ``non contrast`` and ``noncontrast`` are the same mark."""
    marks: list[str] = []
    for at, token in enumerate(tokens):
        if token.norm == "non" and at + 1 < len(tokens):
            marks.append("non" + tokens[at + 1].norm)
        elif token.cue or _negates(token, texts):
            marks.append(token.norm)
    return marks
