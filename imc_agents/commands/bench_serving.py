"""``imc bench serving``: how close a run comes to what its server, or the wire to it, can do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from imc_agents.commands.bench_options import (
    DataOption,
    NoiseOption,
    QuestionsOption,
    SeverityOption,
    chosen_texts,
    numbers,
)
from imc_agents.commands.options import ConfigOption, ProfileOption, SetOption, load_config

__all__ = ["bench_serving"]


def bench_serving(
    data: DataOption = None,
    questions: QuestionsOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Questions.")] = 128,
    noise: NoiseOption = "typo",
    severity: SeverityOption = 2,
    in_flight: Annotated[
        str, typer.Option("--in-flight", metavar="N,...", help="Questions in flight, by comma.")
    ] = "1,8,32,128",
    turns: Annotated[int, typer.Option("--turns", min=1, help="How often the sides take turns.")] = 1,
    stub: Annotated[
        bool, typer.Option("--stub", help="Measure against a server that answers at once, without a model.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for serving.json (orchestration.json with --stub), the questions and the runs.",
        ),
    ] = None,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Measure a real run on a server beside the flat replay of its own calls, in turns, at several concurrencies.

    With --stub the orchestration alone: replies are recorded once, from any backend, and a server that answers at
    once gives them again, to the run and to a bare loop over the same requests. Prints a table on a terminal; one
    JSON line when piped.
    """
    import asyncio
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from imc_agents.bench.orchestration import bench_orchestration, orchestration_table
    from imc_agents.bench.serving import bench_serving as measure
    from imc_agents.bench.serving import serving_table
    from imc_agents.bench.text_files import make_output_folder

    levels = _levels(in_flight)
    resolved = load_config(config, profile, overrides).config
    texts = chosen_texts(data, questions, limit, noise, severity)
    if output is not None:
        make_output_folder(output)

    def tell(stage: str) -> None:
        typer.echo(stage, err=True)

    record: dict[str, Any]
    with nullcontext(str(output)) if output else TemporaryDirectory(prefix="imc-bench-") as name:
        folder = Path(name)
        if stub:
            work = bench_orchestration(texts, resolved, folder, levels=levels, turns=turns, on_stage=tell)
            found = asyncio.run(work)
            record, table = found.record(), orchestration_table(found)
        else:
            run = asyncio.run(measure(texts, resolved, folder, levels=levels, turns=turns, on_stage=tell))
            record, table = run.record(), serving_table(run)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(table)
    else:
        typer.echo(json.dumps(record))
    if output is not None:
        file = output / ("orchestration.json" if stub else "serving.json")
        settings = {"command": ["imc", *sys.argv[1:]], "config": resolved.model_dump(mode="json")}
        file.write_text(json.dumps(settings | record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        typer.echo(f"wrote {file}", err=True)


def _levels(listed: str) -> tuple[int, ...]:
    from imc_agents.errors import UsageError

    wanted = "numbers from 1 by comma, e.g. 1,8,32"
    levels = numbers(listed, "--in-flight", wanted)
    if not levels or min(levels) < 1:
        raise UsageError(f"--in-flight {listed!r}: write {wanted}")
    return levels
