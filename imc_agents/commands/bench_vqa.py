"""``imc bench vqa``: answers of a served model about noisy images, calibrated against as they came."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.bench_options import names
from imc_agents.commands.options import (
    BackendOption,
    BaseUrlOption,
    ConfigOption,
    ModelOption,
    ProfileOption,
    SetOption,
    backend_keys,
    load_config,
    set_values,
)

if TYPE_CHECKING:
    from imc_agents.bench.vqa import Paired

__all__ = ["bench_vqa"]


def bench_vqa(
    bank: Annotated[
        str,
        typer.Option("--bank", metavar="DIR", help="Of the model's own vision encoder, from other images."),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Folder of VQA-RAD. [$IMC_SHARED/data/vqa_rad]"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--only", metavar="FILE", help="JSON list of the images to ask about; default all."),
    ] = None,
    noise: Annotated[
        str | None, typer.Option("--noises", metavar="NAME,...", help="Image noises by comma; default all.")
    ] = None,
    severity: Annotated[int, typer.Option("--severity", min=1, max=5, help="1 to 5.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Questions at most.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="JSON file with all figures.")
    ] = None,
    backend: BackendOption = "vllm",
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Measure the answers to closed questions about noisy images, calibrated against as they came.

    A table on a terminal; one JSON line when piped.
    """
    import asyncio
    import os
    import tempfile

    from imc_agents.bench.vqa import bench_vqa as measure
    from imc_agents.bench.vqa import closed_questions
    from imc_agents.errors import UsageError
    from imc_agents.noise.registry import get_noise, noises
    from imc_agents.vision.bank import load_bank

    folder = data or Path(os.environ.get("IMC_SHARED", "../shared")) / "data" / "vqa_rad"
    chosen = None if images is None else _listed(images)
    questions = closed_questions(folder, chosen)[:limit]
    specs = noises("image") if noise is None else tuple(get_noise(name, "image") for name in names(noise))
    size = load_bank(Path(bank)).encoder.image_size
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"{output}: its folder does not exist; create it first")

    def tell(row: Paired) -> None:
        typer.echo(f"{row.noise}: {row.raw} and {row.calibrated} of {row.questions} right", err=True)

    with tempfile.TemporaryDirectory(prefix="imc-vqa-") as work:
        shortcuts = {
            "run.answer": True,
            "pdc.bank": bank,
            "pdc.images": work,
            **backend_keys(backend, model, base_url),
        }
        resolved = load_config(config, profile, [*(overrides or ()), *set_values(shortcuts)]).config
        rows = asyncio.run(
            measure(
                resolved,
                questions,
                folder / "images",
                specs,
                severity=severity,
                seed=seed,
                work=Path(work),
                size=size,
                tell=tell,
            )
        )
    figures = {"command": ["imc", *sys.argv[1:]], "rows": [asdict(row) for row in rows]}
    if output is not None:
        output.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if not sys.stdout.isatty():
        typer.echo(json.dumps(figures))
        return
    _print(rows)


def _listed(path: Path) -> list[str]:
    from imc_agents.errors import UsageError

    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); write a JSON list of image names") from error
    if not isinstance(found, list):
        raise UsageError(f"{path}: no list; write a JSON list of image names")
    return [str(name) for name in found]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _print(rows: list[Paired]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("noise", style="cyan", no_wrap=True)
    for name in ("as it came", "calibrated", "points", "gained", "lost", "p", "images changed"):
        table.add_column(name, justify="right")
    for row in rows:
        raw, calibrated = (100 * count / row.questions for count in (row.raw, row.calibrated))
        table.add_row(
            row.noise,
            f"{raw:.1f} %",
            f"{calibrated:.1f} %",
            f"{calibrated - raw:+.1f}",
            str(row.gained),
            str(row.lost),
            f"{row.p:.2f}",
            f"{100 * row.treated / row.questions:.0f} %",
        )
    Console(highlight=False).print(table)
