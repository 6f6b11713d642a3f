"""``imc prototypes``: build banks of noise prototypes and show what is in them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from imc_agents.errors import DataError
    from imc_agents.vision.bank import Bank

__all__ = ["app"]

app = typer.Typer(
    help="Build banks of noise prototypes and look into them.", no_args_is_help=True, add_completion=False
)

DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, or cuda:N.")]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="float32, bfloat16, or auto: that of the checkpoint.")
]


@app.command("build")
def build(
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="Clean images; no labels needed.")],
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder", metavar="SPEC", help="mllm:CHECKPOINT or open_clip:NAME[:PRETRAINED or PATH]."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the bank.")],
    noises: Annotated[
        str | None,
        typer.Option("--noises", metavar="NAME,...", help="Image noises by comma; default all of imc-11."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=10, help="Images at most, evenly spread.")
    ] = None,
    groups: Annotated[
        int, typer.Option("--groups", min=1, max=16, help="Groups of alike images with own prototypes.")
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise.")] = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images encoded at once.")] = 32,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
) -> None:
    """Build a bank: corrupt clean images with every noise and severity, and keep what the encoder makes of them.

    Images that cannot be read are named and left out. Exit code 3 if that is more than one in twenty.
    """
    from imc_agents.errors import UsageError
    from imc_agents.noise.registry import get_noise
    from imc_agents.noise.registry import noises as known
    from imc_agents.vision.bank import save_bank
    from imc_agents.vision.build import build_bank, encodings
    from imc_agents.vision.encoders.specs import load_encoder
    from imc_agents.vision.folder import folder_samples

    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder for the bank")
    names = [name.strip() for name in noises.split(",")] if noises is not None else None
    chosen = known("image") if names is None else tuple(get_noise(name, "image") for name in names)
    skipped: list[DataError] = []

    def skip(error: DataError) -> None:
        skipped.append(error)
        typer.echo(f"left out: {error}", err=True)

    samples = folder_samples(images, limit, skip)
    loaded = load_encoder(encoder, device=device, dtype=dtype)
    with _progress(encodings(len(samples), chosen)) as advance:
        bank = build_bank(loaded, samples, chosen, seed=seed, groups=groups, batch=batch, advance=advance)
    save_bank(bank, output)
    _show(bank, output)
    if len(skipped) > 0.05 * (len(samples) + len(skipped)):
        raise typer.Exit(3)


@app.command("show")
def show(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="Folder of the bank.")],
) -> None:
    """Tell what is in a bank and how well it separates the noises on held-out images."""
    from imc_agents.vision.bank import load_bank

    _show(load_bank(bank), bank)


def _progress(total: int) -> Any:
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def watched() -> Any:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("encoding", total=total)

            def advance(count: int) -> None:
                progress.advance(task, count)

            yield advance

    return watched()


def _show(bank: Bank, folder: Path) -> None:
    from imc_agents.vision.report import bank_report, bank_tables

    if not sys.stdout.isatty():
        typer.echo(json.dumps(bank_report(bank, folder), ensure_ascii=False))
        return
    from rich.console import Console

    Console(highlight=False).print(bank_tables(bank, folder))
