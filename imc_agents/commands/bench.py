"""``imc bench``: measurements, each beside its baselines in one run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imc_agents.commands.options import ConfigOption, ProfileOption, SetOption, load_config

if TYPE_CHECKING:
    from imc_agents.bench.text import Cell, Plan, TextRun
    from imc_agents.config.schema import Config

__all__ = ["app"]

app = typer.Typer(help="Measure refinement against baselines.", no_args_is_help=True, add_completion=False)


@app.command("text")
def bench_text(
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="NAME=PATH",
            help="vqa-rad or slake and its folder or file; repeatable. [$IMC_SHARED/data]",
        ),
    ] = None,
    kinds: Annotated[str, typer.Option("--kinds", help="Noises, by comma; `imc noise list` shows them.")] = (
        "typo,ocr,asr,spacing,shorthand,drop_shuffle,casing,irrelevant"
    ),
    severities: Annotated[str, typer.Option("--severities", help="1 to 5, by comma.")] = "2",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="Distinct questions per data set.")
    ] = 300,
    methods: Annotated[str, typer.Option("--methods", help="Methods, by comma.")] = (
        "identity,symspell,pyspellchecker,rewrite,imc"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Noise every question this many times.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for summary.json, summary.csv and cases.jsonl."),
    ] = None,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Measure how well noisy questions are restored, and clean ones left alone, by every method side by side.

    Tables on a terminal; one JSON line per data set, noise, severity and method when piped.
    """
    import asyncio

    from imc_agents.bench.questions import default_data, load_questions, parse_data
    from imc_agents.bench.text import make_plan, run_text_bench
    from imc_agents.bench.text_files import make_output_folder, nested_row, write_files
    from imc_agents.bench.text_summary import guard_checker, summarise
    from imc_agents.errors import UsageError

    places = parse_data(data) if data else default_data()
    if not places:
        raise UsageError("no data: give --data vqa-rad=FOLDER or --data slake=FOLDER, or set IMC_SHARED")
    resolved = load_config(config, profile, overrides).config
    questions = {name: load_questions(name, place, limit) for name, place in places.items()}
    plan = make_plan(
        questions, _names(kinds), _numbers(severities), _names(methods), range(seed, seed + seeds)
    )
    if output is not None:
        make_output_folder(output)
    run = _with_progress(plan, lambda advance: asyncio.run(run_text_bench(plan, resolved, advance)))
    summaries, cases = summarise(run, guard_checker(resolved))
    if sys.stdout.isatty():
        from rich.console import Console

        from imc_agents.bench.text_tables import text_tables

        console = Console()
        console.print(text_tables(summaries, console.width))
    else:
        for summary in summaries:
            typer.echo(json.dumps(nested_row(summary), ensure_ascii=False))
    if output is not None:
        files = write_files(output, _settings(resolved, plan, limit, seed, seeds), summaries, cases)
        typer.echo(f"wrote {', '.join(map(str, files))}", err=True)


@app.command("rows")
def bench_rows(
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Length of the file.")] = 1_000_000,
    concurrency: Annotated[int, typer.Option("--concurrency", "-j", min=1, help="Rows in flight.")] = 64,
    points: Annotated[int, typer.Option("--points", min=1, help="How often to measure.")] = 20,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder that keeps input, run and output; default a temporary one."
        ),
    ] = None,
) -> None:
    """Show that a long file streams: rows a second and resident memory, with a scripted model.

    A table on a terminal; one JSON line with all points when piped.
    """
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from imc_agents.bench.rows import Point, rows_table
    from imc_agents.bench.rows import bench_rows as measure
    from imc_agents.bench.text_files import make_output_folder

    if output is not None:
        make_output_folder(output)

    def tell(point: Point) -> None:
        typer.echo(
            f"{point.stage} {point.rows:,} rows, {point.seconds:,.1f} s, {point.resident_mib:,.0f} MiB",
            err=True,
        )

    with nullcontext(str(output)) if output else TemporaryDirectory(prefix="imc-rows-") as folder:
        run = measure(Path(folder), rows, concurrency=concurrency, points=points, on_point=tell)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(rows_table(run))
    else:
        typer.echo(json.dumps(run.record()))


def _with_progress(plan: Plan, run: Callable[[Callable[[str, Cell], None]], TextRun]) -> TextRun:
    """Run with a progress bar on stderr, or one line per method and cell where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("loading", total=plan.total, rate="")

        def advance(method: str, cell: Cell) -> None:
            where = f"{method} {cell.dataset} {cell.kind}" + (f" {cell.severity}" if cell.severity else "")
            speed = progress.tasks[0].speed
            if progress.disable and progress.tasks[0].description != where:
                typer.echo(where, err=True)
            progress.update(task, advance=1, description=where, rate=f"{speed:.1f}/s" if speed else "")

        return run(advance)


def _settings(config: Config, plan: Plan, limit: int, seed: int, seeds: int) -> dict[str, object]:
    from imc_agents import __version__

    return {
        "version": __version__,
        "command": ["imc", *sys.argv[1:]],
        "limit": limit,
        "seed": seed,
        "seeds": seeds,
        "methods": list(plan.methods),
        "config": config.model_dump(mode="json"),
    }


def _names(listed: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def _numbers(listed: str) -> list[int]:
    from imc_agents.errors import UsageError

    try:
        return [int(number) for number in _names(listed)]
    except ValueError:
        raise UsageError(f"--severities {listed!r}: write numbers from 1 to 5 by comma, e.g. 1,2,3") from None
