"""Lays the comparison of two runs out as tables and quoted questions, and as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from imc_agents.bench.outcomes import Outcome
from imc_agents.bench.report.compare import Compared, Comparison, Flip
from imc_agents.bench.report.document import Cell, Document, Head, Item, Sheet
from imc_agents.bench.report.measures import MEASURES
from imc_agents.bench.report.records import rounded
from imc_agents.bench.report.sheets import stars

__all__ = ["COMPARED_FIELDS", "comparison_document", "comparison_record", "comparison_rows"]

COMPARED_FIELDS = (
    *("model", "dataset", "metric", "method", "noise", "first", "second", "difference"),
    *("samples", "left_out", "wins", "losses", "test", "p", "p_holm"),
)
"""Columns of the tidy rows."""


def comparison_document(found: Comparison) -> Document:
    """Lay a comparison out: a table for each data set, metric and method, then the questions that turned."""
    groups: dict[tuple[str, str, str, str], list[Compared]] = {}
    for row in found.rows:
        groups.setdefault((row.model, row.dataset, row.metric, row.method), []).append(row)
    sheets = tuple(_sheet(rows, len(found.rows)) for rows in groups.values())
    items = tuple(_item(flip) for flip in found.flips)
    return Document(f"{found.first} against {found.second}", tuple(_remarks(found)), sheets, items)


def comparison_rows(found: Comparison) -> Iterator[dict[str, Any]]:
    """Yield one tidy row for each data set, metric, method and noise; scores in [0, 1]."""
    for row in found.rows:
        record = asdict(row)
        test = record.pop("test")
        del record["images"]  # the metric and the data set say so
        yield rounded(record | test | {"p": row.test.p, "p_holm": row.p})


def comparison_record(found: Comparison) -> dict[str, Any]:
    """Return everything as nested JSON values."""
    return asdict(found) | {
        "rows": list(comparison_rows(found)),
        "flips": [
            {
                "model": flip.model,
                **{
                    name: getattr(flip.first, name)
                    for name in ("dataset", "sample", "noise", "severity", "method")
                },
                "question": flip.first.question,
                "noisy": flip.first.noisy,
                "answer": flip.first.answer,
                "first": {
                    "refined": flip.first.refined,
                    "reply": flip.first.reply,
                    "score": flip.first_score,
                },
                "second": {
                    "refined": flip.second.refined,
                    "reply": flip.second.reply,
                    "score": flip.second_score,
                },
            }
            for flip in found.flips
        ],
    }


def _remarks(found: Comparison) -> Iterator[str]:
    for name in found.incomplete:
        yield f"Incomplete: {name} is not finished; what is there is compared."
    yield f"{found.pairs:,} outcomes are in both runs."
    for name, count in ((found.first, found.only["first"]), (found.second, found.only["second"])):
        if count:
            yield f"Left out: {count:,} outcomes that only {name} holds."
    if found.flipped:
        listed = f"; {len(found.flips)} of them are quoted" if found.flips else ""
        yield f"{found.flipped:,} answers turned{listed}."
    else:
        yield "No answer turned."


def _sheet(rows: Sequence[Compared], tests: int) -> Sheet:
    first = rows[0]
    measure, samples = MEASURES[first.metric], "images" if first.images else "questions"
    heads = tuple(Head(name) for name in (samples, "A", "B", "B - A", "wins", "losses", "left out", "p"))
    if measure.statistic != "mean":
        kind = f"bootstrap over {samples}"
    elif all(row.test.test == "mcnemar" for row in rows):
        kind = "exact McNemar test"
    else:
        kind = f"exact McNemar test for one severity of right and wrong, else bootstrap over {samples}"
    title = measure.of_images if first.images else measure.title
    return Sheet(
        f"{title}, % · {first.model} · {first.dataset} · {first.method}",
        "noise",
        heads,
        tuple((row.noise, _cells(row)) for row in rows),
        (
            f"wins and losses of B against A, in pairs; p: {kind}, Holm-corrected over the {tests} rows of this"
            " comparison. Left out: pairs of which only one is scored.",
        ),
    )


def _cells(row: Compared) -> tuple[Cell, ...]:
    test = row.test
    return (
        Cell(f"{test.samples:,}"),
        Cell(f"{100 * row.first:.1f}"),
        Cell(f"{100 * row.second:.1f}"),
        Cell(f"{100 * test.difference:+.1f}"),
        Cell(f"{test.wins:,}"),
        Cell(f"{test.losses:,}"),
        Cell(f"{test.left_out:,}"),
        Cell("<0.001" if row.p < 0.001 else f"{row.p:.3f}", mark=stars(row.p)),
    )


def _item(flip: Flip) -> Item:
    first, second = flip.first, flip.second
    where = first.noise + (f" {first.severity}" if first.severity else "")
    change = f"{100 * flip.first_score:.0f} to {100 * flip.second_score:.0f} %"
    fields = [("question", first.question)]
    if first.noisy != first.question:
        fields.append(("noisy", first.noisy))
    for label, outcome in (("refined A", first), ("refined B", second)):
        if outcome.refined != outcome.noisy:
            fields.append((label, outcome.refined))
    fields += [
        ("gold", first.answer),
        ("reply A", _reply(first)),
        ("reply B", _reply(second)),
    ]
    return Item(f"{first.dataset} {first.sample} · {where} · {first.method} · {change}", tuple(fields))


def _reply(outcome: Outcome) -> str:
    return f"({outcome.status})" if outcome.reply is None else outcome.reply
