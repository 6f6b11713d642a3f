"""``imc bench run``: data sets x noises x severities x methods on one model or several, as a resumable run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.bench_options import names, numbers
from imc_agents.commands.carry_out import carry_out
from imc_agents.commands.options import set_values

if TYPE_CHECKING:
    from imc_agents.bench.matrix.layout import Loaded
    from imc_agents.bench.matrix.schema import Benchmark
    from imc_agents.runs.execute import RunResult

__all__ = ["bench_run", "resume_bench"]

_IMAGES, _RESPONSES, _UNPACKED = "images", "responses.db", "unpacked"
_INTERRUPTED = 130


def bench_run(
    config: Annotated[
        Path,
        typer.Option("--config", "-c", metavar="FILE", help="YAML file that describes the benchmark."),
    ],
    noise: Annotated[
        str | None, typer.Option("--noises", metavar="NAME,...", help="Noises or suites instead: noises.")
    ] = None,
    severities: Annotated[
        str | None, typer.Option("--severities", metavar="N,...", help="1 to 5 instead: severities.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="NAME,...", help="Methods instead: methods.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="Questions of each data set at most.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run instead: name.")] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep replies, so that the same call is made once.")
    ] = True,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-j", min=1, help="Questions in flight: run.concurrency.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how much there is to do; do and write nothing.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no report, only errors.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one key of FILE, e.g. seed=1; repeatable."),
    ] = None,
) -> None:
    """Run the robustness benchmark that FILE describes.

    A run folder keeps everything: `imc resume` goes on after an interruption, `imc bench report` prints the tables.
    """
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from imc_agents.bench.matrix.load import load_data, with_absolute_paths, with_limit
    from imc_agents.bench.matrix.schema import load_benchmark

    shortcuts = {
        "noises": None if noise is None else names(noise),
        "severities": None
        if severities is None
        else numbers(severities, "--severities", "numbers from 1 to 5 by comma, e.g. 1,3,5"),
        "methods": None if methods is None else names(methods),
        "name": name,
        "cache": cache if not cache else None,
        "run.concurrency": concurrency,
    }
    benchmark = load_benchmark(config, [*(overrides or ()), *set_values(shortcuts)])
    benchmark = with_absolute_paths(with_limit(benchmark, limit))
    directory = Path(benchmark.settings.run.directory)
    with (
        TemporaryDirectory(prefix="imc-bench-") if dry_run else nullcontext(_unpacked(directory)) as unpacked
    ):
        data, problems = load_data(benchmark, Path(unpacked))
    for problem in problems:
        typer.echo(f"imc: warning: {problem}", err=True)
    if dry_run:
        _tell(benchmark, data)
        return
    _check_models(benchmark)
    folder = _start(benchmark, data)
    _make_images(folder, benchmark, data, quiet=quiet)
    _carry_out(folder, benchmark, quiet=quiet)


def resume_bench(
    folder: Path, overrides: Sequence[str], *, quiet: bool, retry_errors: bool, output: Path | None
) -> None:
    """Go on with a benchmark that was interrupted.

    Args:
        folder: The run folder.
        overrides: ``key=value`` for its file.
        quiet: Only errors.
        retry_errors: Do failed rows again.
        output: Write the rows with their answers there.
    """
    from imc_agents.bench.matrix.load import load_data
    from imc_agents.bench.matrix.schema import load_benchmark
    from imc_agents.runs.manifest import read_manifest
    from imc_agents.runs.start import CONFIG

    benchmark = load_benchmark(folder / CONFIG, overrides)
    if read_manifest(folder).state != "finished" or retry_errors:
        _make_images(folder, benchmark, load_data(benchmark, _unpacked(folder.parent))[0], quiet=quiet)
    _carry_out(folder, benchmark, quiet=quiet, retry_errors=retry_errors, output=output)


def _unpacked(directory: Path) -> Path:
    """Where images are kept that lie inside other files; like a run folder for its owner alone, and shared by runs."""
    from imc_agents.errors import UsageError

    folder = directory / _UNPACKED
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        cure = "choose another place with --set run.directory=DIR"
        raise UsageError(f"{folder}: cannot be made ({error.strerror}); {cure}") from error
    return folder


def _check_models(benchmark: Benchmark) -> None:
    """Find mistakes in prompts and backends before anything is made or loaded."""
    from imc_agents.agents.contracts import check_roles
    from imc_agents.commands.options import check_backends

    for resolved in benchmark.models.values():
        check_roles(resolved.config, resolved.origins)
        check_backends(resolved.config, None)


def _start(benchmark: Benchmark, data: Sequence[Loaded]) -> Path:
    """Lay out the run and return its folder."""
    import tempfile

    from imc_agents.bench.matrix.layout import cases, write_cases
    from imc_agents.bench.matrix.schema import dump_benchmark
    from imc_agents.runs.start import start_run

    with tempfile.TemporaryFile() as rows:
        write_cases(cases(benchmark, data), rows)
        rows.seek(0)
        return start_run(
            rows,
            directory=Path(benchmark.settings.run.directory),
            name=benchmark.settings.name,
            config_yaml=dump_benchmark(benchmark),
            seed=benchmark.settings.seed,
            command=("imc", *sys.argv[1:]),
            output=None,
            images=any(resolved.config.pdc.bank for resolved in benchmark.models.values()),
            answers=True,
            kind="bench",
        )


def _make_images(folder: Path, benchmark: Benchmark, data: Sequence[Loaded], *, quiet: bool = False) -> None:
    from contextlib import nullcontext

    from imc_agents.bench.matrix.images import write_images
    from imc_agents.bench.matrix.layout import image_jobs
    from imc_agents.commands.progress import watched

    jobs = image_jobs(benchmark, data)
    settings = benchmark.settings
    total = sum(len(job.looks) for job in jobs)
    try:
        with watched(total, "noisy images") if total and not quiet else nullcontext(_unwatched) as advance:
            problems = write_images(
                jobs,
                folder / _IMAGES,
                size=settings.image_size,
                seed=settings.seed,
                workers=settings.workers,
                advance=advance,
            )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; go on with: imc resume {folder}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    for problem in problems:
        typer.echo(f"imc: warning: {problem}; its questions are counted, not scored", err=True)


def _unwatched(count: int) -> None:
    del count


def _carry_out(
    folder: Path,
    benchmark: Benchmark,
    *,
    quiet: bool,
    retry_errors: bool = False,
    output: Path | None = None,
) -> None:
    from imc_agents.bench.matrix.run import MatrixRefiner

    settings = benchmark.settings
    refiner = MatrixRefiner(
        benchmark.methods,
        {name: resolved.config for name, resolved in benchmark.models.items()},
        folder / _IMAGES,
        folder / _RESPONSES if settings.cache else None,
    )

    def report(result: RunResult) -> None:
        if not settings.keep_images:
            shutil.rmtree(folder / _IMAGES, ignore_errors=True)
        if not quiet:
            _report(result)

    carry_out(
        folder,
        refiner,
        settings.run,
        quiet=quiet,
        report=report,
        retry_errors=retry_errors,
        output=output,
    )


def _report(result: RunResult) -> None:
    from imc_agents.runs.summary import summary_record

    if not sys.stdout.isatty():
        typer.echo(json.dumps(summary_record(result), ensure_ascii=False))
        return
    from imc_agents.commands.bench_report import print_report

    print_report(result.folder)


def _tell(benchmark: Benchmark, data: Sequence[Loaded]) -> None:
    """Say how much there is to do."""
    from imc_agents.bench.matrix.layout import cases, conditions, image_jobs

    rows = sum(1 for _ in cases(benchmark, data))
    questions = {loaded.name: len(loaded.samples) for loaded in data}
    told: dict[str, Any] = {
        "questions": questions,
        "models": list(benchmark.models),
        "methods": list(benchmark.methods),
        "conditions": len(conditions(benchmark)),
        "images": sum(len(job.looks) for job in image_jobs(benchmark, data)),
        "rows": rows,
    }
    if not sys.stdout.isatty():
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for name, count in questions.items():
        table.add_row(f"{count:,}", f"questions of {name}")
    table.add_row(f"{told['conditions']:,}", "clean, and noises x severities")
    table.add_row(f"{len(benchmark.methods):,}", f"methods: {', '.join(benchmark.methods)}")
    table.add_row(f"{len(benchmark.models):,}", f"models: {', '.join(benchmark.models)}")
    table.add_row(f"{told['images']:,}", "noisy images to make")
    table.add_row(f"{rows:,}", "answers to ask for; the same call is made once")
    Console(highlight=False).print(table)
