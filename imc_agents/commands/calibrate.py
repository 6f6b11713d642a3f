"""``imc calibrate``: which noise an image has, and what calibration does to its features."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.prototypes import DeviceOption

if TYPE_CHECKING:
    from imc_agents.vision.calibration import Treatment

__all__ = ["calibrate"]


def calibrate(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    bank: Annotated[Path, typer.Option("--bank", metavar="DIR", help="From `imc prototypes build`.")],
    operator: Annotated[
        str,
        typer.Option("--operator", help="auto, identity, or an operator; `imc prototypes show` lists them."),
    ] = "auto",
    strength: Annotated[float, typer.Option("--strength", min=0, help="Factor on the correction.")] = 1.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for a picture of each image.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", metavar="SPEC", help="Where the bank's encoder is now, if it was moved."),
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Tell which noise images have and calibrate their features.

    A line per image on a terminal, JSON lines when piped. Exit code 3 if an image could not be read.
    """
    from imc_agents.errors import DataError
    from imc_agents.vision.bank import check_encoder, load_bank
    from imc_agents.vision.calibration import correct, perceive
    from imc_agents.vision.encoders.specs import load_encoder
    from imc_agents.vision.operators import AUTO, IDENTITY, get_operator
    from imc_agents.vision.picture import draw_calibration
    from imc_agents.vision.reading import read_image
    from imc_agents.vision.statistics import patch_statistics

    if operator not in (AUTO, IDENTITY):
        get_operator(operator)
    known = load_bank(bank)
    loaded = load_encoder(encoder or known.encoder.spec, device=device, dtype=known.encoder.dtype)
    check_encoder(known, loaded.info, str(bank))
    failed = False
    drawn: set[Path] = set()
    for path in images:
        try:
            image = read_image(path)
            encoded = loaded.encode(loaded.preprocess([image]), known.layers)
            done = correct(
                known, encoded.tokens, perceive(known, encoded), operator=operator, strength=strength
            )
            treatment = done.treatments[0]
            picture = None
            if output is not None:
                first = loaded.info.prefix_tokens
                picture = _free_name(output, path, drawn)
                draw_calibration(
                    picture,
                    image,
                    known,
                    treatment,
                    patch_statistics(encoded.layers[known.layers[0]], known.perception.basis)[0],
                    encoded.tokens.rows[first:],
                    done.tokens.rows[first:],
                    encoded.grids[0],
                )
        except DataError as error:
            failed = True
            typer.echo(f"imc: error: {error}", err=True)
            continue
        _show(path, treatment, picture)
    if failed:
        raise typer.Exit(3)


def _free_name(folder: Path, image: Path, taken: set[Path]) -> Path:
    """A picture's name, which is never that of an image, nor of the picture of another image with the same name."""
    name = folder / f"{image.stem}.calibration.png"
    number = 1
    while name in taken:
        number += 1
        name = folder / f"{image.stem}.calibration-{number}.png"
    taken.add(name)
    return name


def _show(path: Path, treatment: Treatment, picture: Path | None) -> None:
    from imc_agents.agents.sight import recorded

    event = recorded(str(path), treatment)
    if not sys.stdout.isatty():
        row: dict[str, Any] = {
            **event.model_dump(exclude={"type", "agent", "round"}),
            "distance": round(treatment.finding.distance, 3),
            "typical": treatment.finding.typical,
            "picture": str(picture) if picture else None,
        }
        typer.echo(json.dumps(row, ensure_ascii=False))
        return
    from rich.console import Console

    from imc_agents.trace.calibration import calibration_line
    from imc_agents.trace.look import Look

    console = Console(highlight=False)
    line = calibration_line(event, Look.of(console, console.options))
    if picture:
        line.append(f"  {picture}", "dim")
    console.print(line, soft_wrap=True)
