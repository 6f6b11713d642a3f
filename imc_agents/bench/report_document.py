"""What a report shows, apart from how: tables of figures, remarks and quoted cases. Each format draws this."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cell", "Document", "Head", "Item", "Sheet", "interval_text"]


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a column.

    Attributes:
        name: Its name.
        group: What it stands under together with its neighbours; empty for nothing.
    """

    name: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure as it is printed.

    Attributes:
        text: The figure.
        interval: Its interval, smaller.
        mark: Stars of significance.
        best: Set off as the best of its column.
        partial: Marked as resting on a part of what was planned.
    """

    text: str
    interval: str = ""
    mark: str = ""
    best: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table.

    Attributes:
        title: Its caption.
        first: Head of the first column, which names the rows.
        columns: Heads of the others.
        rows: Name of the row, and a cell for each column.
        notes: Sentences below it.
    """

    title: str
    first: str
    columns: tuple[Head, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One quoted case: a title and labelled texts."""

    title: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report.

    Attributes:
        title: Its title.
        remarks: What must be known first.
        sheets: Tables.
        items: Quoted cases, below the tables.
    """

    title: str
    remarks: tuple[str, ...]
    sheets: tuple[Sheet, ...]
    items: tuple[Item, ...] = ()


def interval_text(low: float, high: float) -> str:
    """Return the ends of an interval without decimals; a dash would not do beside a minus sign."""
    ends = f"{low:.0f}", f"{high:.0f}"
    return " to ".join(ends) if low < 0 else "–".join(ends)
