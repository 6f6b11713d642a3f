"""How a trace may look on a given console, and how foreign text is shown without doing anything to it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text

__all__ = ["LINE_CHARS", "Look", "bar", "inert", "number", "shorten"]

LINE_CHARS = 400
"""How much of a reason, detail or error is shown."""

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True, slots=True)
class Look:
    """What the console can show.

    Attributes:
        colour: Whether colours arrive; without them diffs carry ``[-x-]{+y+}`` marks.
        ascii_only: Whether everything must be written in ASCII.
    """

    colour: bool = True
    ascii_only: bool = False

    @classmethod
    def of(cls, console: Console, options: ConsoleOptions) -> Look:
        """Read off a console what it can show."""
        colour = console.color_system is not None and not console.no_color
        return cls(colour=colour, ascii_only=options.ascii_only)

    def pick(self, fancy: str, plain: str) -> str:
        """Return ``plain`` where only ASCII can be shown, else ``fancy``."""
        return plain if self.ascii_only else fancy

    @property
    def ellipsis(self) -> str:
        """Stands for left-out text."""
        return self.pick("…", "...")

    @property
    def dot(self) -> str:
        """Separates the parts of a line."""
        return self.pick(" · ", " - ")


def inert(text: str, look: Look) -> str:
    r"""Return the text with everything that could act on a terminal written out as an escape.

    Control characters, ANSI escapes, bidi overrides, other invisible format characters, lone surrogates and line
    breaks become ``\x1b``, ``\u202e`` and the like; spaces other than the blank too, since they change a text
    unseen. In ASCII everything beyond ASCII is escaped.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if _acts(char, look) else char for char in text)


def _acts(char: str, look: Look) -> bool:
    if " " <= char <= "~":
        return False
    category = unicodedata.category(char)
    return look.ascii_only or category in _INVISIBLE or category == "Zs"


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shorten(text: str, look: Look, limit: int) -> str:
    """Return the text inert and in at most about ``limit`` characters, the middle left out and counted."""
    if len(text) <= limit:
        return inert(text, look)
    head = limit * 2 // 3
    tail = limit - head
    left_out = f" {look.ellipsis}{len(text) - limit:,} characters{look.ellipsis} "
    return inert(text[:head], look) + left_out + inert(text[-tail:], look)


def number(value: float, *, signed: bool = False) -> str:
    """Return nats with one decimal and, if asked, their sign; never ``-0.0``."""
    rounded = round(value, 1) + 0.0
    return f"{rounded:+.1f}" if signed else f"{rounded:.1f}"


def bar(share: float, width: int, look: Look, style: str) -> Text:
    """Return a bar ``width`` cells wide, filled for ``share`` in [0, 1]."""
    share = min(max(share, 0.0), 1.0) if share == share else 0.0
    halves = round(share * width * 2)
    filled = look.pick("━", "=") * (halves // 2) + look.pick("╸", "-") * (halves % 2)
    return Text.assemble((filled, style), " " * (width - len(filled)))
