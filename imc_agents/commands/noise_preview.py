"""``imc noise preview``: what the noises do to an image, on one sheet."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from imc_agents.commands.noise_apply import DatasetOption, SeedOption, TableOption

__all__ = ["noise_preview"]


def noise_preview(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The sheet; NAME.noises.png here by default."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="Whose noises; imc-11 by default."),
    ] = None,
    noises: Annotated[
        str | None,
        typer.Option("--noises", metavar="NAME,...", help="Only these, of the suite if one is given."),
    ] = None,
    table: TableOption = None,
    severity: Annotated[
        str, typer.Option("--severity", "-s", metavar="S", help="Such as 1,3,5, or all.")
    ] = "all",
    size: Annotated[
        int, typer.Option("--size", min=64, max=1024, help="Longer side of the image in pixels.")
    ] = 224,
    seed: SeedOption = 0,
    dataset: DatasetOption = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a sheet that is there.")] = False,
) -> None:
    """Draw an image with every noise at every severity on one sheet."""
    from imc_agents.errors import UsageError
    from imc_agents.noise.output import check_output, written
    from imc_agents.noise.recipe import make_recipe, parse_severities
    from imc_agents.noise.registry import noises as known
    from imc_agents.noise.sheet import draw_sheet
    from imc_agents.vision.reading import read_image

    if not image.is_file():
        raise UsageError(f"{image}: there is no such image file")
    target = output or Path(f"{image.stem}.noises.png")
    if target.suffix.lower() != ".png":
        raise UsageError(f"{target}: the sheet is a PNG; call it {target.stem}.png")
    check_output(image, target, folder=False, overwrite=overwrite)
    chosen = suite or "imc-11"
    known(suite=chosen)
    if noises is not None:
        names = [name.strip() for name in noises.split(",")]
        chosen = ",".join(f"{suite}/{name}" if suite else name for name in names)
    recipe = make_recipe(chosen, parse_severities(severity), "image", seed=seed, dataset=dataset, table=table)
    about = [image.name, *([suite] if suite else []), *([table] if table else []), f"seed {seed}"]
    sheet = draw_sheet(read_image(image), ", ".join(about), recipe, size, image.name)
    with written(target) as stream:
        sheet.save(stream, "PNG")
    if sys.stdout.isatty():
        typer.echo(f"{target}: {sheet.width:,} x {sheet.height:,} pixels")
        return
    names = list(dict.fromkeys(step.name for step in recipe.steps))
    row = {"input": str(image), "output": str(target), "noises": names}
    typer.echo(json.dumps(row | {"width": sheet.width, "height": sheet.height}, ensure_ascii=False))
