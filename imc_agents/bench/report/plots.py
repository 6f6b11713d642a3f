# pyright: reportMissingTypeArgument=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that matplotlib ships are partial)
"""Pictures of a benchmark: scores against severity for each noise, and methods by noises. The same bytes every time."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.bench.outcomes import CLEAN
from imc_agents.bench.report.measures import MEASURES
from imc_agents.bench.report.panels import DROP, MEAN, Column, Panel, Row
from imc_agents.bench.report.sheets import panel_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "pictures", "write_pictures"]

# Okabe & Ito's palette, told apart with any colour vision, but for its yellow, which white paper swallows. Line styles
# and markers differ too, so that a copy in grey can be read.
_LOOKS = (
    ("#000000", "o", "--"),
    ("#0072B2", "s", "-"),
    ("#D55E00", "^", "-"),
    ("#009E73", "D", "-"),
    ("#CC79A7", "v", "-"),
    ("#E69F00", "P", "-"),
    ("#56B4E9", "X", "-"),
    ("#7F7F7F", "*", "-"),
)
_ACROSS = 4
_DPI = 200
_MOST = 48  # noises in one picture


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, in both formats.

    Attributes:
        name: For a file, without suffix.
        title: For a reader.
        png: At 200 dots an inch.
        svg: With the letters as outlines.
    """

    name: str
    title: str
    png: bytes
    svg: str


def pictures(panels: Sequence[Panel]) -> Iterator[Picture]:
    """Draw, for each panel, scores against severity and what each noise costs each method."""
    for panel in panels:
        stem = "-".join(_slug(part) for part in (panel.model, panel.dataset, panel.metric))
        if len(panel.severities) > 1:
            yield _picture(f"{stem}-severity", f"{panel_title(panel)} · against severity", panel, _curves)
        if _noises(panel):
            yield _picture(f"{stem}-noises", f"{panel_title(panel)} · methods by noises", panel, _heat_map)


def write_pictures(found: Sequence[Picture], folder: Path) -> list[Path]:
    """Write pictures as PNG and SVG into an existing folder; return the files."""
    files: list[Path] = []
    for picture in found:
        files += [folder / f"{picture.name}.png", folder / f"{picture.name}.svg"]
        files[-2].write_bytes(picture.png)
        files[-1].write_text(picture.svg, encoding="utf-8")
    return files


def _picture(name: str, title: str, panel: Panel, draw: Callable[[Panel], Figure]) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with _plain_style(name):
        figure = draw(panel)
        png, svg = io.BytesIO(), io.BytesIO()
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
    text = svg.getvalue().decode("utf-8")
    return Picture(name, title, png.getvalue(), text[text.index("<svg") :])


@contextmanager
def _plain_style(salt: str) -> Generator[None]:
    """Matplotlib as shipped, whatever its user has set; the salt makes the ids of one page differ and stay."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": salt,
                "font.size": 8,
                "axes.titlesize": 8,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "figure.dpi": _DPI,
            }
        )
        yield


def _curves(panel: Panel) -> Figure:
    """Small multiples: one noise each, one line a method, bands for the intervals."""
    from matplotlib.figure import Figure

    columns = _noises(panel)
    across = min(_ACROSS, len(columns))
    down = math.ceil(len(columns) / across)
    figure = Figure(figsize=(1.75 * across + 0.4, 1.55 * down + 0.75), layout="constrained")
    axes: Any = figure.subplots(down, across, sharey=True, squeeze=False)
    flat = list(axes.flat)
    for axis, column in zip(flat, columns, strict=False):
        for at, row in enumerate(panel.rows):
            _line(axis, panel, row, column, at)
        axis.set_title(column.name.rpartition("/")[2])
        axis.grid(axis="y", linewidth=0.3)
        axis.set_xticks([0, *panel.severities], [CLEAN, *map(str, panel.severities)])
    for axis in flat[len(columns) :]:
        axis.set_visible(False)
    figure.supxlabel("severity", fontsize=8)
    figure.supylabel(f"{MEASURES[panel.metric].label}, %", fontsize=8)
    handles, labels = flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), frameon=False)
    return figure


def _line(axis: Any, panel: Panel, row: Row, column: Column, at: int) -> None:
    scale = 1.0 if MEASURES[panel.metric].error else 100.0
    points = [(0, row.entries[CLEAN].estimate)] if CLEAN in row.entries else []
    points += [(step, row.severities[column.name, step]) for step in panel.severities]
    shown = [(step, found) for step, found in points if found.value is not None]
    colour, marker, style = _LOOKS[at % len(_LOOKS)]
    axis.plot(
        [step for step, _ in shown],
        [scale * (found.value or 0.0) for _, found in shown],
        color=colour,
        marker=marker,
        linestyle=style,
        markersize=3,
        linewidth=1,
        label=row.method,
    )
    banded = [(step, found.interval) for step, found in shown if found.interval is not None]
    axis.fill_between(
        [step for step, _ in banded],
        [scale * interval.low for _, interval in banded],
        [scale * interval.high for _, interval in banded],
        color=colour,
        alpha=0.1,
        linewidth=0,
    )


def _heat_map(panel: Panel) -> Figure:
    """Methods by noises: what the noise costs against the method's own clean score, in points; or errors."""
    import numpy as np
    from matplotlib.figure import Figure

    columns = _noises(panel)
    values = np.array([[_cost(panel, row, column) for column in columns] for row in panel.rows])
    measure = MEASURES[panel.metric]
    middle = 100.0 if measure.error else 0.0
    reach = float(np.nanmax(np.abs(values - middle), initial=1.0))
    figure = Figure(figsize=(0.55 * len(columns) + 1.9, 0.3 * len(panel.rows) + 1.35), layout="constrained")
    axis: Any = figure.subplots()
    # Orange costs, purple gains: told apart with any colour vision, and white is no change.
    # Squares, not an image: a page that holds the SVG has no picture of another kind inside.
    edges = (np.arange(size + 1) - 0.5 for size in (len(columns), len(panel.rows)))
    image = axis.pcolormesh(*edges, values, cmap="PuOr_r", vmin=middle - reach, vmax=middle + reach)
    axis.invert_yaxis()
    for down, across in np.ndindex(*values.shape):
        value = values[down, across]
        if not np.isnan(value):
            dark = abs(value - middle) > 0.6 * reach
            axis.text(
                across,
                down,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
    names = [column.name.rpartition("/")[2] for column in columns]
    axis.set_xticks(range(len(columns)), names, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(panel.rows)), [row.method for row in panel.rows])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    label = f"{measure.label}, %" if measure.error else f"{DROP} against {CLEAN}, points"
    scale: Any = figure.colorbar(image, ax=axis, label=label)
    scale.solids.set(rasterized=False, edgecolor="face")
    return figure


def _cost(panel: Panel, row: Row, column: Column) -> float:
    if MEASURES[panel.metric].error:
        value = row.entries[column.name].estimate.value
        return math.nan if value is None else value
    value = row.drops[column.name].value
    return math.nan if value is None else 100 * value


def _noises(panel: Panel) -> list[Column]:
    return [column for column in panel.columns if column.group and not column.name.startswith(MEAN)][:_MOST]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_.") or "x"
