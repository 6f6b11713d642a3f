"""``imc bench noise``: what every corruption of an image costs, beside the published code."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imc_agents.bench.noise_speed import NoiseSpeed

__all__ = ["bench_noise"]


def bench_noise(
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="An image; default a drawn one in colour.")
    ] = None,
    size: Annotated[
        int, typer.Option("--size", min=28, max=4096, help="Pixels of each side that it is brought to.")
    ] = 224,
    oracle: Annotated[
        str | None,
        typer.Option(
            "--oracle",
            metavar="PYTHON",
            help="A Python with medmnistc and imagecorruptions, to time them in turns.",
        ),
    ] = None,
    turns: Annotated[int, typer.Option("--turns", min=1, help="How often ours and theirs take turns.")] = 9,
) -> None:
    """Measure the milliseconds of every corruption of an image, beside the published code.

    A table on a terminal; one JSON line a corruption when piped.
    """
    from imc_agents.bench.noise_speed import drawn_picture, measure_speed

    piped = not sys.stdout.isatty()

    def tell(row: NoiseSpeed) -> None:
        if piped:
            typer.echo(json.dumps(asdict(row)))
        else:
            typer.echo(f"{row.suite}/{row.name}", err=True)

    picture = drawn_picture(size) if image is None else _opened(image, size)
    rows = measure_speed(picture, oracle=oracle, turns=turns, tell=tell)
    if not piped:
        _print(rows)


def _opened(path: Path, size: int) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    from imc_agents.errors import UsageError

    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    except (OSError, Image.DecompressionBombError) as error:
        raise UsageError(f"--image {path}: cannot be read as an image ({error})") from error


def _print(rows: list[NoiseSpeed]) -> None:
    from rich.console import Console
    from rich.table import Table

    from imc_agents.bench.noise_speed import ratios

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("corruption", style="cyan", no_wrap=True)
    for column in ("ms an image", "published", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        theirs = "" if row.published_ms is None else f"{row.published_ms:.2f}"
        ratio = "fails" if row.error else "" if row.ratio is None else f"{row.ratio:.1f}"
        table.add_row(f"{row.suite}/{row.name}", f"{row.ms:.2f}", theirs, ratio)
    console = Console(highlight=False)
    console.print(table)
    found = ratios(rows)
    if found:
        console.print(f"[dim]ratio: {found[0]:.1f} at least, {found[1]:.1f} in the median[/]")
