"""``imc bench image`` and ``imc bench calibration``: what calibration wins back, and what it costs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.prototypes import DeviceOption, DtypeOption

if TYPE_CHECKING:
    from imc_agents.bench.image import Cell, Recognition

__all__ = ["bench_calibration", "bench_image"]


EncoderOption = Annotated[
    str,
    typer.Option("--encoder", metavar="SPEC", help="mllm:CHECKPOINT or open_clip:NAME[:PRETRAINED or PATH]."),
]


def bench_image(
    encoder: EncoderOption,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="With pneumoniamnist/ and vqa_rad/; default $IMC_SHARED/data."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs, each with its own bank and noise.")] = 3,
    bank_images: Annotated[int, typer.Option("--bank-images", min=20, help="Clean images of a bank.")] = 750,
    test_images: Annotated[
        int | None, typer.Option("--test-images", min=1, help="Test images of a task. [all]")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for image.json with every cell, written after each seed.",
        ),
    ] = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
) -> None:
    """Measure recognition of image noise and the accuracy that calibration wins back, beside filters and recentring.

    Tables on a terminal; one JSON line with all figures when piped.
    """
    from imc_agents.bench.image import bench_images
    from imc_agents.bench.image_summary import image_tables, summarise_images
    from imc_agents.bench.image_tasks import load_tasks
    from imc_agents.errors import UsageError
    from imc_agents.noise.registry import noises
    from imc_agents.vision.encoders.specs import load_encoder

    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder")
    tasks = load_tasks(data)
    loaded = load_encoder(encoder, device=device, dtype=dtype)

    def tell(what: str) -> None:
        typer.echo(what, err=True)

    def summary(cells: list[Cell], recognitions: list[Recognition]) -> dict[str, Any]:
        known = {"command": ["imc", *sys.argv[1:]], "encoder": asdict(loaded.info)}
        return known | summarise_images(cells, recognitions)

    def keep(cells: list[Cell], recognitions: list[Recognition]) -> None:
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            rows = {"cells": [asdict(cell) for cell in cells], "found": [asdict(row) for row in recognitions]}
            text = json.dumps(summary(cells, recognitions) | rows, indent=1)
            (output / "image.json").write_text(text, encoding="utf-8")
            tell(f"wrote {output / 'image.json'}")

    figures = summary(
        *bench_images(
            loaded,
            tasks,
            noises("image"),
            seeds=seeds,
            bank_images=bank_images,
            test_images=test_images,
            tell=tell,
            keep=keep,
        )
    )
    if not sys.stdout.isatty():
        typer.echo(json.dumps(figures))
        return
    from rich.console import Console

    Console(highlight=False).print(image_tables(figures))


def bench_calibration(
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="Clean images.")],
    encoder: EncoderOption,
    limit: Annotated[int, typer.Option("--limit", "-n", min=32, help="Images of the bank.")] = 100,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images encoded at once.")] = 32,
    turns: Annotated[int, typer.Option("--turns", min=1, help="How often both sides take turns.")] = 3,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
) -> None:
    """Measure what calibration and the building of a bank cost beside the encoder's own forward pass.

    A table on a terminal; one JSON line when piped.
    """
    from imc_agents.bench.calibration_cost import measure_cost
    from imc_agents.commands.listing import Item, print_items
    from imc_agents.noise.registry import noises
    from imc_agents.vision.encoders.specs import load_encoder
    from imc_agents.vision.folder import folder_samples

    samples = folder_samples(images, limit, lambda error: typer.echo(f"left out: {error}", err=True))
    loaded = load_encoder(encoder, device=device, dtype=dtype)
    cost = measure_cost(loaded, samples, noises("image"), batch=batch, turns=turns)
    if not sys.stdout.isatty():
        typer.echo(json.dumps({"command": ["imc", *sys.argv[1:]], **asdict(cost)}))
        return
    print_items(
        [
            Item(
                "encoder", f"{cost.encode_ms:.2f} ms an image", f"bare forward pass, batches of {cost.batch}"
            ),
            Item(
                "calibration",
                f"{100 * cost.noisy_share:.1f} % of that",
                f"{cost.noisy_ms:.2f} ms an image with noise",
            ),
            Item(
                "clean images", f"{100 * cost.clean_share:.1f} % of that", f"{cost.clean_ms:.2f} ms an image"
            ),
            Item(
                "bank",
                f"{cost.bank_ratio:.2f} of the encoder's throughput",
                f"{cost.bank_per_second:.0f} of {cost.bare_per_second:.0f} images/s, {cost.bank_encodings:,} encoded",
            ),
        ]
    )
