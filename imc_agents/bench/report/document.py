"""What a report shows, apart from how: tables of figures, remarks and quoted cases. Each format draws this."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cell", "Document", "Head", "Item", "Sheet", "figure_text", "fitting", "interval_text"]


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


def figure_text(cell: Cell) -> str:
    """Return the figure with its marks."""
    return cell.text + ("†" if cell.partial else "") + cell.mark


def fitting(sheet: Sheet, width: int) -> list[list[int]]:
    """Split the columns into tables that fit below each other.

    Args:
        sheet: The table.
        width: Letters that a table may be wide, the gaps of three between columns included.
    """
    room = width - max(len(sheet.first), *(len(name) for name, _ in sheet.rows)) - 4
    blocks: list[list[int]] = [[]]
    used = 0
    for at, head in enumerate(sheet.columns):
        cells = [cells[at] for _, cells in sheet.rows]
        widest = max(max(len(figure_text(cell)), len(cell.interval)) for cell in cells)
        needed = max(len(head.name), widest) + 3
        if blocks[-1] and used + needed > room:
            blocks.append([])
            used = 0
        blocks[-1].append(at)
        used += needed
    return blocks
