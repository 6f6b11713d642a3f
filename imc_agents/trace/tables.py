"""Tables over many questions: the samples of a run, and what each agent did and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from imc_agents.trace.diff import word_diff
from imc_agents.trace.look import Look, inert, shorten
from imc_agents.trace.marks import FATE_MARKS, FLAG_STYLE, STATUS_STYLES, counted, duration
from imc_agents.trace.rounds import Fate
from imc_agents.trace.sample import Sample
from imc_agents.trace.stats import AgentStats, TraceStats

__all__ = ["samples_table", "stats_table"]

_ID_CELLS = 18
_QUESTION_CHARS = 160
_COUNTED: tuple[Fate, ...] = ("accepted", "ambiguous", "vetoed")
_NUMBER_LIMIT = 10_000_000


def samples_table(samples: Sequence[Sample]) -> RenderableType:
    """Return one row a sample: id, status and the question as a word diff, flags and errors below it."""
    return _SamplesTable(samples)


def stats_table(stats: TraceStats) -> RenderableType:
    """Return what each agent did and cost, the sums, and which invariants the guard defended."""
    return _StatsTable(stats)


@dataclass(frozen=True)
class _SamplesTable:
    samples: Sequence[Sample]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        look = Look.of(console, options)
        table = _table()
        table.add_column("row", justify="right", no_wrap=True, style="dim")
        table.add_column("id", max_width=_ID_CELLS, overflow="fold", style="bold")
        table.add_column("status", no_wrap=True)
        table.add_column("question", overflow="fold")
        for sample in self.samples:
            status = sample.refinement.status
            table.add_row(
                f"{sample.row_index + 1:,}",
                Text(shorten(sample.id, look, 40)),
                Text(status, STATUS_STYLES[status]),
                _question(sample, look),
            )
        yield table


def _question(sample: Sample, look: Look) -> Text:
    outcome = sample.refinement
    if outcome.changed:
        question = word_diff(outcome.original, outcome.refined, look)
    else:
        question = Text(shorten(outcome.original, look, _QUESTION_CHARS))
    for flag in outcome.flags:
        question.append("\n").append(shorten(flag, look, _QUESTION_CHARS), FLAG_STYLE)
    if outcome.error:
        question.append("\n").append(shorten(outcome.error, look, _QUESTION_CHARS), "red")
    return question


@dataclass(frozen=True)
class _StatsTable:
    stats: TraceStats

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        look = Look.of(console, options)
        yield Text(f"{counted(self.stats.questions, 'question')} with a trace", "dim")
        if any(agent.specialist for agent in self.stats.agents.values()):
            yield _specialists(self.stats, look)
        if self.stats.vetoed_edits or self.stats.vetoed_texts:
            yield _invariants(self.stats, look)
        yield _costs(self.stats, look)


def _specialists(stats: TraceStats, look: Look) -> Table:
    table = _table()
    table.add_column("specialist", overflow="fold", style="magenta")
    for heading in ("instantiated", "proposals", *_COUNTED):
        table.add_column(heading, justify="right", no_wrap=True)
    specialists = [agent for agent in stats.agents.values() if agent.specialist]
    for agent in specialists:
        table.add_row(Text(_name(agent, look)), *_made(agent))
    table.add_section()
    table.add_row("all", *_made(stats.total()), style="bold")
    return table


def _made(agent: AgentStats) -> list[Text]:
    fates = [_number(agent.fates.get(fate, 0), FATE_MARKS[fate].style) for fate in _COUNTED]
    return [_number(agent.instantiated), _number(agent.proposals), *fates]


def _costs(stats: TraceStats, look: Look) -> Table:
    table = _table()
    table.add_column("agent", overflow="fold", style="cyan")
    for heading in ("calls", "tokens read", "written", "time", "ms/question"):
        table.add_column(heading, justify="right", no_wrap=True)
    for agent in (agent for agent in stats.agents.values() if agent.cost.calls):
        style = "magenta" if agent.specialist else ""
        table.add_row(Text(_name(agent, look), style), *_spent(stats, agent))
    table.add_section()
    table.add_row("all", *_spent(stats, stats.total()), style="bold")
    table.caption = (
        "Agents that called a model. Calls of many questions overlap, so their times exceed that of the run."
    )
    table.caption_justify = "left"
    return table


def _spent(stats: TraceStats, agent: AgentStats) -> list[Text]:
    cost = agent.cost
    tokens = [_number(cost.prompt_tokens), _number(cost.completion_tokens)]
    each = f"{stats.milliseconds_per_question(agent):,.1f}"
    return [_number(cost.calls), *tokens, Text(duration(cost.milliseconds)), Text(each)]


def _name(agent: AgentStats, look: Look) -> str:
    return shorten(agent.agent, look, 40)


def _number(number: int, style: str = "") -> Text:
    """Very large counts in millions, so that a table of a million questions fits too."""
    if number < _NUMBER_LIMIT:
        return Text(f"{number:,}", style if number else "dim")
    return Text(f"{number / 1e6:,.1f}M", style)


def _invariants(stats: TraceStats, look: Look) -> Table:
    table = _table()
    table.add_column("invariant defended", overflow="fold", style="red")
    for heading in ("edits vetoed", "texts reverted"):
        table.add_column(heading, justify="right", no_wrap=True)
    both = {
        name: (stats.vetoed_edits.get(name, 0), stats.vetoed_texts.get(name, 0))
        for name in (*stats.vetoed_edits, *stats.vetoed_texts)
    }
    for name, (edits, texts) in sorted(both.items(), key=lambda item: -sum(item[1])):
        table.add_row(Text(inert(name, look)), _number(edits), _number(texts))
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
