"""``imc adapt``: adapt the image encoder of a CLIP model with a few clean images, evaluate it, fold the adapter in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.adapt_eval import adapt_eval

if TYPE_CHECKING:
    from imc_agents.adapt.fit import FitPlan
    from imc_agents.adapt.state import Epoch

__all__ = ["app"]

app = typer.Typer(
    help="Adapt CLIP encoders with a few clean images (RobustMedCLIP) and judge them under noise.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("eval")(adapt_eval)

_INTERRUPTED = 130


@app.command("fit")
def adapt_fit(
    encoder: Annotated[
        str, typer.Option("--encoder", metavar="SPEC", help="open_clip:NAME[:PRETRAINED or PATH].")
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="PATH", help="MedMNIST file, MedIMeta folder, or table of images and labels."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the adapter.")],
    shots: Annotated[
        float, typer.Option("--shots", help="Share of the training images of each class; 0.1 is 10 %.")
    ] = 0.1,
    rank: Annotated[int, typer.Option("--rank", help="Rank of each adapter.")] = 16,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Adapters are scaled by alpha / rank; default the rank.")
    ] = None,
    qkv: Annotated[
        str,
        typer.Option("--qkv", help="separate or fused: an adapter each for query, key and value, or one."),
    ] = "separate",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the shots.")] = 20,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images of a step.")] = 256,
    accumulate: Annotated[
        int,
        typer.Option("--accumulate", min=1, help="Parts that a step's images go through in; saves memory."),
    ] = 1,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of AdamW.")] = 1e-4,
    schedule: Annotated[
        str, typer.Option("--schedule", help="constant, or cosine: the learning rate falls to nothing.")
    ] = "constant",
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0, help="Of AdamW.")] = 1e-4,
    class_weights: Annotated[
        str, typer.Option("--class-weights", help="none or balanced: classes weigh alike in the loss.")
    ] = "none",
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="Class prompts (YAML); default the built-in ones."),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, bfloat16, or on a GPU float16.")
    ] = "float32",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or cuda:N.")] = "cpu",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of shots, first values and order.")] = 42,
) -> None:
    """Train low-rank adapters on a few clean images; the epoch that does best on validation images is kept.

    Defaults are those of RobustMedCLIP. Interrupted, the same command goes on from where it was.
    """
    from imc_agents.adapt.fit import finished, fit, plan_fit
    from imc_agents.adapt.train import InterruptedFitError
    from imc_agents.commands.adapt_options import check_device, fit_settings, stopping
    from imc_agents.commands.progress import watched
    from imc_agents.errors import UsageError

    settings = fit_settings(
        shots=shots,
        rank=rank,
        alpha=alpha,
        qkv=qkv,
        epochs=epochs,
        batch=batch,
        accumulate=accumulate,
        learning_rate=learning_rate,
        schedule=schedule,
        weight_decay=weight_decay,
        class_weights=class_weights,
        precision=precision,
        seed=seed,
    )
    check_device(device, precision)
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder for the adapter")
    plan = plan_fit(encoder, data, prompts, settings)
    there = finished(plan, output)
    if there is not None:
        _conclude(there, output)
        return
    _introduce(plan)

    def tell(epoch: int, found: Epoch) -> None:
        typer.echo(
            f"epoch {epoch + 1}/{epochs}: loss {found.loss:.3f}, validation {found.validation_loss:.3f}, balanced"
            f" accuracy {100 * found.balanced_accuracy:.1f} %",
            err=True,
        )

    steps = epochs * -(-len(plan.shots) // batch)
    try:
        with stopping() as stop, watched(steps, "steps") as advance:
            record = fit(plan, output, device=device, advance=advance, tell=tell, stop=stop)
    except (InterruptedFitError, KeyboardInterrupt):
        typer.echo(f"interrupted; the same command goes on with {output}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    _conclude(record, output)


@app.command("merge")
def adapt_merge(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of the adapter.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="New folder for the encoder.")
    ],
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", metavar="SPEC", help="What it was fitted to; default as its record says."),
    ] = None,
) -> None:
    """Write an encoder with the adapter folded in, which works everywhere as open_clip:DIR."""
    from imc_agents.adapt.fit import create_encoder
    from imc_agents.adapt.merge import check_encoder, fold, write_folded
    from imc_agents.adapt.state import read_record

    spec = encoder or str(read_record(adapter)["made_with"]["encoder"])
    created = create_encoder(spec)
    check_encoder(adapter, spec, created)
    folded = fold(created, adapter)
    differences = {"folded": folded.difference, "written": write_folded(folded, output)}
    if not sys.stdout.isatty():
        typer.echo(json.dumps({"encoder": f"open_clip:{output}", "differences": differences}))
        return
    typer.echo(f"wrote {output}; use it as open_clip:{output}")
    typer.echo(
        f"normalised embeddings of {spec} with the adapter and of this encoder differ by at most"
        f" {max(differences.values()):.1g}"
    )


def _introduce(plan: FitPlan) -> None:
    counts = dict.fromkeys(plan.shots.classes, 0)
    for label in plan.shots.labels.tolist():
        counts[plan.shots.classes[label]] += 1
    listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    where = "set aside from them" if plan.held_out else "of the split val"
    typer.echo(
        f"{len(plan.shots):,} training images of {plan.shots.name} ({listed}); {len(plan.validation):,} {where}"
        " choose the epoch",
        err=True,
    )


def _conclude(record: dict[str, Any], output: Path) -> None:
    before = record["zero_shot"]["balanced_accuracy"]
    best = record["best_epoch"]
    after = record["history"][best - 1]["balanced_accuracy"]
    if not sys.stdout.isatty():
        line = {"adapter": str(output), "best_epoch": best, "zero_shot": before, "adapted": after}
        typer.echo(json.dumps(line))
    else:
        typer.echo(
            f"wrote {output}: epoch {best} of {len(record['history'])}, balanced accuracy on validation images"
            f" {100 * after:.1f} %, without adapter {100 * before:.1f} %"
        )
    if after < before:
        typer.echo(
            "no epoch did better than the encoder without adapter; try more --shots or --epochs, or another"
            " --learning-rate",
            err=True,
        )
