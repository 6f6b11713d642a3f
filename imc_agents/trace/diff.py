"""Word diffs: between two texts, and of one edit inside its sentence."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from imc_agents.text.edits import Edit, diff_edits, split_words
from imc_agents.trace.look import Look, inert, shorten

__all__ = ["edit_in_context", "replacement", "word_diff"]

# The alignment is quadratic; where two texts differ over more than this, they differ as a whole.
_ALIGNED_CHARS = 4000
_CONTEXT_CHARS = 60
_SEGMENT_CHARS = 240
_CHANGES = 60


def word_diff(before: str, after: str, look: Look | None = None, *, crop: bool = True) -> Text:
    """Return the words that changed, removed ones in red strike, added ones in green, inside their context.

    Args:
        before: The text as it was.
        after: The text as it is.
        look: What the console can show; without colour the marks ``[-removed-]{+added+}`` are written.
        crop: Leave out unchanged stretches far from a change, and the middle of very long changes.
    """
    look = look or Look()
    edits = _changes(before, after)
    out = Text()
    at = 0
    for count, edit in enumerate(edits):
        if crop and count == _CHANGES:
            rest = len(edits) - count
            return out.append(f" {look.ellipsis}and {rest:,} more changes{look.ellipsis}", "dim")
        out.append(_unchanged(before[at : edit.start], look, crop=crop, first=at == 0, last=False))
        out.append_text(replacement(before[edit.start : edit.end], edit.after, look, crop=crop))
        at = edit.end
    out.append(_unchanged(before[at:], look, crop=crop, first=not edits, last=True))
    return out


def replacement(before: str, after: str, look: Look, *, crop: bool = True) -> Text:
    """Return one change: what was removed, then what was added."""
    limit = _SEGMENT_CHARS if crop else max(len(before), len(after))
    removed, added = (_visible(shorten(part, look, limit), look) for part in (before, after))
    out = Text()
    if removed:
        out.append(removed if look.colour else f"[-{removed}-]", "red strike")
    if removed and added and look.colour:
        # Styles alone would read as one word wherever the text is copied from the terminal.
        out.append(look.pick("→", "->"), "dim")
    if added:
        out.append(added if look.colour else f"{{+{added}+}}", "bold green")
    return out


def edit_in_context(text: str, edit: Edit, width: int, look: Look) -> tuple[Text, int]:
    """Return one edit with as many words around it as fit into ``width`` cells, and the cell where it begins.

    The edit itself is never cut for the width; one that is longer than ``width`` wraps.
    """
    core = replacement(edit.before(text), edit.after, look)
    room = max(0, width - core.cell_len)
    right = _head(text[edit.end :], room // 2, look)
    left = _tail(text[: edit.start], room - cell_len(right), look)
    return Text.assemble((left, "dim"), core, (right, "dim")), cell_len(left)


def _changes(before: str, after: str) -> list[Edit]:
    """Word-level edits, with what both texts share at their ends set aside first."""
    a, b = split_words(before), split_words(after)
    head = 0
    while head < min(len(a), len(b)) and before[slice(*a[head])] == after[slice(*b[head])]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and before[slice(*a[-1 - tail])] == after[slice(*b[-1 - tail])]:
        tail += 1
    start = a[head][0] if head < len(a) else len(before)
    end = a[len(a) - tail][0] if tail else len(before)
    new_end = b[len(b) - tail][0] if tail else len(after)
    old, new = before[start:end], after[start:new_end]
    if old == new:
        return []
    if max(len(old), len(new)) > _ALIGNED_CHARS:
        return [Edit(start, end, new)]
    return [Edit(start + edit.start, start + edit.end, edit.after) for edit in diff_edits(old, new)]


def _unchanged(part: str, look: Look, *, crop: bool, first: bool, last: bool) -> str:
    keep_left = 0 if first and not last else _CONTEXT_CHARS
    keep_right = 0 if last and not first else _CONTEXT_CHARS
    if first and last:
        keep_left = keep_right = _SEGMENT_CHARS
    if not crop or len(part) <= keep_left + keep_right + len(look.ellipsis) + 2:
        return inert(part, look)
    left, right = part[:keep_left], part[len(part) - keep_right :]
    return inert(left, look) + look.ellipsis + inert(right, look)


def _visible(part: str, look: Look) -> str:
    """A change that is only blanks would not be seen."""
    return part if part.strip(" ") or not part else look.pick("␣", "_") * len(part)


def _head(text: str, room: int, look: Look) -> str:
    """The first words of a text that fit."""
    whole = inert(text[: room + 1], look)
    if len(text) <= room + 1 and cell_len(whole) <= room:
        return whole
    kept = ""
    for start, end in split_words(text[: room + 1]):
        word = inert(text[start:end], look)
        if cell_len(kept + word) > room - len(look.ellipsis) or end == room + 1:
            break
        kept += word
    return kept.rstrip(" ") + look.ellipsis if room >= len(look.ellipsis) else ""


def _tail(text: str, room: int, look: Look) -> str:
    """The last words of a text that fit."""
    cut = max(0, len(text) - room - 1)
    whole = inert(text[cut:], look)
    if not cut and cell_len(whole) <= room:
        return whole
    kept = ""
    for start, end in reversed(split_words(text[cut:])):
        word = inert(text[cut + start : cut + end], look)
        if cell_len(word + kept) > room - len(look.ellipsis) or (start == 0 and cut):
            break
        kept = word + kept
    return look.ellipsis + kept.lstrip(" ") if room >= len(look.ellipsis) else ""
