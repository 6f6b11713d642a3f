"""A list on the terminal that stays readable on 80 columns: a name, a headline beside it, a dim line below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Item", "print_items"]


class Item(NamedTuple):
    """One entry.

    Attributes:
        name: Left column.
        headline: What matters most.
        detail: Shown dim below the headline.
        style: Style of the name, e.g. ``cyan``, ``dim``, ``red``.
    """

    name: str
    headline: str
    detail: str
    style: str = "cyan"


def print_items(items: Sequence[Item]) -> None:
    """Print the entries on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for item in items:
        dim = "dim" if item.style == "dim" else ""
        table.add_row(
            Text(item.name, item.style), Text.assemble((item.headline, dim), "\n", (item.detail, "dim"))
        )
    Console(highlight=False).print(table)
