"""``imc noise``: look at what the noises do to a text."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from imc_agents.noise.text import Noised

__all__ = ["app"]

app = typer.Typer(help="Add seeded noise to text.", no_args_is_help=True, add_completion=False)


@app.command("text")
def text_noise(
    text: Annotated[str, typer.Argument(help="The clean text, or - to read one text a line from stdin.")],
    kind: Annotated[
        str, typer.Option("--kind", "-k", help="Which noise; `imc noise list` shows them.")
    ] = "typo",
    severity: Annotated[int, typer.Option("--severity", "-s", help="1 (mild) to 5 (harsh).")] = 2,
    all_severities: Annotated[
        bool, typer.Option("--all-severities", help="Show all five, mildest first.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Base seed.")] = 0,
    sample_id: Annotated[str, typer.Option("--id", help="Sample id; each sample draws independently.")] = "",
    dataset: Annotated[str, typer.Option("--dataset", help="Data set name; part of the seed.")] = "",
) -> None:
    """Put noise on a text: a coloured diff on a terminal, one JSON line per severity when piped."""
    from imc_agents.noise.registry import SEVERITIES, check_severity
    from imc_agents.noise.text import apply_text_noise

    check_severity(severity)
    texts = [line.rstrip("\r\n") for line in sys.stdin] if text == "-" else [text]
    for number, clean in enumerate(texts, start=1):
        # Lines of stdin are samples of their own, as rows of a file are.
        identity = f"{sample_id}{number}" if text == "-" else sample_id
        for level in SEVERITIES if all_severities else (severity,):
            noised = apply_text_noise(clean, kind, level, seed=seed, sample_id=identity, dataset=dataset)
            _show(clean, kind, level, seed, identity, noised)


@app.command("list")
def list_noises() -> None:
    """List the noises with their severities."""
    from imc_agents.noise.registry import noises

    if not sys.stdout.isatty():
        for spec in noises():
            row = {"name": spec.name, "modality": spec.modality, "description": spec.description}
            typer.echo(json.dumps(row | {"per": spec.per, "strengths": spec.strengths}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("noise", style="cyan", no_wrap=True)
    table.add_column("severities 1..5", no_wrap=True)
    table.add_column("what happens")
    for spec in noises():
        strengths = " ".join(f"{strength:g}" for strength in spec.strengths)
        table.add_row(spec.name, strengths, f"{spec.description} [dim](per {spec.per})[/]")
    Console().print(table)


def _show(clean: str, kind: str, severity: int, seed: int, sample_id: str, noised: Noised) -> None:
    from dataclasses import asdict

    if not sys.stdout.isatty():
        row = {"id": sample_id, "kind": kind, "severity": severity, "seed": seed, "text": clean}
        row |= {"noisy": noised.text, "slips": [asdict(slip) for slip in noised.slips]}
        typer.echo(json.dumps(row, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    from imc_agents.trace.diff import word_diff
    from imc_agents.trace.look import Look

    console = Console(highlight=False)
    count = f"{len(noised.slips):>2} slip{'s' if len(noised.slips) != 1 else ' '}  "
    line = Text().append(f"{kind} {severity} ", "cyan").append(count, "dim")
    diff = word_diff(clean, noised.text, Look.of(console, console.options), crop=False)
    console.print(line.append_text(diff), soft_wrap=True)
