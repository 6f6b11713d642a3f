"""Carries a run to its end, a new one or a resumed one, and reports on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from imc_agents.config.schema import RunConfig
    from imc_agents.runs.execute import Refines, RunResult

__all__ = ["carry_out", "report_refined"]

_OVER_THRESHOLD = 3
_INTERRUPTED = 130
_COPY_BYTES = 2**20


def carry_out(
    folder: Path,
    refiner: Refines,
    settings: RunConfig,
    *,
    quiet: bool,
    report: Callable[[RunResult], None],
    retry_errors: bool = False,
    output: Path | None = None,
) -> None:
    """Run to the end, report, and exit with the code that says how it went.

    Args:
        folder: The run folder.
        refiner: Does the rows.
        settings: Section ``run`` of the configuration.
        quiet: Show no progress.
        report: Told how it ended, if it did not fail.
        retry_errors: As ``execute_run``.
        output: As ``execute_run``.
    """
    from imc_agents.errors import BackendUnreachableError
    from imc_agents.runs.schema import FAILED

    try:
        result = _execute(folder, refiner, settings, quiet, retry_errors, output)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; go on with: imc resume {folder}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except BackendUnreachableError:
        typer.echo(
            f"what is done is stored; once the backend answers, go on with: imc resume {folder}", err=True
        )
        raise
    if not result.finished:
        done = f"{result.totals.rows:,} of {result.manifest.rows:,} questions are done"
        typer.echo(f"interrupted, {done}; go on with: imc resume {folder}", err=True)
        raise typer.Exit(_INTERRUPTED)
    report(result)
    failed = result.totals.failed / max(result.totals.rows, 1)
    if failed > settings.error_threshold:
        limit = f"more than run.error_threshold allows ({settings.error_threshold:.1%})"
        typer.echo(f"{result.totals.failed:,} questions ({failed:.1%}) failed, {limit}", err=True)
        worst = max(FAILED, key=lambda status: result.totals.by_status[status])
        typer.echo(f"see why: imc trace list {result.folder} --status {worst}", err=True)
        raise typer.Exit(_OVER_THRESHOLD)


def _execute(
    folder: Path, refiner: Refines, settings: RunConfig, quiet: bool, retry_errors: bool, output: Path | None
) -> RunResult:
    import asyncio

    from imc_agents.runs.execute import execute_run
    from imc_agents.runs.progress import open_progress

    view = open_progress(quiet=quiet)
    try:
        return asyncio.run(
            execute_run(
                folder,
                refiner,
                settings,
                on_start=view.start,
                on_progress=view.update,
                retry_errors=retry_errors,
                output=output,
            )
        )
    finally:
        view.close()


def report_refined(result: RunResult, *, quiet: bool, trace_one: bool) -> None:
    """Report on refined questions: the output where it goes to stdout, the summary, and a telling decision."""
    from rich.console import Console
    from rich.text import Text

    from imc_agents.runs.store import RunStore
    from imc_agents.runs.summary import most_telling, summary_record, summary_table

    # The output itself goes to stdout where no file was named, so the summary must not.
    to_stdout = result.manifest.output is None
    if to_stdout and result.output is not None:
        _copy_to_stdout(result.output)
    if quiet:
        return
    console = Console(stderr=to_stdout, highlight=False)
    if not console.is_terminal:
        typer.echo(json.dumps(summary_record(result), ensure_ascii=False), err=to_stdout)
    else:
        console.print()
        console.print(summary_table(result))
    if not trace_one and not console.is_terminal:
        return
    with RunStore(result.folder) as store:
        sample = most_telling(store)
        if sample is None:
            return
        if trace_one:
            from imc_agents.trace.views import sample_tree

            console.print(sample_tree(sample, store.events(sample.row_index)))
            console.print()
    if console.is_terminal:
        hint = f"imc trace show {result.folder} {sample.id}"
        console.print(Text("see the decisions: ", "dim").append(hint, "bold not dim"), soft_wrap=True)


def _copy_to_stdout(path: Path) -> None:
    from imc_agents.runs.writer import StorageError

    try:
        with path.open("rb") as stream:
            while block := stream.read(_COPY_BYTES):
                sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(
            f"stdout: cannot be written ({error.strerror}); the whole output is in {path}"
        ) from error
