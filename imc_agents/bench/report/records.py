"""Writes the summary of a benchmark as data: tidy rows (CSV, JSON lines), and one nested JSON with everything."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from imc_agents.bench.outcomes import CLEAN
from imc_agents.bench.report.against import Against
from imc_agents.bench.report.estimates import Estimate
from imc_agents.bench.report.measures import MEASURES
from imc_agents.bench.report.panels import DROP, MEAN, WON_BACK, Entry, Panel
from imc_agents.bench.report.stats import PairedTest
from imc_agents.bench.report.summary import Report

__all__ = ["FIELDS", "csv_text", "json_text", "nested", "rounded", "tidy_rows"]

ALL = "all"
"""Stands for the mean over severities."""

_DIGITS = 6  # what is beyond may differ between linear algebra libraries

FIELDS = (
    *("model", "dataset", "noise", "severity", "method", "metric"),
    *("value", "low", "high", "scored", "partial", "best"),
    *("baseline", "p", "p_holm", *(field.name for field in fields(PairedTest) if field.name != "p")),
    "reason",
)
"""Columns of the tidy rows."""


def tidy_rows(report: Report) -> Iterator[dict[str, Any]]:
    """Yield one row for each model, data set, noise, severity, method and metric; without what a row has nothing for.

    Scores and shares are in [0, 1], errors against a baseline in per cent. The severity ``all`` is the mean over
    severities, and the noises ``mean``, ``mean text`` and ``mean image`` are means over noises. What ends in
    ``_against`` is against the other run that was named; its ``baseline`` is run, model and method.
    """
    for panel in report.panels:
        for row in panel.rows:
            for name, entry in row.entries.items():
                if name == DROP:
                    continue  # among the drops of all columns below
                yield _row(panel, name, row.method, entry, report.baseline)
            for (name, severity), estimate in row.severities.items():
                where = {"noise": name, "severity": severity, "method": row.method, "metric": panel.metric}
                yield _head(panel) | where | _figures(estimate)
            for name, estimate in () if MEASURES[panel.metric].error else row.drops.items():
                where = {
                    "noise": name,
                    "severity": ALL,
                    "method": row.method,
                    "metric": f"{panel.metric}_drop",
                }
                yield _head(panel) | where | _figures(estimate)
    for found in report.restorations:
        for method, restored in found.rows.items():
            for noise, figures in restored.items():
                where = {
                    "model": found.model,
                    "dataset": found.dataset,
                    "noise": noise,
                    "severity": 0 if noise == CLEAN else ALL,
                    "method": method,
                }
                for metric, value, interval in (
                    ("exact_restoration", figures.exact, figures.exact_interval),
                    ("word_error_rate", figures.word_error_rate, figures.word_error_rate_interval),
                ):
                    yield where | {"metric": metric} | _figures(Estimate(value, interval, figures.texts))
    if report.against is not None:
        yield from _against(report.against)


def csv_text(rows: Sequence[dict[str, Any]], columns: Sequence[str] = FIELDS) -> str:
    """Return rows as CSV with a head; what a row does not have is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def json_text(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(rounded(value), indent=1, ensure_ascii=False) + "\n"


def nested(report: Report) -> dict[str, Any]:
    """Return everything as nested JSON values."""
    record = asdict(report)
    for panel, found in zip(record["panels"], report.panels, strict=True):
        for row, of_method in zip(panel["rows"], found.rows, strict=True):
            by_noise: dict[str, dict[str, Any]] = {}
            for (name, severity), estimate in of_method.severities.items():
                by_noise.setdefault(name, {})[str(severity)] = asdict(estimate)
            row["severities"] = by_noise
        if not found.classes:
            del panel["classes"], panel["absent"]
    if report.against is None:
        del record["against"]
    return record


def rounded(value: Any) -> Any:
    """Return JSON values with floats rounded, so that the same outcomes give the same bytes everywhere."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _row(panel: Panel, name: str, method: str, entry: Entry, baseline: str) -> dict[str, Any]:
    added = MEASURES[panel.metric].added
    derived = {WON_BACK: f"{panel.metric}_won_back", added: added.lower()}.get(name)
    row = _head(panel) | {
        "noise": MEAN if derived else name,
        "severity": 0 if name == CLEAN else ALL,
        "method": method,
        "metric": derived or panel.metric,
    }
    row |= _figures(entry.estimate) | {"best": entry.best}
    if entry.test is not None:
        test = asdict(entry.test)
        row |= {"baseline": baseline, "p": test.pop("p")}
        row |= {field: value for field, value in test.items() if value is not None}
        if entry.p is not None:
            row["p_holm"] = entry.p
    return rounded(row)


def _against(found: Against) -> Iterator[dict[str, Any]]:
    baseline = f"{found.run}/{found.model}/{found.method}"
    for row in found.rows:
        added = MEASURES[row.metric].added.lower()
        for metric, by_noise in (
            (row.metric, row.errors.absolute | {MEAN: row.errors.mean, CLEAN: row.errors.clean}),
            (added, row.errors.relative | {MEAN: row.errors.relative_mean}),
        ):
            for noise, figure in by_noise.items():
                line = {
                    "model": row.model,
                    "dataset": row.dataset,
                    "noise": noise,
                    "severity": 0 if noise == CLEAN else ALL,
                    "method": row.method,
                    "metric": f"{metric}_against",
                    "baseline": baseline,
                }
                line |= {"value": figure.value} if figure.value is not None else {}
                yield rounded(line | ({"reason": figure.reason} if figure.reason else {}))


def _head(panel: Panel) -> dict[str, Any]:
    return {"model": panel.model, "dataset": panel.dataset}


def _figures(estimate: Estimate) -> dict[str, Any]:
    found: dict[str, Any] = {"scored": estimate.scored, "partial": estimate.partial}
    if estimate.value is not None:
        found["value"] = estimate.value
    if estimate.interval is not None:
        found |= {"low": estimate.interval.low, "high": estimate.interval.high}
    if estimate.reason:
        found["reason"] = estimate.reason
    return rounded(found)
