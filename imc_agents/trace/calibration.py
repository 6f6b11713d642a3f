"""What was found in an image and done about it, on one line."""

from __future__ import annotations

from rich.text import Text

from imc_agents.trace.events import Calibrated
from imc_agents.trace.look import Look, inert, shorten

__all__ = ["calibration_line"]


def calibration_line(event: Calibrated, look: Look) -> Text:
    """The image, its noise with the likeliest alternatives, and the operator with how much it changed."""
    likeliest = sorted(event.probabilities.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(
        f"{inert(name, look)} {100 * value:.0f} %" for name, value in likeliest if value >= 0.005
    )
    noisy = event.severity > 0
    what = f"{event.noise} {event.variant}".strip() + (f" {event.severity}" if noisy else "")
    line = Text.assemble((shorten(event.image, look, 60), "cyan"), "  ")
    line.append(inert(what, look), "bold yellow" if noisy else "bold green")
    line.append(f"  ({shares})  " if shares else "  ", "dim")
    change = f"{inert(event.operator, look)}, features changed by {100 * event.change:.0f} %"
    return line.append("left as it is" if event.operator == "identity" else change)
