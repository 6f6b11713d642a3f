"""``imc adapt eval``: an encoder under every noise of a suite, as it is, adapted, calibrated, and both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["adapt_eval"]


def adapt_eval(
    encoder: Annotated[
        str, typer.Option("--encoder", metavar="SPEC", help="open_clip:NAME[:PRETRAINED or PATH].")
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="PATH", help="MedMNIST file, MedIMeta folder, or table of images and labels."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the evaluation; `imc bench report` reads it."
        ),
    ],
    adapter: Annotated[
        Path | None, typer.Option("--adapter", metavar="DIR", help="Adapter of the encoder (method adapt).")
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate",
            metavar="BANK",
            help="Bank of the encoder (method calibrate), or of the encoder with the adapter folded in (both); may be"
            " given twice.",
        ),
    ] = None,
    suite: Annotated[str, typer.Option("--suite", help="medmnist-c, medimeta-c or imc-11.")] = "medmnist-c",
    table: Annotated[
        str | None,
        typer.Option(
            "--table", metavar="SET", help="MedMNIST set whose strengths to take; default the data's."
        ),
    ] = None,
    noises: Annotated[
        str | None, typer.Option("--noises", metavar="NAME,...", help="Only these of the suite.")
    ] = None,
    severities: Annotated[
        str, typer.Option("--severities", metavar="N,...", help="Of 1 to 5.")
    ] = "1,2,3,4,5",
    split: Annotated[str, typer.Option("--split", help="Which images of the data.")] = "test",
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="Class prompts (YAML); default the built-in ones."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Images at most.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images encoded at once.")] = 64,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or cuda:N.")] = "cpu",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the noise.")] = 0,
) -> None:
    """Classify images by class prompts under every noise and severity, and report.

    Accuracy, balanced accuracy and AUROC; `imc bench report DIR --against DIR2` gives mCE against another evaluation.
    Interrupted, the same command goes on with the conditions that are missing.
    """
    from imc_agents.adapt.evaluate import EvalRequest, evaluate, plan_eval
    from imc_agents.commands.adapt_options import check_device, severity_numbers
    from imc_agents.commands.bench_options import names
    from imc_agents.commands.bench_report import bench_report
    from imc_agents.commands.progress import watched
    from imc_agents.errors import UsageError

    check_device(device)
    if noises is not None and not names(noises):
        raise UsageError("--noises: none is given; leave it out for all, or name some by comma")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder for the evaluation")
    request = EvalRequest(
        encoder=encoder,
        data=data,
        split=split,
        adapter=adapter,
        banks=tuple(calibrate or ()),
        suite=suite,
        table=table,
        noises=names(noises) if noises is not None else None,
        severities=severity_numbers(severities),
        prompts=prompts,
        limit=limit,
        seed=seed,
    )
    plan = plan_eval(request, device=device)
    total = len(plan.images) * len(plan.evaluation.conditions)
    try:
        with watched(total, "images") as advance:
            evaluate(plan, output, batch=batch, advance=advance)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the same command goes on with {output}", err=True)
        raise typer.Exit(130) from None
    bench_report(str(output))
