"""Which tokens of a text became which tokens of another: pairs, joined and parted words, gaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from imc_agents.text.clinical.evidence import distance
from imc_agents.text.clinical.tokens import Token

__all__ = ["Change", "changes"]

Expands = Callable[[int, int, int, int], bool]
"""Whether tokens ``i1:i2`` of the first text are shorthand for tokens ``j1:j2`` of the second."""

_GAP = 0.8  # cost of a deleted or inserted token
_REPLACED = 0.2  # cost of a pair beside its distance per letter
_SPACING = 0.25  # cost of words joined or parted
_RESPACED = 0.6  # the same with a slip besides, beside its distance per letter
_MOVED = 1.7  # cost of a pair of which one word stands elsewhere in the other text: it has rather moved
_FAR = 0.6  # distance per letter from which two words have nothing to do with each other
_EXPANDED = 0.1  # cost of writing out shorthand
_LONGEST_SHORT = 3
_LONGEST_LONG = 6
_LONGEST_JOIN = 4
_LARGEST_BLOCK = 2500  # pairs of tokens that are aligned without anchors
_QUICK_BLOCK = 30


@dataclass(frozen=True, slots=True)
class Change:
    """Tokens ``i1:i2`` of the text before became tokens ``j1:j2`` of the text after; one may be empty."""

    i1: int
    i2: int
    j1: int
    j2: int
    shorthand: bool = False


def changes(
    before: Sequence[Token], after: Sequence[Token], expands: Expands, *, thorough: bool = False
) -> list[Change]:
    """Return what changed between two texts, in order; tokens that are equal in form are left out.

    ``thorough`` weighs all explanations of longer stretches instead of anchoring them at equal words.
    """
    a, b = [token.norm for token in before], [token.norm for token in after]
    head = 0
    while head < min(len(a), len(b)) and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    blocks = [(head, len(a) - tail, head, len(b) - tail)]
    if (len(a) - tail - head) * (len(b) - tail - head) > (_LARGEST_BLOCK if thorough else _QUICK_BLOCK):
        matcher = SequenceMatcher(None, a[head : len(a) - tail], b[head : len(b) - tail], autojunk=False)
        blocks = [
            (head + i1, head + i2, head + j1, head + j2)
            for tag, i1, i2, j1, j2 in matcher.get_opcodes()
            if tag != "equal"
        ]
    return [change for block in blocks for change in _align(a, b, block, expands)]


def _align(a: list[str], b: list[str], block: tuple[int, int, int, int], expands: Expands) -> list[Change]:
    """Cheapest explanation of a block, by dynamic programming over its tokens."""
    i0, i9, j0, j9 = block
    if i9 - i0 <= 1 and j9 - j0 <= 1:
        return [Change(i0, i9, j0, j9, expands(i0, i9, j0, j9))] if i9 > i0 or j9 > j0 else []
    best: dict[tuple[int, int], tuple[float, tuple[int, int] | None, Change | None]] = {
        (i0, j0): (0.0, None, None)
    }
    for i in range(i0, i9 + 1):
        for j in range(j0, j9 + 1):
            if (i, j) not in best:
                continue
            cost = best[i, j][0]
            for change, step in _steps(a, b, (i, i9, j, j9), expands):
                to, total = (change.i2, change.j2), cost + step
                if to not in best or total < best[to][0] - 1e-9:
                    best[to] = (total, (i, j), change)
    found: list[Change] = []
    place: tuple[int, int] | None = (i9, j9)
    while place is not None:
        _, place_before, change = best[place]
        if change is not None and a[change.i1 : change.i2] != b[change.j1 : change.j2]:
            found.append(change)
        place = place_before
    return found[::-1]


def _steps(
    a: list[str], b: list[str], block: tuple[int, int, int, int], expands: Expands
) -> list[tuple[Change, float]]:
    i, i9, j, j9 = block
    steps: list[tuple[Change, float]] = []
    if i < i9 and j < j9 and a[i] == b[j]:
        steps.append((Change(i, i + 1, j, j + 1), 0.0))
    if i < i9:
        steps.append((Change(i, i + 1, j, j), _GAP))
    if j < j9:
        steps.append((Change(i, i, j, j + 1), _GAP))
    for k in range(1, min(_LONGEST_JOIN, i9 - i) + 1):
        for m in range(1, min(_LONGEST_JOIN, j9 - j) + 1):
            first, second = "".join(a[i : i + k]), "".join(b[j : j + m])
            if k > 1 and m > 1:
                if first == second and a[i] != b[j]:
                    steps.append((Change(i, i + k, j, j + m), _SPACING))
                continue
            longest = max(len(first), len(second))
            if k + m > 2 and first != second and (second in a[i : i + k] or first in b[j : j + m]):
                continue  # a word beside one that stays has come or gone
            if k + m > 2 and abs(len(first) - len(second)) > longest // 3:
                continue
            share = distance(first, second) / longest
            if k == m:
                step = _MOVED if share > _FAR and (first in b or second in a) else share + _REPLACED
                steps.append((Change(i, i + 1, j, j + 1), step))
            elif share < _FAR:
                step = share + (_SPACING if first == second else _RESPACED)
                steps.append((Change(i, i + k, j, j + m), step))
    for k in range(1, min(_LONGEST_SHORT, i9 - i) + 1):
        for m in range(1, min(_LONGEST_LONG, j9 - j) + 1):
            if a[i : i + k] != b[j : j + m] and expands(i, i + k, j, j + m):
                steps.append((Change(i, i + k, j, j + m, shorthand=True), _EXPANDED))
    return steps
