"""Numbers, units and codes: they stay as they are, but for what can only be a spoilt word."""

from __future__ import annotations

from collections.abc import Sequence

from imc_agents.text.clinical import load
from imc_agents.text.clinical.align import Change
from imc_agents.text.clinical.evidence import distance
from imc_agents.text.clinical.pair import Pair, Reason, show
from imc_agents.text.clinical.tokens import Token, unmask

__all__ = ["measured"]

_SHORT_UNIT = 4  # letters up to which a unit is too short to be put right
_UNIT_SLIPS = 2


def measured(before: Sequence[Token], after: Sequence[Token], change: Change, texts: Pair) -> Reason | None:
    """Judge a change that touches a number, unit or code.

    Only spoilt everyday words (``1s``) and misspelt unit names (``centimetrs``) may be put right.
    """
    if len(before) == len(after) == 1 and (
        _is_everyday(before[0], after[0], change, texts) or _is_unit_name(before[0], after[0], texts)
    ):
        return None
    units = [token for token in (*before, *after) if token.kind == "unit"]
    numbers = [t.norm for t in before if t.kind == "number"], [t.norm for t in after if t.kind == "number"]
    invariant = "unit" if units and numbers[0] == numbers[1] else "number"
    return invariant, f"{show(before)!r} became {show(after)!r}"


def _is_unit_name(slip: Token, unit: Token, texts: Pair) -> bool:
    """Whether a slip in a written-out unit can be no other unit."""
    if slip.kind != "word" or unit.kind != "unit" or len(unit.norm) <= _SHORT_UNIT or texts.known(slip.norm):
        return False
    near = distance(slip.norm, unit.norm)
    others = (w for w in load("numbers")["unit_words"] if _unit_key(w) != _unit_key(unit.norm))
    return near <= _UNIT_SLIPS and all(
        distance(slip.norm, other) - near >= min(_UNIT_SLIPS, distance(unit.norm, other)) for other in others
    )


def _unit_key(word: str) -> str:
    """Plural and British spelling name the same unit."""
    return word.rstrip("s").replace("metre", "meter").replace("litre", "liter")


def _is_everyday(spoilt: Token, word: Token, change: Change, texts: Pair) -> bool:
    """Whether ``1s``, ``i5`` or ``5o`` stands where only a word can stand, and is that word."""
    if not (spoilt.suspect and spoilt.kind == "number" and word.kind == "word") or word.cue:
        return False
    data = load("numbers")
    letters = unmask(spoilt.norm)
    if word.norm not in data["spoilt_words"] or distance(letters, word.norm) > 1:
        return False
    previous = texts.before[change.i1 - 1] if change.i1 else None
    following = texts.before[change.i2] if change.i2 < len(texts.before) else None
    if spoilt.norm in data["spoilt_common"]:
        counts = previous is not None and (previous.kind != "word" or previous.norm in data["number_context"])
        return not counts and (following is None or following.kind == "word")
    asks = previous is not None and unmask(previous.norm) in data["question_words"]
    points = following is not None and any(
        distance(unmask(following.norm), article) <= (len(article) > 2) for article in data["pointing_words"]
    )
    return points and (asks or not spoilt.norm[0].isalpha() or letters == word.norm)
