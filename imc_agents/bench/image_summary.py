"""The figures of the image benchmark: recognition, accuracy by method, and what calibration wins back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from imc_agents.bench.image import HARSH, NONE, Cell, Recognition
from imc_agents.vision.perception import CLEAN

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["image_tables", "summarise_images"]

_COSTLY = 3.0  # points that a noise must cost to count for what is won back


def summarise_images(cells: Sequence[Cell], recognitions: Sequence[Recognition]) -> dict[str, Any]:
    """All figures as JSON values; accuracies in per cent, over severities 3 to 5 and all seeds."""
    noises = list(dict.fromkeys(cell.noise for cell in cells if cell.noise != CLEAN))
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    return {
        "recognition": _recognition(recognitions, noises),
        "recognition_by_task": {
            task: _recognition([row for row in recognitions if row.task == task], noises) for task in tasks
        },
        "tasks": {task: _task([cell for cell in cells if cell.task == task], noises) for task in tasks},
    }


def _recognition(rows: Sequence[Recognition], noises: Sequence[str]) -> dict[str, Any]:
    harsh = [row for row in rows if row.severity in HARSH]
    exact = {
        name: _share((row.found.get(name, 0), row) for row in harsh if row.noise == name) for name in noises
    }
    family = {name: _share((row.family, row) for row in harsh if row.noise == name) for name in noises}
    noisy = [row for row in rows if row.severity]
    return {
        "exact": exact,
        "family": family,
        "mean_exact": sum(exact.values()) / max(1, len(exact)),
        "mean_family": sum(family.values()) / max(1, len(family)),
        "clean": _share((row.found.get(CLEAN, 0), row) for row in rows if not row.severity),
        "severity_within_one": _share((row.near, row) for row in noisy),
        "severity_within_one_harsh": _share((row.near, row) for row in harsh),
    }


def _share(counts: Iterable[tuple[int, Recognition]]) -> float:
    found = [(count, row.images) for count, row in counts]
    return 100 * sum(count for count, _ in found) / max(1, sum(images for _, images in found))


def _task(cells: Sequence[Cell], noises: Sequence[str]) -> dict[str, Any]:
    methods = list(dict.fromkeys(cell.method for cell in cells))
    accuracy: dict[str, dict[str, float]] = {}
    for method in methods:
        accuracy[method] = {}
        for noise in (CLEAN, *noises):
            chosen = [
                cell
                for cell in cells
                if cell.method == method
                and cell.noise == noise
                and (noise == CLEAN or cell.severity in HARSH)
            ]
            images = sum(cell.images for cell in chosen)
            if images:
                accuracy[method][noise] = 100 * sum(cell.correct for cell in chosen) / images
    raw = accuracy[NONE]
    costly = [noise for noise in noises if raw[CLEAN] - raw[noise] >= _COSTLY]
    won: dict[str, float | None] = {}
    worst: dict[str, float] = {}
    for method, found in accuracy.items():
        shares = [(found[noise] - raw[noise]) / (raw[CLEAN] - raw[noise]) for noise in costly]
        won[method] = 100 * sum(shares) / len(shares) if shares else None
        worst[method] = min(found[noise] - raw[noise] for noise in noises)
    return {"accuracy": accuracy, "costly": costly, "won_back": won, "worst_change": worst}


def image_tables(summary: dict[str, Any]) -> Group:
    """The figures for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    seen = summary["recognition"]
    recognition = Table(title="recognised at severities 3 to 5 (%)", box=None, header_style="bold")
    recognition.add_column("", style="cyan", no_wrap=True)
    for name in (*seen["exact"], "mean"):
        recognition.add_column(name, justify="right")
    for row in ("exact", "family"):
        recognition.add_row(row, *_recognition_cells(seen, row))
    for task, found in summary["recognition_by_task"].items():
        recognition.add_row(f"family, {task}", *_recognition_cells(found, "family"), style="dim")
    parts: list[Any] = [
        recognition,
        Text(
            f"clean called clean {seen['clean']:.1f} %; severity within one step {seen['severity_within_one']:.1f} % "
            f"(3 to 5: {seen['severity_within_one_harsh']:.1f} %)"
        ),
    ]
    for task, found in summary["tasks"].items():
        table = Table(title=f"\n{task}: accuracy at severities 3 to 5 (%)", box=None, header_style="bold")
        table.add_column("method", style="cyan", no_wrap=True)
        names = list(found["accuracy"][NONE])
        for name in (*names, "won back", "worst"):
            table.add_column(name, justify="right")
        for method, row in found["accuracy"].items():
            won = found["won_back"][method]
            table.add_row(
                method,
                *(f"{row[name]:.1f}" if name in row else "-" for name in names),
                "-" if won is None or method == NONE else f"{won:.0f} %",
                f"{found['worst_change'][method]:+.1f}",
            )
        parts += [
            table,
            Text(f"won back: over {', '.join(found['costly']) or 'no noise'}, which cost 3 points or more"),
        ]
    return Group(*parts)


def _recognition_cells(seen: dict[str, Any], row: str) -> list[str]:
    return [f"{value:.1f}" for value in (*seen[row].values(), seen[f"mean_{row}"])]
