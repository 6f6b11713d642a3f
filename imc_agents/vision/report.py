"""What a bank holds, in numbers and as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.noise.registry import noises
from imc_agents.vision.bank import Bank
from imc_agents.vision.operators import operators
from imc_agents.vision.perception import CLEAN, UNKNOWN

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["bank_report", "bank_tables"]

_HARSH = (3, 4, 5)


def bank_report(bank: Bank, folder: Path) -> dict[str, Any]:
    """Everything a program may want to know of a bank, as JSON values."""
    missing = [spec.name for spec in noises("image") if spec.name not in bank.noises]
    return {
        "bank": str(folder),
        "encoder": bank.encoder.spec,
        "identity": bank.encoder.identity,
        "layers": list(bank.layers),
        "noises": list(bank.noises),
        "missing": missing,
        **bank.facts,
        "separation": _separation(bank),
        "operators": {
            noise: {name: round(choice.error, 4) for name, choice in found.items()}
            for noise, found in bank.patches.choices.items()
        },
    }


def bank_tables(bank: Bank, folder: Path) -> Group:
    """The same for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = bank.facts
    head = Text.assemble(
        (str(folder), "bold"),
        f"  {facts['images']} images in groups of {', '.join(map(str, facts['groups']))}, ",
        f"{facts['encoded']:,} encoded, seed {facts['seed']}, at {facts['image_size']} pixels\n",
        ("encoder ", "dim"),
        f"{bank.encoder.spec} ({bank.encoder.dtype}, {bank.encoder.width} wide, revision {bank.encoder.revision})",
    )
    confusion = Table(title="found on held-out images, severities 3 to 5 (%)", box=None, header_style="bold")
    confusion.add_column("noise", style="cyan", no_wrap=True)
    columns = [CLEAN, *bank.noises, UNKNOWN]
    for name in columns:
        confusion.add_column(name, justify="right")
    for noise in (CLEAN, *bank.noises):
        row = _row(bank, noise)
        cells = [
            Text(f"{100 * row.get(name, 0.0):.1f}", "bold" if name == noise else "dim") for name in columns
        ]
        confusion.add_row(noise, *cells)
    left = Table(
        title="squared distance to clean features left by each operator (%, held out)",
        box=None,
        header_style="bold",
    )
    left.add_column("noise", style="cyan", no_wrap=True)
    for name in operators():
        left.add_column(name, justify="right")
    for noise, found in bank.patches.choices.items():
        best = min(choice.error for choice in found.values())
        left.add_row(
            noise,
            *(
                Text(f"{100 * found[name].error:.1f}", "bold" if found[name].error == best else "dim")
                if name in found
                else Text("-", "dim")
                for name in operators()
            ),
        )
    parts = _separation(bank)
    summary = (
        f"family {100 * parts['family']:.1f} %, exact {100 * parts['exact']:.1f} %, "
        f"clean {100 * parts['clean']:.1f} %, "
        f"severity within one step {100 * parts['severity_within_one']:.1f} % (all severities)"
    )
    missing = bank_report(bank, folder)["missing"]
    lines = [head, Text(), confusion, Text(summary, "dim"), Text(), left]
    if missing:
        lines.append(
            Text(
                f"\nnot in this bank: {', '.join(missing)}; images with them come out unknown or wrong",
                "yellow",
            )
        )
    return Group(*lines)


def _row(bank: Bank, noise: str) -> dict[str, float]:
    """Shares of what images with a noise were found to have; severities 3 to 5 together."""
    confusion: dict[str, dict[str, int]] = bank.facts["held_out"]["confusion"]
    found: dict[str, int] = {}
    for severity in (0,) if noise == CLEAN else _HARSH:
        for name, count in confusion.get(f"{noise}:{severity}", {}).items():
            found[name] = found.get(name, 0) + count
    total = max(1, sum(found.values()))
    return {name: count / total for name, count in found.items()}


def _separation(bank: Bank) -> dict[str, float]:
    family = {item.noise: item.family for item in bank.prototypes}
    rows = {noise: _row(bank, noise) for noise in bank.noises}
    count = max(1, len(rows))
    return {
        "family": sum(
            sum(share for name, share in row.items() if family.get(name) == family[noise])
            for noise, row in rows.items()
        )
        / count,
        "exact": sum(row.get(noise, 0.0) for noise, row in rows.items()) / count,
        "clean": _row(bank, CLEAN).get(CLEAN, 0.0),
        "severity_within_one": bank.facts["held_out"]["severity_within_one"],
    }
