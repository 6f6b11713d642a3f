"""The edits that one specialist proposed, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from imc_agents.text.edits import Edit
from imc_agents.trace.diff import edit_in_context, replacement
from imc_agents.trace.events import Vetoed
from imc_agents.trace.look import LINE_CHARS, Look, inert, number, shorten
from imc_agents.trace.marks import FATE_MARKS
from imc_agents.trace.rounds import Candidate, Fate, Specialist

__all__ = ["Proposals", "veto_line"]

_MAX_REJECTED = 3
_LOST: frozenset[Fate] = frozenset({"shared", "outranked", "rejected", "unjudged"})
_ROOMY = 84
_FATE_CELLS = 13
_LEAST_CELLS = 16
_SCORE_CELLS = {"gain": 7, "slip": 6, "margin": 7, "meaning": 8}


@dataclass(frozen=True)
class Proposals:
    """The edits of one specialist, one a line, columns aligned across lines; vetoes on the line below theirs."""

    specialist: Specialist
    look: Look

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        places = self.specialist.candidates
        judged = any(c.assessed and c.assessed.meaning is not None for place in places for c in place)
        scores = ["gain", "slip", "margin", *(["meaning"] if judged else [])]
        indent = 2 if options.max_width >= _ROOMY else 0
        taken = indent + _FATE_CELLS + sum(_SCORE_CELLS[name] for name in scores)
        width = max(options.max_width - taken, _LEAST_CELLS)
        header = Text(" " * (indent + _FATE_CELLS + width), "dim")
        yield header.append("".join(name.rjust(_SCORE_CELLS[name]) for name in scores))
        for place in places:
            shown, hidden = _collapse(place)
            column = 0
            for candidate in shown:
                above = (
                    column
                    if candidate.edit.start == place[0].edit.start and candidate is not shown[0]
                    else None
                )
                text, column = self._edit(candidate, width - 1, above)
                yield Padding(_proposal_line(candidate, text, scores, width, self.look), (0, 0, 0, indent))
                if candidate.vetoed:
                    yield Padding(veto_line(candidate.vetoed, self.look), (0, 0, 0, indent + 2))
            if hidden:
                yield Text(" " * (indent + _FATE_CELLS + column) + _hidden(hidden), "dim")

    def _edit(self, candidate: Candidate, width: int, above: int | None) -> tuple[Text, int]:
        """The edit in its sentence and the cell where it begins; alone where its place is the same as ``above``."""
        record = candidate.edit
        if above is None and candidate.text[record.start : record.end] == record.before:
            edit = Edit(record.start, record.end, record.after)
            return edit_in_context(candidate.text, edit, width, self.look)
        change = replacement(record.before, record.after, self.look)
        column = max(0, min(above or 0, width - change.cell_len))
        return Text(" " * column).append_text(change), column


def _proposal_line(candidate: Candidate, text: Text, scores: list[str], width: int, look: Look) -> Table:
    mark = FATE_MARKS[candidate.fate]
    fate = Text(f"{mark.of(look)} {candidate.fate}", mark.style)
    style = "dim" if candidate.fate in _LOST else ""
    cells = [_SCORE_CELLS[name] for name in scores]
    line = Table.grid()
    line.add_column(width=_FATE_CELLS, no_wrap=True)
    line.add_column(width=width, overflow="fold")
    if candidate.fate == "shared" and candidate.judged_for:
        line.add_column(width=sum(cells), justify="right", overflow="fold")
        line.add_row(fate, text, Text(f"see {shorten(candidate.judged_for, look, 40)}"), style=style)
        return line
    for cell in cells:
        line.add_column(width=cell, justify="right", no_wrap=True, overflow="fold")
    line.add_row(fate, text, *_scores(candidate, scores), style=style)
    return line


def _scores(candidate: Candidate, names: list[str]) -> list[Text]:
    event = candidate.assessed
    if event is None:
        return [Text("")] * len(names)
    margin = "green" if event.margin > 0 else "red"
    cells = [
        Text(number(event.gain, signed=True)),
        Text(number(event.slip_cost)),
        Text(number(event.margin, signed=True), margin),
    ]
    if "meaning" in names:
        cells.append(Text("" if event.meaning is None else f"{event.meaning:.2f}"))
    return cells


def _collapse(place: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """What to show of the candidates for one place, and the also-rans to count."""
    lost = [c for c in place if c.fate in _LOST]
    hidden = lost[_MAX_REJECTED:]
    return [c for c in place if c not in hidden], hidden


def _hidden(candidates: Sequence[Candidate]) -> str:
    margins = [c.assessed.margin for c in candidates if c.assessed]
    best = f", best {number(max(margins), signed=True)}" if margins else ""
    return f"+{len(candidates)} more{best}"


def veto_line(event: Vetoed, look: Look) -> RenderableType:
    """Return which invariant broke and how."""
    scope = ("whole text reverted: " if event.scope == "text" else "", "red")
    detail = (f": {shorten(event.detail, look, LINE_CHARS)}", "red")
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    corner = Text(look.pick("└", "`"), "red")
    line.add_row(corner, Text.assemble(scope, (inert(event.invariant, look), "bold red"), detail))
    return line
