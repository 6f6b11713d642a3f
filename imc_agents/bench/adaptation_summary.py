"""Sums up what adaptation and calibration do: means over seeds, their spread, and a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from imc_agents.bench.adaptation import MethodFigures

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["adaptation_table", "summarise_adaptation"]

_COLUMNS = {
    "clean": ("clean", "balanced_accuracy"),
    "corrupted": ("corrupted", "balanced_accuracy"),
    "accuracy, corrupted": ("corrupted", "accuracy"),
    "AUROC, corrupted": ("corrupted", "auroc"),
}


def summarise_adaptation(figures: Sequence[MethodFigures]) -> dict[str, Any]:
    """Means and standard deviations over seeds by method, in per cent; errors against the encoder as it is."""
    methods = list(dict.fromkeys(found.method for found in figures))
    return {
        "seeds": len({found.seed for found in figures}),
        "methods": {
            method: _method([found for found in figures if found.method == method]) for method in methods
        },
    }


def _method(rows: Sequence[MethodFigures]) -> dict[str, Any]:
    values = {
        "clean": [row.clean for row in rows],
        "corrupted": [row.corrupted for row in rows],
    }
    summary: dict[str, Any] = {
        kind: {metric: _spread([100 * row[metric] for row in found]) for metric in found[0]}
        for kind, found in values.items()
    }
    for name, ratios in (("mce", [row.mce for row in rows]), ("mbe", [row.mbe for row in rows])):
        known = [ratio for ratio in ratios if ratio is not None]
        summary[name] = _spread(known) if known else None
    summary["by_noise"] = {
        noise: fmean(100 * row.by_noise[noise] for row in rows) for noise in rows[0].by_noise
    }
    return summary


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else 0.0}


def adaptation_table(summary: dict[str, Any], title: str) -> RenderableType:
    """The figures for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    table.add_column("method", style="cyan", no_wrap=True)
    for name in (*_COLUMNS, "mCE", "mBE"):
        table.add_column(name, justify="right")
    for method, found in summary["methods"].items():
        cells = [_cell(found[kind][metric]) for kind, metric in _COLUMNS.values()]
        ratios = ["-" if found[name] is None else _cell(found[name]) for name in ("mce", "mbe")]
        table.add_row(method, *cells, *ratios)
    note = (
        "Balanced accuracy where nothing else is said, %; corrupted: mean over noises and severities. mCE and mBE:"
        f" error and balanced error against none, %. Means and standard deviations over {summary['seeds']} seeds."
    )
    return Group(table, Text(note, "dim"))


def _cell(found: dict[str, float]) -> str:
    return f"{found['mean']:.1f} ± {found['sd']:.1f}"
