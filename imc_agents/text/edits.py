"""Span edits of a text: apply them, find them between two texts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher

__all__ = ["Edit", "apply_edits", "diff_edits", "split_words"]

_PIECE = re.compile(r"\s+|\w+(?:['\u2019-]\w+)*|[^\w\s]", re.UNICODE)


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the characters ``start:end`` of a text by ``after``.

    Attributes:
        start: Offset of the first replaced character.
        end: Offset behind the last replaced character; equal to start for an insertion.
        after: The replacement; empty for a deletion.
        kind: The noise kind that the edit undoes, e.g. ``typo``.
        role: The specialist that proposed it.
        slips: How many slips of the channel the edit explains (fractional where a channel weighs them).
    """

    start: int
    end: int
    after: str
    kind: str = ""
    role: str = ""
    slips: float = 1.0

    def before(self, text: str) -> str:
        """The characters that the edit replaces."""
        return text[self.start : self.end]

    def overlaps(self, other: Edit) -> bool:
        """Whether both edits touch a common place; two insertions at one place do."""
        if self.start == self.end or other.start == other.end:
            return self.start <= other.end and other.start <= self.end
        return self.start < other.end and other.start < self.end


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """Return the text with non-overlapping edits applied.

    Raises:
        ValueError: if two edits overlap or one lies outside the text.
    """
    out: list[str] = []
    at = 0
    for edit in sorted(edits, key=lambda e: (e.start, e.end)):
        if edit.start < at or edit.end > len(text) or edit.end < edit.start:
            raise ValueError(
                f"edit {edit} overlaps another one or lies outside the text of {len(text)} characters"
            )
        out.append(text[at : edit.start])
        out.append(edit.after)
        at = edit.end
    out.append(text[at:])
    return "".join(out)


def split_words(text: str) -> list[tuple[int, int]]:
    """Return the spans of words, runs of white space and single punctuation marks; together they cover the text."""
    return [match.span() for match in _PIECE.finditer(text)]


def diff_edits(before: str, after: str) -> list[Edit]:
    """Return word-level edits that turn ``before`` into ``after``."""
    a, b = split_words(before), split_words(after)
    matcher = SequenceMatcher(None, [before[i:j] for i, j in a], [after[i:j] for i, j in b], autojunk=False)
    edits: list[Edit] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        start = a[i1][0] if i1 < len(a) else len(before)
        end = a[i2 - 1][1] if i2 > i1 else start
        replacement = after[b[j1][0] : b[j2 - 1][1]] if j2 > j1 else ""
        edits.append(Edit(start, end, replacement))
    return edits
