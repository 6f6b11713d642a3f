"""``imc bench``: measurements, each beside its baselines in one run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imc_agents.commands.bench_adapt import bench_adapt, bench_adapt_cost
from imc_agents.commands.bench_image import bench_calibration, bench_image
from imc_agents.commands.bench_noise import bench_noise
from imc_agents.commands.bench_options import (
    DataOption,
    NoiseOption,
    QuestionsOption,
    SeverityOption,
    chosen_texts,
    names,
    numbers,
    places,
)
from imc_agents.commands.bench_report import bench_compare, bench_report
from imc_agents.commands.bench_run import bench_run
from imc_agents.commands.bench_serving import bench_serving
from imc_agents.commands.options import ConfigOption, ProfileOption, SetOption, load_config

if TYPE_CHECKING:
    from imc_agents.bench.text import Cell, Plan, TextRun
    from imc_agents.bench.text_store import CellStore, Options

__all__ = ["app"]

_INTERRUPTED = 130

app = typer.Typer(help="Measure refinement against baselines.", no_args_is_help=True, add_completion=False)


@app.command("text")
def bench_text(
    ctx: typer.Context,
    data: DataOption = None,
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
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="DIR", help="Go on with the one in this folder, as it was started."),
    ] = None,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Measure how well noisy questions are restored, and clean ones left alone, by every method side by side.

    Tables on a terminal; one JSON line per data set, noise, severity and method when piped.
    """
    from imc_agents.bench.text_files import make_output_folder
    from imc_agents.bench.text_store import CellStore, Options

    if resume is not None:
        _alone(ctx, "resume")
        store = CellStore(resume)
        options = store.options()
    else:
        options = Options(
            command=("imc", *sys.argv[1:]),
            data={name: str(place.absolute()) for name, place in places(data).items()},
            kinds=names(kinds),
            severities=numbers(severities, "--severities", "numbers from 1 to 5 by comma, e.g. 1,2,3"),
            limit=limit,
            methods=names(methods),
            seed=seed,
            seeds=seeds,
            config=load_config(config, profile, overrides).config,
        )
        store = None if output is None else CellStore(output)
    plan = _plan(options)
    if store is not None and resume is None:
        make_output_folder(store.folder)
        store.begin(options)
    _restore_all(options, plan, store)


def _restore_all(options: Options, plan: Plan, store: CellStore | None) -> None:
    """Run the plan, or what is left of it, and report."""
    import asyncio

    from imc_agents.bench.text import run_text_bench
    from imc_agents.bench.text_files import nested_row, write_files
    from imc_agents.bench.text_summary import guard_checker, summarise

    try:
        run = _with_progress(
            plan, lambda advance: asyncio.run(run_text_bench(plan, options.config, advance, store))
        )
    except KeyboardInterrupt:
        cure = "with -o DIR finished parts would have been kept"
        if store is not None:
            cure = f"go on with: imc bench text --resume {store.folder}"
        typer.echo(f"interrupted; {cure}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    summaries, cases = summarise(run, guard_checker(options.config))
    if sys.stdout.isatty():
        from rich.console import Console

        from imc_agents.bench.text_tables import text_tables

        console = Console()
        console.print(text_tables(summaries, console.width))
    else:
        for summary in summaries:
            typer.echo(json.dumps(nested_row(summary), ensure_ascii=False))
    if store is not None:
        from imc_agents import __version__

        settings = {"version": __version__} | options.model_dump(mode="json")
        files = write_files(store.folder, settings, summaries, cases)
        typer.echo(f"wrote {', '.join(map(str, files))}", err=True)


@app.command("embedded")
def bench_embedded(
    data: DataOption = None,
    questions: QuestionsOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Questions.")] = 300,
    noise: NoiseOption = "typo",
    severity: SeverityOption = 2,
    turns: Annotated[
        int, typer.Option("--turns", min=1, help="How often pipeline and bare model take turns.")
    ] = 2,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for embedded.json, the questions and the runs."),
    ] = None,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Measure a real run beside the bare embedded model on the same tokens, in turns, and the memory it takes.

    A table on a terminal; one JSON line with all figures when piped.
    """
    import asyncio
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from imc_agents.bench.embedded import bench_embedded as measure
    from imc_agents.bench.embedded import embedded_table
    from imc_agents.bench.text_files import make_output_folder

    resolved = load_config(config, profile, overrides).config
    texts = chosen_texts(data, questions, limit, noise, severity)
    if output is not None:
        make_output_folder(output)
    with nullcontext(str(output)) if output else TemporaryDirectory(prefix="imc-bench-") as folder:
        work = measure(
            texts, resolved, Path(folder), turns=turns, on_stage=lambda stage: typer.echo(stage, err=True)
        )
        run = asyncio.run(work)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(embedded_table(run))
    else:
        typer.echo(json.dumps(run.record()))
    if output is not None:
        file = output / "embedded.json"
        record = {
            "command": ["imc", *sys.argv[1:]],
            "config": resolved.model_dump(mode="json"),
        } | run.record()
        file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        typer.echo(f"wrote {file}", err=True)


app.command("run")(bench_run)
app.command("report")(bench_report)
app.command("compare")(bench_compare)
app.command("serving")(bench_serving)
app.command("image")(bench_image)
app.command("calibration")(bench_calibration)
app.command("adapt")(bench_adapt)
app.command("adapt-cost")(bench_adapt_cost)
app.command("noise")(bench_noise)


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


def _plan(options: Options) -> Plan:
    from imc_agents.bench.questions import load_questions
    from imc_agents.bench.text import make_plan

    questions = {name: load_questions(name, Path(at), options.limit) for name, at in options.data.items()}
    seeds = range(options.seed, options.seed + options.seeds)
    return make_plan(questions, options.kinds, options.severities, options.methods, seeds)


def _alone(ctx: typer.Context, option: str) -> None:
    """Refuse other options beside one that implies them all."""
    from imc_agents.errors import UsageError

    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if (source := ctx.get_parameter_source(parameter.name or "")) and source.name == "COMMANDLINE"
    ]
    if others := [name for name in given if name != f"--{option}"]:
        raise UsageError(f"--{option} goes on as it was started; leave out {', '.join(others)}")
