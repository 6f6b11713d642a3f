"""Writes a report as Markdown and as LaTeX (``booktabs``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from imc_agents.bench.report.document import Cell, Document, Head, Sheet, fitting

__all__ = ["latex", "latex_escape", "markdown"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "·": r"\textperiodcentered{}",
    "–": "--",
    "†": r"$^{\dagger}$",
} | {mark: f"\\{mark}" for mark in "&%$#_"}
_PAGE_WIDTH = 130  # letters of \footnotesize and gaps of 5 pt that fit into the text width of an A4 page
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#])")


def markdown(document: Document) -> str:
    """Return a report as Markdown with pipe tables."""
    lines = [f"# {_plain(document.title)}", ""]
    for remark in document.remarks:
        lines += [_plain(remark), ""]
    for sheet in document.sheets:
        lines += [f"## {_plain(sheet.title)}", "", *_pipe_table(sheet), ""]
        for note in sheet.notes:
            lines += [_plain(note), ""]
    for item in document.items:
        lines += [f"### {_plain(item.title)}", ""]
        lines += [f"- {_plain(label)}: {_plain(value)}" for label, value in item.fields]
        lines.append("")
    return "\n".join(lines)


def latex(document: Document) -> str:
    r"""Return the tables of a report as LaTeX floats; they need ``\usepackage{booktabs}``."""
    lines = [f"% {_comment(document.title)}", r"% needs \usepackage{booktabs}"]
    lines += [f"% {_comment(remark)}" for remark in document.remarks]
    for sheet in document.sheets:
        lines += ["", *_float(sheet)]
    for item in document.items:
        lines += ["", rf"\paragraph{{{latex_escape(item.title)}}}", r"\begin{description}"]
        lines += [rf"  \item[{latex_escape(label)}] {latex_escape(value)}" for label, value in item.fields]
        lines.append(r"\end{description}")
    return "\n".join(lines) + "\n"


def latex_escape(text: str) -> str:
    """Return a text with everything escaped that LaTeX would read as a command."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _comment(text: str) -> str:
    return " ".join(text.split())


def _pipe_table(sheet: Sheet) -> list[str]:
    heads = [
        _plain(" ".join(filter(None, (head.name, f"({head.group})" if head.group else ""))))
        for head in sheet.columns
    ]
    lines = [
        _pipes([_plain(sheet.first), *heads]),
        _pipes(["---", *("---:" for _ in heads)]),
    ]
    lines += [_pipes([_plain(name), *(_markdown_cell(cell) for cell in cells)]) for name, cells in sheet.rows]
    return lines


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    text += ("†" if cell.partial else "") + _plain(cell.mark)
    return f"{text} ({cell.interval})" if cell.interval else text


def _plain(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _float(sheet: Sheet) -> list[str]:
    lines = [
        r"\begin{table*}",
        r"\centering\footnotesize\setlength{\tabcolsep}{2.5pt}",
        rf"\caption{{{latex_escape(' '.join([sheet.title + '.', *sheet.notes]))}}}",
    ]
    for at, columns in enumerate(fitting(sheet, _PAGE_WIDTH)):
        lines += [r"\par\medskip" if at else r"\par\smallskip", *_tabular(sheet, columns)]
    return [*lines, r"\end{table*}"]


def _tabular(sheet: Sheet, columns: Sequence[int]) -> list[str]:
    """Some of the columns as one table."""
    heads = [sheet.columns[at] for at in columns]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
        r"\toprule",
        *_group_heads(heads),
        _cells([latex_escape(sheet.first), *(latex_escape(head.name) for head in heads)]),
        r"\midrule",
    ]
    for name, cells in sheet.rows:
        chosen = [cells[at] for at in columns]
        lines.append(_cells([latex_escape(name), *(_latex_cell(cell) for cell in chosen)]))
        if any(cell.interval for cell in chosen):
            lines.append(_cells(["", *(_latex_interval(cell) for cell in chosen)]))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _group_heads(columns: Sequence[Head]) -> list[str]:
    """A line with what the columns stand under, and a rule below each."""
    heads, rules = [""], ""
    at = 2
    for group, members in groupby(columns, key=lambda head: head.group):
        count = len(list(members))
        heads += [rf"\multicolumn{{{count}}}{{c}}{{{latex_escape(group)}}}"] if group else [""] * count
        rules += rf"\cmidrule(lr){{{at}-{at + count - 1}}}" if group else ""
        at += count
    return [_cells(heads), rules] if rules else []


def _cells(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: Cell) -> str:
    text = latex_escape(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    return text + (r"$^{\dagger}$" if cell.partial else "") + (rf"$^{{{cell.mark}}}$" if cell.mark else "")


def _latex_interval(cell: Cell) -> str:
    return rf"{{\scriptsize {latex_escape(cell.interval)}}}" if cell.interval else ""
