"""Lays errors against another run out as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imc_agents.bench.outcomes import CLEAN
from imc_agents.bench.report.against import Against, AgainstRow
from imc_agents.bench.report.document import Cell, Head, Sheet
from imc_agents.bench.report.measures import MEASURES
from imc_agents.bench.report.robustness import Figure

__all__ = ["against_sheets"]

_MEAN = "mean"


def against_sheets(found: Against) -> Iterator[Sheet]:
    """Yield one table for each model and data set: errors, and errors that noise adds, by method and noise."""
    groups: dict[tuple[str, str], list[AgainstRow]] = {}
    for row in found.rows:
        groups.setdefault((row.model, row.dataset), []).append(row)
    for (model, dataset), rows in groups.items():
        noises = list(dict.fromkeys(noise for row in rows for noise in row.errors.absolute))
        names = [*noises, _MEAN, CLEAN]
        blocks = [
            (label, figures)
            for metric in dict.fromkeys(row.metric for row in rows)
            for label, figures in _blocks(metric, [row for row in rows if row.metric == metric])
        ]
        yield Sheet(
            f"Errors in % of those of {found.model}, {found.method} (run {found.run}) · {model} · {dataset}",
            "method",
            tuple(Head(name.rpartition("/")[2], name.rpartition("/")[0]) for name in names),
            tuple(
                (f"{method} {label}", cells)
                for label, figures in blocks
                for method, cells in _cells(figures, names)
            ),
            (*_explained(found, rows), *found.remarks, *_reasons(blocks)),
        )


_Figures = dict[str, dict[str, Figure]]
"""By method, then noise, mean or clean."""


def _blocks(metric: str, rows: Sequence[AgainstRow]) -> Iterator[tuple[str, _Figures]]:
    """The errors of all methods, then those that noise adds, each under what it is called."""
    measure = MEASURES[metric]
    yield (
        measure.error,
        {row.method: row.errors.absolute | {_MEAN: row.errors.mean, CLEAN: row.errors.clean} for row in rows},
    )
    yield measure.added, {row.method: row.errors.relative | {_MEAN: row.errors.relative_mean} for row in rows}


def _cells(figures: _Figures, names: Sequence[str]) -> Iterator[tuple[str, tuple[Cell, ...]]]:
    """A row for each method, with the lowest of each column marked where they differ."""
    lowest: dict[str, float] = {}
    for name in names:
        values = [f.value for row in figures.values() if (f := row.get(name)) and f.value is not None]
        if len(set(values)) > 1:
            lowest[name] = min(values)
    for method, row in figures.items():
        yield method, tuple(_cell(row.get(name), lowest.get(name)) for name in names)


def _cell(figure: Figure | None, lowest: float | None) -> Cell:
    if figure is None or figure.value is None:
        return Cell("–")
    return Cell(f"{figure.value:.1f}", best=lowest is not None and figure.value - lowest < 1e-12)


def _explained(found: Against, rows: Sequence[AgainstRow]) -> Iterator[str]:
    metrics = {row.metric for row in rows}
    what = {"ce": "CE from accuracy", "be": "BE from balanced accuracy"}
    listed = ", ".join(said for metric, said in what.items() if metric in metrics)
    added = " and ".join(MEASURES[metric].added for metric in what if metric in metrics)
    yield (
        f"{listed}: the error, summed over severities, in per cent of that of {found.method} in {found.run}."
        f" {added}: the same of the error that noise adds. The mean over noises is mCE or mBE. The lowest of each"
        " stands out."
    )


def _reasons(blocks: Sequence[tuple[str, _Figures]]) -> Iterator[str]:
    """Say once why a figure, or a part of a mean, does not exist: where, and of whom unless it is so of all."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for label, figures in blocks:
        for method, row in figures.items():
            for noise, figure in row.items():
                if figure.reason is not None:
                    found.setdefault(figure.reason, []).append((noise, label, method))
    everyone = ({label for label, _ in blocks}, {method for _, figures in blocks for method in figures})
    for reason, places in found.items():
        noises, *whose = (list(dict.fromkeys(part)) for part in zip(*places, strict=True))
        some = [
            ", ".join(part)
            for part, everything in zip(whose, everyone, strict=True)
            if set(part) != everything
        ]
        who = f" ({'; '.join(some)})" if some else ""
        yield f"{', '.join(noises)}{who}: {reason}."
