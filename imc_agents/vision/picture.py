"""One picture of a calibration: the image, the evidence for its noise, and its features before and after."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch and matplotlib ship are partial)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.errors import DataError
from imc_agents.vision.bank import Bank
from imc_agents.vision.calibration import Treatment
from imc_agents.vision.solving import clean_of
from imc_agents.vision.statistics import sharpness

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["draw_calibration"]


def draw_calibration(
    path: Path,
    image: Any,
    bank: Bank,
    treatment: Treatment,
    statistics: Tensor,
    before: Tensor,
    after: Tensor,
    grid: tuple[int, int],
) -> None:
    """Write the picture as PNG.

    Args:
        path: Where to; folders are made.
        image: Pillow image.
        bank: The bank.
        treatment: What was found and done.
        statistics: (statistics,) of the image.
        before: (patches, width) tokens without class tokens.
        after: The same, calibrated.
        grid: (rows, columns) of the patches.

    Raises:
        DataError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(13, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, 3)
    finding = treatment.finding
    shown = f"{finding.noise} {finding.variant}".strip()
    named = f"{shown}, severity {finding.severity}" if finding.noisy else shown
    figure.suptitle(f"{path.stem}: {named}; {_done(treatment)}", fontsize=12)
    axes[0, 0].imshow(image)
    axes[0, 0].set_title("image")
    _probabilities(axes[0, 1], finding.probabilities)
    _evidence(axes[0, 2], bank, treatment, statistics)
    maps, change = _maps(bank, before, after, grid)
    for panel, picture, title in zip(axes[1, :2], maps, ("features before", "features after"), strict=True):
        panel.imshow(picture)
        panel.set_title(f"{title} (three leading axes)")
    heat = axes[1, 2].imshow(change, cmap="magma", vmin=0)
    axes[1, 2].set_title("correction of each patch (length)")
    figure.colorbar(heat, ax=axes[1, 2], shrink=0.85)
    for panel in (axes[0, 0], *axes[1]):
        panel.set_xticks([])
        panel.set_yticks([])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be written ({error.strerror})") from error


def _done(treatment: Treatment) -> str:
    if treatment.operator == "identity":
        return "left as it is"
    return f"corrected by {treatment.operator}, gate {treatment.gate:.2f}"


def _probabilities(panel: Any, probabilities: dict[str, float]) -> None:
    names = list(probabilities)
    panel.barh(names, list(probabilities.values()), color="tab:blue")
    panel.set_xlim(0, 1)
    panel.invert_yaxis()
    panel.set_title("which noise (probability)")


def _evidence(panel: Any, bank: Bank, treatment: Treatment, statistics: Tensor) -> None:
    """How far patches vary along each axis: the image beside the nearest clean and the nearest noise prototype."""
    seen = bank.perception
    found = treatment.finding.prototypes
    noisy = next((i for i, _ in found if bank.prototypes[i].severity), None)
    clean = clean_of(bank.prototypes, found[0][0])
    lines = [("image", statistics, "black"), ("nearest clean", seen.overall.means[clean], "tab:green")]
    if noisy is not None:
        kind = bank.prototypes[noisy]
        name = f"nearest noise: {kind.noise} {kind.variant} {kind.severity}".replace("  ", " ")
        lines.append((name, seen.overall.means[noisy], "tab:red"))
    for name, values, colour in lines:
        panel.plot(sharpness(values[None].float(), seen.basis)[0].tolist(), label=name, color=colour, lw=1)
    panel.set_title("variance of patches along each axis")
    panel.set_xlabel("axis, from coarse to fine")
    panel.set_ylabel("log variance, of clean")
    panel.legend(fontsize=8)


def _maps(bank: Bank, before: Tensor, after: Tensor, grid: tuple[int, int]) -> tuple[tuple[Any, Any], Any]:
    rows, columns = grid
    was, now = (bank.patches.basis.project(part)[:, :3] for part in (before, after))
    low, high = was.min(0).values, was.max(0).values
    scaled = [((part - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) for part in (was, now)]
    change = (after.float() - before.float()).square().sum(1).sqrt()
    pictures = [part.reshape(rows, columns, -1).numpy() for part in scaled]
    return (pictures[0], pictures[1]), change.reshape(rows, columns).numpy()
