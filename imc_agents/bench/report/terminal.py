"""Draws a report for a terminal; columns that do not fit beside each other go below each other."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from imc_agents.bench.report.document import Cell, Document, Item, Sheet, figure_text, fitting

__all__ = ["document_view"]


def document_view(document: Document, width: int) -> RenderableType:
    """Return a report for a terminal of so many columns."""
    parts: list[RenderableType] = [Text(document.title, "bold")]
    parts += [
        Text(remark, "yellow" if remark.startswith("Incomplete") else "") for remark in document.remarks
    ]
    for sheet in document.sheets:
        parts += [Text(), Text(sheet.title, "bold")]
        parts += [_table(sheet, columns) for columns in fitting(sheet, width)]
        parts += [Text(note, "dim") for note in sheet.notes]
    for item in document.items:
        parts += [Text(), Text(item.title, "bold"), *_fields(item)]
    return Group(*parts)


def _table(sheet: Sheet, columns: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(sheet.first, no_wrap=True, style="cyan")
    for at in columns:
        table.add_column(sheet.columns[at].name, justify="right", no_wrap=True)
    for name, cells in sheet.rows:
        table.add_row(Text(name), *(_text(cells[at]) for at in columns))
    return table


def _text(cell: Cell) -> Text:
    text = Text(figure_text(cell), "bold green" if cell.best else "")
    if cell.interval:
        text.append(f"\n{cell.interval}", "dim not bold")
    return text


def _fields(item: Item) -> list[RenderableType]:
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in item.fields:
        table.add_row(label, Text(value))
    return [table]
