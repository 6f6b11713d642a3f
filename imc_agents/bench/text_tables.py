"""Draws the text benchmark for a terminal: rows are methods, columns are noises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from imc_agents.bench.text import CLEAN
from imc_agents.bench.text_measures import Summary
from imc_agents.text.metrics import Interval

__all__ = ["text_tables"]


def text_tables(summaries: Sequence[Summary], width: int = 120) -> RenderableType:
    """Return, for each data set and severity, the tables of restoration, word errors, safety and cost.

    Args:
        summaries: Of one run.
        width: Columns of the terminal; noises that do not fit beside each other go below each other.
    """
    parts: list[RenderableType] = []
    for dataset in dict.fromkeys(summary.cell.dataset for summary in summaries):
        of_dataset = [summary for summary in summaries if summary.cell.dataset == dataset]
        clean = [summary for summary in of_dataset if summary.cell.kind == CLEAN]
        for severity in sorted({summary.cell.severity for summary in of_dataset} - {0}):
            noisy = [summary for summary in of_dataset if summary.cell.severity == severity]
            title = f"{dataset}, severity {severity}, {noisy[0].questions} questions"
            blocks = [[s for s in noisy if s.cell.kind in kinds] for kinds in _fitting(_kinds(noisy), width)]
            parts += _section(
                f"Exact restoration, % · {title}",
                [_restoration(block, clean) for block in blocks],
                _restoration_note(noisy),
            )
            parts += _section(
                f"Word error rate, % · {title}",
                [_word_errors(block) for block in blocks],
                "Of the altered questions; below, 95 % bootstrap intervals over questions.",
            )
            parts += _section(f"Safety · {title}", [_safety(noisy, clean)], _SAFETY_NOTE)
            parts += _section(
                f"Cost per question · {title}", [_cost(block, clean) for block in blocks], _COST_NOTE
            )
        if len(of_dataset) == len(clean):
            title = f"Clean questions left alone, % · {dataset}, {clean[0].questions} questions"
            parts += _section(title, [_restoration([], clean)], "Below, 95 % Wilson intervals.")
    return Group(*parts)


_SAFETY_NOTE = (
    "Questions over all noises and the clean ones, by the guard's invariants. Against the published text only what the"
    " noise had not broken already is counted; the row below it also counts look-alikes. Where one clinical word was"
    " misheard as another, a flag or no change is right, a silent swap is not."
)

_COST_NOTE = (
    "Model calls; tokens read + written; questions per second of wall time. Under clean, tokens read as a multiple of"
    " the question's own tokens."
)


def _section(title: str, tables: Sequence[Table], note: str) -> list[RenderableType]:
    return [Text(title, "bold"), *tables, Text(note + "\n", "dim")]


def _fitting(kinds: Sequence[str], width: int) -> list[list[str]]:
    """Split the noises into rows of tables that fit; a column takes its heading or a figure and its margins."""
    room = width - len("pyspellchecker") - 2 * len("99-100") - 3 * 2 - 2
    blocks: list[list[str]] = [[]]
    used = 0
    for kind in kinds:
        needed = max(len(kind), len("9.9 calls")) + 2
        if blocks[-1] and used + needed > room:
            blocks.append([])
            used = 0
        blocks[-1].append(kind)
        used += needed
    return blocks


def _table(first: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(first, no_wrap=True, style="cyan")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _by(summaries: Sequence[Summary]) -> dict[str, dict[str, Summary]]:
    """Group summaries by method, then by kind."""
    grouped: dict[str, dict[str, Summary]] = {}
    for summary in summaries:
        grouped.setdefault(summary.method, {})[summary.cell.kind] = summary
    return grouped


def _kinds(summaries: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(summary.cell.kind for summary in summaries))


def _percent(share: float, interval: Interval | None = None, *, best: bool = False) -> Text:
    text = Text(f"{100 * share:.1f}", "bold green" if best else "")
    if interval is not None:
        text.append(f"\n{100 * interval.low:.0f}-{100 * interval.high:.0f}", "dim not bold")
    return text


def _restoration_note(noisy: Sequence[Summary]) -> str:
    altered = {s.cell.kind: s.restoration.altered for s in noisy if s.restoration}
    mended = {method: _mended(row.values()) for method, row in _by(noisy).items()}
    note = (
        "Restored byte for byte, of the questions that the noise altered ("
        + ", ".join(f"{kind} {count}" for kind, count in altered.items())
        + "), clinical look-alikes apart; clean: questions without noise left byte for byte; sound: of those without"
        " a slip of their own. Below, 95 % Wilson intervals."
    )
    if any(mended.values()):
        listed = ", ".join(f"{method} {count}" for method, count in mended.items() if count)
        note += f" Not counted: exact but for a published slip that was mended as well ({listed})."
    return note


def _mended(summaries: Iterable[Summary]) -> int:
    return sum(summary.restoration.mended for summary in summaries if summary.restoration)


def _restoration(noisy: Sequence[Summary], clean: Sequence[Summary]) -> Table:
    kinds = _kinds(noisy)
    table = _table("method", [*kinds, "clean", "sound"])
    top = {
        kind: max(s.restoration.exact for s in noisy if s.restoration and s.cell.kind == kind)
        for kind in kinds
    }
    rows = _by(noisy)
    for summary in clean:
        results = [(kind, rows[summary.method][kind].restoration) for kind in kinds]
        cells = [
            _percent(result.exact_share, result.exact_interval, best=0 < result.exact == top[kind])
            for kind, result in results
            if result
        ]
        if summary.damage:
            cells.append(_percent(summary.damage.kept_share, summary.damage.kept_interval))
            cells.append(_percent(summary.damage.sound_share, summary.damage.sound_interval))
        table.add_row(summary.method, *cells)
    compared = rows.get("imc", {})
    if any(summary.against_best for summary in compared.values()):
        table.add_section()
        table.add_row(
            Text("imc - best\nother method", "dim"), *(_difference(compared[kind]) for kind in kinds)
        )
    return table


def _difference(summary: Summary) -> Text:
    against = summary.against_best
    if against is None:
        return Text("")
    text = Text(f"{100 * against.difference:+.1f}", "green" if against.difference > 0 else "red")
    p = "p<.001" if against.p_value < 0.001 else f"p={against.p_value:.3f}"
    return text.append(f"\n{p}\n{_SHORT.get(summary.best_baseline or '', summary.best_baseline)}", "dim")


_SHORT = {"pyspellchecker": "pyspell"}


def _word_errors(noisy: Sequence[Summary]) -> Table:
    kinds = _kinds(noisy)
    table = _table("method", kinds)
    methods = _by(noisy)
    first = next(iter(methods.values()))
    before = [first[kind].restoration for kind in kinds]
    table.add_row(Text("as it came", "dim"), *(_percent(r.word_error_rate_before) for r in before if r))
    table.add_section()
    for method, row in methods.items():
        results = [row[kind].restoration for kind in kinds]
        table.add_row(
            method, *(_percent(r.word_error_rate_after, r.word_error_rate_interval) for r in results if r)
        )
    return table


_SAFETY: tuple[tuple[str, Callable[[Summary], int], bool], ...] = (
    ("breaks an invariant of its input", lambda s: s.safety.against_noisy, True),
    ("breaks one of the published text", lambda s: s.safety.added, True),
    ("  number, negation, side, opposite", lambda s: s.safety.meaning, True),
    ("method failed, left unchanged", lambda s: s.safety.errors, True),
    ("clinical look-alikes", lambda s: s.look_alikes.cases, False),
    ("  flagged for a person", lambda s: s.look_alikes.flagged, False),
    ("  left unchanged", lambda s: s.look_alikes.unchanged, False),
    ("  silently swapped, right word", lambda s: s.look_alikes.restored, True),
    ("  silently swapped, wrong word", lambda s: s.look_alikes.swapped, True),
)
"""What is counted, where it stands, and whether anything above zero is bad."""


def _safety(noisy: Sequence[Summary], clean: Sequence[Summary]) -> Table:
    methods = list(_by(noisy))
    table = _table("questions", [_SHORT.get(method, method) for method in methods])
    for label, value, bad in _SAFETY:
        counts = [sum(value(s) for s in (*noisy, *clean) if s.method == method) for method in methods]
        styles = ["" if not bad else "red" if count else "green" for count in counts]
        table.add_row(label, *(Text(str(count), style) for count, style in zip(counts, styles, strict=True)))
    return table


def _cost(noisy: Sequence[Summary], clean: Sequence[Summary]) -> Table:
    kinds = [CLEAN, *_kinds(noisy)]
    table = _table("method", kinds)
    for method, row in _by([*clean, *noisy]).items():
        cells: list[Text] = []
        for kind in kinds:
            cost = row[kind].cost
            text = Text()
            if cost.calls:
                text.append(
                    f"{cost.calls:.1f} calls\n{cost.prompt_tokens:.0f}+{cost.completion_tokens:.0f}\n"
                )
            if kind == CLEAN and cost.own_tokens and cost.calls:
                text.append(f"x{cost.prompt_tokens / cost.own_tokens:.2f} own\n", "bold")
            cells.append(text.append(f"{_rate(cost.per_second)} q/s", "dim"))
        table.add_row(method, *cells)
    return table


def _rate(per_second: float) -> str:
    if per_second >= 1000:
        return f"{per_second / 1000:.0f}k"
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.1f}"
