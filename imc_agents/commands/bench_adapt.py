"""``imc bench adapt`` and ``imc bench adapt-cost``: adaptation beside calibration, and what a step of it costs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imc_agents.commands.bench_image import EncoderOption

__all__ = ["bench_adapt", "bench_adapt_cost"]


def bench_adapt(
    encoder: EncoderOption,
    data: Annotated[
        Path, typer.Option("--data", metavar="PATH", help="Labelled images with the splits train and test.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="For adapters, encoders, banks and evaluations; goes on there.",
        ),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="Class prompts (YAML); default the built-in ones."),
    ] = None,
    shots: Annotated[float, typer.Option("--shots", help="Share of the training images.")] = 0.1,
    rank: Annotated[int, typer.Option("--rank", help="Rank of each adapter.")] = 16,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the shots.")] = 20,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images of a step.")] = 256,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of AdamW.")] = 1e-4,
    schedule: Annotated[str, typer.Option("--schedule", help="constant or cosine.")] = "constant",
    class_weights: Annotated[str, typer.Option("--class-weights", help="none or balanced.")] = "none",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Shots, adapter, bank and noise of each.")] = 3,
    bank_images: Annotated[int, typer.Option("--bank-images", min=20, help="Clean images of a bank.")] = 500,
    test_images: Annotated[
        int | None, typer.Option("--test-images", min=1, help="Test images at most; default all.")
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--table", metavar="SET", help="MedMNIST set whose strengths to take; default the data's."
        ),
    ] = None,
    severities: Annotated[
        str, typer.Option("--severities", metavar="N,...", help="Of 1 to 5.")
    ] = "1,2,3,4,5",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or cuda:N.")] = "cpu",
) -> None:
    """Compare an encoder as it is, adapted, calibrated, and both, under MedMNIST-C, with several seeds.

    A table on a terminal; one JSON line with all figures when piped.
    """
    from imc_agents.bench.adaptation import AdaptationRequest, bench_adaptation
    from imc_agents.bench.adaptation_summary import adaptation_table, summarise_adaptation
    from imc_agents.bench.text_files import make_output_folder
    from imc_agents.commands.adapt_options import check_device, fit_settings, severity_numbers

    settings = fit_settings(
        shots=shots,
        rank=rank,
        alpha=None,
        qkv="separate",
        epochs=epochs,
        batch=batch,
        accumulate=1,
        learning_rate=learning_rate,
        schedule=schedule,
        weight_decay=1e-4,
        class_weights=class_weights,
        precision="float32",
        seed=0,
    )
    check_device(device)
    make_output_folder(output)
    request = AdaptationRequest(
        encoder=encoder,
        data=data,
        prompts=prompts,
        settings=settings,
        seeds=seeds,
        bank_images=bank_images,
        test_images=test_images,
        table=table,
        severities=severity_numbers(severities),
    )
    figures = bench_adaptation(request, output, device=device, tell=lambda what: typer.echo(what, err=True))
    summary = summarise_adaptation(figures)
    known = {"command": ["imc", *sys.argv[1:]], **summary, "rows": [asdict(found) for found in figures]}
    (output / "adaptation.json").write_text(json.dumps(known, indent=1), encoding="utf-8")
    if not sys.stdout.isatty():
        typer.echo(json.dumps(known))
        return
    from rich.console import Console

    Console(highlight=False).print(adaptation_table(summary, f"{data.name}: {100 * shots:g} % shots"))


def bench_adapt_cost(
    encoder: EncoderOption,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images of a step.")] = 32,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of each adapter.")] = 16,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of a turn.")] = 5,
    turns: Annotated[int, typer.Option("--turns", min=1, help="Turns of each, by turns.")] = 7,
) -> None:
    """Measure a training step beside the same step written directly with peft and open_clip: time, and peak memory.

    Times are taken in one process by turns, the peak of memory in a process for each.
    """
    from imc_agents.bench.adaptation_cost import measure_cost

    found = measure_cost(encoder, batch=batch, rank=rank, steps=steps, turns=turns)
    if not sys.stdout.isatty():
        typer.echo(json.dumps({"command": ["imc", *sys.argv[1:]], **asdict(found)}))
        return
    typer.echo(
        f"a step of {batch} images: {found.ours_ms:.0f} ms, written directly {found.plain_ms:.0f} ms, ratio"
        f" {found.time_ratio:.2f} (medians of {turns} turns)"
    )
    typer.echo(
        f"peak memory of the process: {found.ours_mib:,.0f} MiB, written directly {found.plain_mib:,.0f} MiB, ratio"
        f" {found.memory_ratio:.2f}"
    )
