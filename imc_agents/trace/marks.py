"""The marks, styles and wording that the tree and the tables share."""

from __future__ import annotations

from typing import NamedTuple

from imc_agents.refinement import Status
from imc_agents.trace.look import Look
from imc_agents.trace.rounds import Cost, Fate

__all__ = [
    "FATE_MARKS",
    "FLAG_STYLE",
    "STATUS_STYLES",
    "Mark",
    "cost_columns",
    "cost_parts",
    "counted",
    "duration",
]


class Mark(NamedTuple):
    """How an outcome is marked, so that it is told without colour too.

    Attributes:
        fancy: One character.
        plain: The same in ASCII.
        style: Its style.
    """

    fancy: str
    plain: str
    style: str

    def of(self, look: Look) -> str:
        """Return the character that the console can show."""
        return look.pick(self.fancy, self.plain)


FATE_MARKS: dict[Fate, Mark] = {
    "accepted": Mark("✓", "+", "bold green"),
    "ambiguous": Mark("?", "?", "yellow"),
    "vetoed": Mark("⊘", "!", "bold red"),
    "outranked": Mark("~", "~", "dim"),
    "shared": Mark("=", "=", "dim"),
    "rejected": Mark("✗", "x", "dim"),
    "unjudged": Mark("-", "-", "dim"),
}
"""How what became of an edit is marked."""

STATUS_STYLES: dict[Status, str] = {
    "ok": "green",
    "unchanged": "dim",
    "reverted": "yellow",
    "model_error": "red",
    "infra_error": "red",
    "data_error": "red",
    "timeout": "red",
}
"""How each status is coloured, everywhere."""

FLAG_STYLE = "magenta"
"""How flags for a person are coloured."""


def counted(number: int, noun: str) -> str:
    """Return ``1 edit``, ``2 edits``."""
    plural = "vetoes" if noun == "veto" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def duration(milliseconds: float) -> str:
    """Return a time in the unit that a person would use."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


def cost_parts(cost: Cost) -> tuple[str, str, str]:
    """Return calls, tokens (read+written) and time in words."""
    written = f"+{cost.completion_tokens:,}" if cost.completion_tokens else ""
    return counted(cost.calls, "call"), f"{cost.prompt_tokens:,}{written} tok", duration(cost.milliseconds)


def cost_columns(cost: Cost) -> str:
    """Return the same padded, so that costs stand below each other."""
    calls, tokens, time = cost_parts(cost)
    return f"{calls:>8} {tokens:>11} {time:>8}"
