"""Lays the summary of a benchmark out as tables: scores, scores by severity, restored texts, failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imc_agents.bench.outcomes import CLEAN
from imc_agents.bench.report.against_sheets import against_sheets
from imc_agents.bench.report.document import Cell, Document, Head, Sheet, interval_text
from imc_agents.bench.report.estimates import Estimate
from imc_agents.bench.report.measures import MEASURES
from imc_agents.bench.report.panels import DROP, MEAN, WON_BACK, Column, Entry, Panel
from imc_agents.bench.report.restoration import Restoration, Restored
from imc_agents.bench.report.summary import Counts, Report
from imc_agents.text.metrics import Interval

__all__ = ["panel_title", "report_document", "stars"]

_NOTHING = Cell("–")
_REASONS = 4


def report_document(report: Report, *, severities: bool = False) -> Document:
    """Lay a report out.

    Args:
        report: The report.
        severities: Also a table of methods by severity for every single noise.
    """
    sheets: list[Sheet] = []
    for panel in report.panels:
        sheets.append(_scores(panel, report.baseline))
        sheets += _by_severity(panel, every=severities)
    if report.against is not None:
        sheets += against_sheets(report.against)
    for restoration in report.restorations:
        sheets += _restored(restoration)
    sheets += _failures(report.counts)
    return Document(f"Robustness benchmark {report.run}", tuple(_remarks(report)), tuple(sheets))


def panel_title(panel: Panel) -> str:
    """Return what a table or picture of a panel is called."""
    measure = MEASURES[panel.metric]
    title = measure.of_images if panel.classes else measure.title
    return f"{title}, % · {panel.model} · {panel.dataset} · {panel.samples} {_samples(panel)}"


def _samples(panel: Panel) -> str:
    return "images" if panel.classes else "questions"


def stars(p: float | None) -> str:
    """Return the usual stars of a p value: one below 0.05, two below 0.01, three below 0.001."""
    return "" if p is None else "*" * sum(p < level for level in (0.05, 0.01, 0.001))


def _remarks(report: Report) -> Iterator[str]:
    if not report.complete:
        yield (
            f"Incomplete: {report.there:,} of {report.planned:,} outcomes are there; figures are of these, and those"
            " that still lack some are marked †."
        )
    lost = sum(sum(counts.not_scored.values()) for counts in report.counts)
    if not lost and not any(counts.model_errors for counts in report.counts):
        yield f"All {report.there:,} outcomes have a usable reply."


def _scores(panel: Panel, baseline: str) -> Sheet:
    heads = tuple(_head(column, panel.metric) for column in panel.columns)
    rows = tuple(
        (row.method, tuple(_entry(row.entries[column.name], column, panel) for column in panel.columns))
        for row in panel.rows
    )
    return Sheet(panel_title(panel), "method", heads, rows, tuple(_score_notes(panel, baseline)))


def _head(column: Column, metric: str) -> Head:
    """Noises of a suite stand under its name; a mean of errors has a name of its own."""
    suite, _, name = column.name.rpartition("/")
    group = ", ".join(filter(None, (column.group, suite)))
    measure = MEASURES[metric]
    return Head(name.replace(MEAN, measure.mean) if measure.error and name.startswith(MEAN) else name, group)


def _entry(entry: Entry, column: Column, panel: Panel) -> Cell:
    return _cell(entry.estimate, _scale(panel, column.name), stars(entry.p), best=entry.best)


def _scale(panel: Panel, column: str) -> float:
    """Scores and shares become per cent; errors against a baseline are."""
    return 1.0 if MEASURES[panel.metric].error and column not in (DROP, WON_BACK) else 100.0


def _cell(estimate: Estimate, scale: float, mark: str = "", *, best: bool = False) -> Cell:
    if estimate.value is None:
        return _NOTHING
    return Cell(
        f"{scale * estimate.value:.1f}", _interval(estimate.interval, scale), mark, best, estimate.partial
    )


def _interval(interval: Interval | None, scale: float = 100.0) -> str:
    if interval is None or interval.low == interval.high:
        return ""  # no resample differs, as for the baseline of a ratio
    return interval_text(scale * interval.low, scale * interval.high)


def _score_notes(panel: Panel, baseline: str) -> Iterator[str]:
    measure, samples = MEASURES[panel.metric], _samples(panel)
    steps = ", ".join(map(str, panel.severities))
    yield (
        (
            f"Mean over severities {steps}. "
            if len(panel.severities) > 1
            else f"Severity {steps}. "
            if steps
            else ""
        )
        + f"Below, 95 % bootstrap intervals over {samples}. The best of each column stands out."
    )
    if panel.absent and measure.statistic != "mean":
        yield f"Mean over the classes that there is an image of; there is none of {', '.join(panel.absent)}."
    names = {column.name for column in panel.columns}
    if DROP in names:
        yield (
            f"{DROP}: {CLEAN} minus the mean over all noises, of the same {samples}. {WON_BACK}: share of what"
            f" {baseline} loses to the noises that the method wins back."
        )
    if measure.added in names:
        yield f"{measure.added}: the error that noise adds, against what it adds to {baseline}; {baseline} is 100."
    tests = [
        entry.test
        for row in panel.rows
        for entry in row.entries.values()
        if entry.test and entry.test.samples
    ]
    if tests:
        kinds = {"mcnemar": "exact McNemar test", "bootstrap": f"bootstrap over {samples}"}
        used = " or ".join(kinds[kind] for kind in kinds if any(test.test == kind for test in tests))
        yield (
            f"* p < 0.05, ** p < 0.01, *** p < 0.001 against {baseline}, in pairs ({used}), Holm-corrected over the"
            f" {len(tests)} tests of this table."
        )
    left_out = {
        row.method: sum(
            test.left_out
            for column in panel.columns
            if len(column.noises) == 1 and (test := row.entries[column.name].test)
        )
        for row in panel.rows
    }
    if any(left_out.values()):
        listed = ", ".join(f"{method} {count}" for method, count in left_out.items() if count)
        yield f"Pairs left out of the tests because only one of the two has a score: {listed}."
    if any(entry.estimate.partial for row in panel.rows for entry in row.entries.values()):
        yield "† Some of its outcomes are not there yet."
    reasons = dict.fromkeys(
        entry.estimate.reason
        for row in panel.rows
        for entry in row.entries.values()
        if entry.estimate.reason and not (row.method == baseline and entry.estimate.reason == "the baseline")
    )
    for reason in list(reasons)[:_REASONS]:
        yield f"–: {reason}."
    if len(reasons) > _REASONS:
        yield f"–: and {len(reasons) - _REASONS} more reasons; --format json has all."


def _by_severity(panel: Panel, *, every: bool) -> Iterator[Sheet]:
    """Methods by severity, over all noises and, if asked for, for each noise."""
    if len(panel.severities) < 2 and not every:
        return
    means = [column for column in panel.columns if column.name.startswith(MEAN)]
    noises = [column for column in panel.columns if column.group and column not in means]
    shown = [*(means[-1:] or noises[:1]), *(noises if every and means else ())]
    heads = (Head(CLEAN), *(Head(str(step), "severity") for step in panel.severities))
    for column in shown:
        rows = tuple(
            (
                row.method,
                (
                    _cell(row.entries[CLEAN].estimate, _scale(panel, CLEAN)),
                    *(
                        _cell(row.severities[column.name, step], _scale(panel, column.name))
                        for step in panel.severities
                    ),
                ),
            )
            for row in panel.rows
        )
        what = "mean over noises" if column.name.startswith(MEAN) else column.name
        yield Sheet(
            f"{panel_title(panel)} · by severity, {what}",
            "method",
            heads,
            _with_best(rows, lowest=bool(MEASURES[panel.metric].error)),
        )


def _with_best(
    rows: tuple[tuple[str, tuple[Cell, ...]], ...], *, lowest: bool = False
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    """Mark the best of each column as printed."""
    pick = min if lowest else max
    best: list[str] = []
    for at in range(len(rows[0][1])):
        texts = [cells[at].text for _, cells in rows if cells[at] != _NOTHING]
        best.append(pick(texts, key=float) if len(set(texts)) > 1 else "")
    return tuple(
        (
            method,
            tuple(
                Cell(cell.text, cell.interval, cell.mark, cell.text == top, cell.partial)
                for cell, top in zip(cells, best, strict=True)
            ),
        )
        for method, cells in rows
    )


def _restored(restoration: Restoration) -> Iterator[Sheet]:
    where = f"{restoration.model} · {restoration.dataset}"
    heads = tuple(Head(noise, "" if noise == CLEAN else "text") for noise in restoration.noises)
    exact = tuple(
        (method, tuple(_exact(row.get(noise)) for noise in restoration.noises))
        for method, row in restoration.rows.items()
    )
    texts = next(iter(restoration.rows.values()))
    altered = ", ".join(f"{noise} {texts[noise].texts:,}" for noise in texts if noise != CLEAN)
    yield Sheet(
        f"Questions restored byte for byte, % · {where}",
        "method",
        heads,
        _with_best(exact),
        (
            f"Of the questions that the noise altered, at all severities ({altered}); clean: left byte for byte."
            " Below, 95 % bootstrap intervals over questions.",
        ),
    )
    before = tuple(
        _NOTHING if noise not in texts else Cell(f"{100 * texts[noise].word_error_rate_before:.1f}")
        for noise in restoration.noises
    )
    after = tuple(
        (method, tuple(_word_errors(row.get(noise)) for noise in restoration.noises))
        for method, row in restoration.rows.items()
    )
    yield Sheet(
        f"Word error rate against the published question, % · {where}",
        "method",
        heads,
        (("as it came", before), *_with_best(after, lowest=True)),
        ("Lower is better. Of the same questions.",),
    )


def _exact(found: Restored | None) -> Cell:
    return _NOTHING if found is None else Cell(f"{100 * found.exact:.1f}", _interval(found.exact_interval))


def _word_errors(found: Restored | None) -> Cell:
    if found is None:
        return _NOTHING
    return Cell(f"{100 * found.word_error_rate:.1f}", _interval(found.word_error_rate_interval))


def _failures(counts: Sequence[Counts]) -> Iterator[Sheet]:
    """Outcomes that were not scored, and unusable replies; nothing where there are none."""
    failing = [row for row in counts if row.not_scored or row.model_errors]
    statuses = sorted({status for row in failing for status in row.not_scored})
    for model, dataset in dict.fromkeys((row.model, row.dataset) for row in failing):
        rows = tuple(
            (
                row.method,
                (
                    Cell(f"{row.outcomes:,}"),
                    Cell(f"{row.model_errors:,}"),
                    *(Cell(f"{row.not_scored.get(status, 0):,}") for status in statuses),
                ),
            )
            for row in counts
            if (row.model, row.dataset) == (model, dataset)
        )
        heads = (
            Head("outcomes"),
            Head("unusable reply", "scored as wrong"),
            *(Head(status, "not scored") for status in statuses),
        )
        notes = ("An unusable reply is scored as wrong. What could not be asked is not scored.",)
        yield Sheet(f"Failures · {model} · {dataset}", "method", heads, rows, notes)
