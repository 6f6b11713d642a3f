"""What a run did, at its end and in ``imc runs show``: a table for people, a record for programs."""

from __future__ import annotations

from itertools import islice
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from imc_agents.refinement import STATUSES
from imc_agents.runs.execute import RunResult
from imc_agents.runs.schema import FAILED, Totals
from imc_agents.runs.store import RunStore, SampleRecord
from imc_agents.trace.events import Proposed
from imc_agents.trace.marks import STATUS_STYLES, counted

__all__ = ["most_telling", "summary_record", "summary_table"]

_MEANINGS = {
    "ok": "refined",
    "unchanged": "unchanged: found clean or left alone",
    "reverted": "reverted: edits made and taken back",
    "model_error": "failed: the model's reply was unusable",
    "infra_error": "failed: the backend did not serve",
    "data_error": "failed: the row cannot be used",
    "timeout": "failed: took too long",
}


def summary_record(result: RunResult) -> dict[str, Any]:
    """Return the summary as plain data."""
    totals = result.totals
    return {
        "run": result.folder.name,
        "folder": str(result.folder),
        "state": result.manifest.state,
        "rows": result.manifest.rows,
        **totals.record(),
        "seconds": round(result.seconds, 3),
        "questions_per_second": round(_rate(result), 3),
        **_engine(result),
        "output": None if result.output is None else str(result.output),
        "renamed": result.layout.renamed,
    }


def summary_table(result: RunResult) -> Table:
    """Return the summary as a table."""
    totals = result.totals
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False, title_justify="left")
    table.title = Text(counted(totals.rows, "question"), "bold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for status in STATUSES:
        count = totals.by_status[status]
        if count or status not in FAILED:
            style = STATUS_STYLES[status] if count else "dim"
            table.add_row(Text(f"{count:,}", style), _share(count, totals), Text(_MEANINGS[status], style))
    if totals.flagged:
        meaning = Text("flagged for a person to look at", "magenta")
        table.add_row(Text(f"{totals.flagged:,}", "magenta"), _share(totals.flagged, totals), meaning)
    table.add_section()
    per = max(totals.rows, 1)
    table.add_row(f"{totals.calls / per:,.1f}", "", "model calls a question")
    tokens = Text(f"tokens a question: {totals.prompt_tokens / per:,.1f} read")
    tokens.append(f", {totals.completion_tokens / per:,.1f} written")
    table.add_row(f"{(totals.prompt_tokens + totals.completion_tokens) / per:,.1f}", "", tokens)
    if result.fresh:
        table.add_row(
            f"{_rate(result):,.1f}", "", f"questions/s: {result.fresh:,} in {result.seconds:,.1f} s"
        )
    if result.work is not None and result.seconds:
        engine = Text(f"tokens/s by the engine: {result.work.computed_tokens:,} computed")
        if result.work.hit_rate is not None:
            engine.append(f", {result.work.hit_rate:.0%} of those looked up came from the prefix cache")
        table.add_row(f"{result.work.computed_tokens / result.seconds:,.0f}", "", engine)
    table.add_section()
    if result.output is not None:
        table.add_row("output", "", Text(str(result.output), "bold"))
    table.add_row("run", "", Text(str(result.folder)))
    for name, column in result.layout.renamed.items():
        table.add_row(
            "note", "", Text(f"the input has a field {name!r}; ours is called {column!r}", "yellow")
        )
    return table


def most_telling(store: RunStore, among: int = 500) -> SampleRecord | None:
    """Return the sample whose trace shows most on a screen: a changed text with a veto and two specialists at work.

    Among several the one with the fewest proposals is taken, since all of them are drawn. Only the first ``among``
    samples of each kind are looked at.
    """
    for vetoed in (True, None):
        best, most = None, (-1, 0)
        for sample in islice(store.samples(changed=True, vetoed=vetoed), among):
            proposed = [event for event in store.events(sample.row_index) if isinstance(event, Proposed)]
            agents = len({event.agent for event in proposed if event.edits})
            worth = (min(agents, 2), -sum(len(event.edits) for event in proposed))
            if worth > most:
                best, most = sample, worth
        if best is not None:
            return best
    return next(store.samples(), None)


def _engine(result: RunResult) -> dict[str, Any]:
    if result.work is None or not result.seconds:
        return {}
    rate = result.work.hit_rate
    return {
        "engine_tokens": result.work.computed_tokens,
        "engine_tokens_per_second": round(result.work.computed_tokens / result.seconds, 1),
        "prefix_cache_hit_rate": None if rate is None else round(rate, 4),
    }


def _rate(result: RunResult) -> float:
    return result.fresh / result.seconds if result.seconds else 0.0


def _share(count: int, totals: Totals) -> str:
    return f"{count / max(totals.rows, 1):.1%}"
