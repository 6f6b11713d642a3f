"""``imc noise``: look at the noises and put them on text, images and whole files."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.noise_apply import TableOption, noise_apply
from imc_agents.commands.noise_preview import noise_preview
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    from imc_agents.noise.registry import NoiseSpec, Strength
    from imc_agents.noise.text import Noised

__all__ = ["app"]

app = typer.Typer(help="Add seeded noise to text and images.", no_args_is_help=True, add_completion=False)


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
def list_noises(
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="medmnist-c or medimeta-c; by default imc-11, extra and installed ones.",
        ),
    ] = None,
    table: TableOption = None,
) -> None:
    """List the noises with their severities."""
    from imc_agents.noise.registry import noises, table_noises

    if table is not None and suite not in (None, "medmnist-c"):
        raise UsageError(
            f"--table {table}: only the severities of medmnist-c depend on the data set; leave it out"
        )
    specs = noises(suite=suite) if table is None else table_noises(table)
    if not sys.stdout.isatty():
        for spec in specs:
            typer.echo(json.dumps(_row(spec, table), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    shown.add_column("noise", style="cyan", no_wrap=True)
    shown.add_column("on", no_wrap=True)
    shown.add_column("family")
    shown.add_column("severities 1..5", overflow="fold")
    shown.add_column("what happens")
    for spec in specs:
        sets = "of " + ", ".join(name.removesuffix("mnist") for name in spec.tables)
        strengths = " ".join(map(_strength, _strengths(spec, table))) or sets
        unit = f"per {spec.per}" if spec.modality == "text" else spec.per
        shown.add_row(
            spec.full_name, spec.modality, spec.family, strengths, f"{spec.description} [dim]({unit})[/]"
        )
    Console(highlight=False).print(shown)


app.command("apply")(noise_apply)
app.command("preview")(noise_preview)


def _row(spec: NoiseSpec, table: str | None) -> dict[str, Any]:
    return {
        "name": spec.full_name,
        "suite": spec.suite,
        "modality": spec.modality,
        "family": spec.family,
        "description": spec.description,
        "per": spec.per,
        "strengths": _strengths(spec, table),
        "variants": spec.variants,
        "tables": dict(spec.tables),
    }


def _strengths(spec: NoiseSpec, table: str | None) -> tuple[Strength, ...]:
    return spec.strengths if table is None else spec.tables[table]


def _strength(strength: Strength) -> str:
    if isinstance(strength, tuple):
        return "(" + ",".join(f"{part:g}" for part in strength) + ")"
    return f"{strength:g}"


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
