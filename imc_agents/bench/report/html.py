"""Writes a report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from imc_agents.bench.report.document import Cell, Document, Item, Sheet

__all__ = ["html"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; }
th, td { padding: .25rem .6rem; text-align: right; vertical-align: top; white-space: nowrap; }
thead tr:last-child th { border-bottom: 1px solid; }
thead th.group { border-bottom: 1px solid #8888; text-align: center; font-weight: normal; }
th:first-child { text-align: left; }
tbody th { font-weight: normal; }
td small { display: block; opacity: .7; }
.note { font-size: .85rem; opacity: .8; margin: .3rem 0; max-width: 60rem; }
.remark { font-weight: bold; }
figure { margin: 1rem 0; } figure svg { background: #fff; height: auto; max-width: 100%; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dd { margin: 0; }
"""


def html(document: Document, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """Return a report as a page.

    Args:
        document: The report.
        pictures: Titles and SVG elements, shown below the tables.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(document.title)}</title><style>{_STYLE}</style></head>",
        f"<body><h1>{escape(document.title)}</h1>",
        *(f'<p class="remark">{escape(remark)}</p>' for remark in document.remarks),
        *(line for sheet in document.sheets for line in _section(sheet)),
    ]
    for title, svg in pictures:
        parts += [
            f"<h2>{escape(title)}</h2>",
            f'<figure role="img" aria-label="{escape(title)}">{svg}</figure>',
        ]
    parts += [line for item in document.items for line in _item(item)]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _section(sheet: Sheet) -> list[str]:
    groups, heads = [""], [f'<th scope="col">{escape(sheet.first)}</th>']
    for group, members in groupby(sheet.columns, key=lambda head: head.group):
        count = len(list(members))
        name = ' class="group" scope="colgroup"' if group else ""
        groups.append(f'<th colspan="{count}"{name}>{escape(group)}</th>')
    heads += [f'<th scope="col">{escape(head.name)}</th>' for head in sheet.columns]
    lines = [f"<h2>{escape(sheet.title)}</h2>", '<div class="wide"><table>', "<thead>"]
    if any(head.group for head in sheet.columns):
        lines.append(f"<tr><th></th>{''.join(groups)}</tr>")
    lines += [f"<tr>{''.join(heads)}</tr>", "</thead>", "<tbody>"]
    lines += [
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_cell(cell) for cell in cells)}</tr>'
        for name, cells in sheet.rows
    ]
    return [
        *lines,
        "</tbody></table></div>",
        *(f'<p class="note">{escape(note)}</p>' for note in sheet.notes),
    ]


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"<b>{text}</b>" if cell.best else text
    mark = ("†" if cell.partial else "") + cell.mark
    mark = f"<sup>{mark}</sup>" if mark else ""
    interval = f"<small>{escape(cell.interval)}</small>" if cell.interval else ""
    return f"<td>{text}{mark}{interval}</td>"


def _item(item: Item) -> list[str]:
    fields = "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in item.fields)
    return [f"<h2>{escape(item.title)}</h2>", f"<dl>{fields}</dl>"]
