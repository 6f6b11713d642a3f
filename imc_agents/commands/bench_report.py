"""``imc bench report`` and ``imc bench compare``: tables of a run, and two runs beside each other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.bench_options import names
from imc_agents.commands.options import runs_directory

if TYPE_CHECKING:
    from imc_agents.bench.outcomes import BenchRun
    from imc_agents.bench.report.document import Document
    from imc_agents.bench.report.plots import Picture
    from imc_agents.bench.report.summary import Report

__all__ = ["bench_compare", "bench_report", "print_report"]

_SUFFIXES = {".txt": "table", ".md": "md", ".tex": "latex", ".csv": "csv", ".json": "json", ".html": "html"}
_FORMATS = tuple(_SUFFIXES.values())
_FILE_WIDTH = 120

_RUN = "Run folder, start of its id, its name, or last."
_Directory = Annotated[
    Path | None, typer.Option("--directory", "-d", help="Folder with run folders; default run.directory.")
]
_Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help=f"{', '.join(_FORMATS)}; default as the file is called, else table.",
    ),
]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead of printing.")
]


def bench_report(
    run: Annotated[str, typer.Argument(metavar="RUN", help=_RUN)] = "last",
    format: _Format = None,
    output: _Output = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME,...",
            help="accuracy (closed questions), recall, f1, exact (open ones), ce; of images with classes accuracy, "
            "balanced_accuracy, auroc, ce, be; default all but f1, exact, ce and be, in csv and json all.",
        ),
    ] = None,
    severities: Annotated[
        bool, typer.Option("--severities", help="Also a table of methods by severity for every noise.")
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="METHOD", help="What the others are compared with; default none."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="RUN",
            help="Also errors in per cent of those of another run on the same data, such as a published encoder's.",
        ),
    ] = None,
    against_method: Annotated[
        str | None,
        typer.Option("--against-method", metavar="METHOD", help="Method of that run; default none."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="DIR", help="Also write pictures there, as PNG and SVG.")
    ] = None,
    directory: _Directory = None,
) -> None:
    """Report a run of the robustness benchmark: every method under every noise, with intervals and tests.

    Tables on a terminal; one JSON line for each figure when piped. An unfinished run is reported as far as it is.
    """
    from imc_agents.bench.report.against import errors_against
    from imc_agents.bench.report.markup import latex, markdown
    from imc_agents.bench.report.records import csv_text, json_text, nested, tidy_rows
    from imc_agents.bench.report.sheets import report_document

    chosen = _chosen_format(format, output)
    _check_output(output)
    read = _read(run, directory)
    other = _other_run(against, against_method, directory)
    found = _summary(read, metric, baseline, everything=chosen in ("csv", "json", None))
    if other is not None:
        found = replace(found, against=errors_against(read, other, against_method))
    drawn = _pictures(found, plots, needed=chosen == "html")
    if chosen is None:
        _print_lines(tidy_rows(found))
        return

    def document() -> Document:
        return report_document(found, severities=severities)

    writers: dict[str, Callable[[], str]] = {
        "md": lambda: markdown(document()),
        "latex": lambda: latex(document()),
        "html": lambda: _html(document(), drawn),
        "csv": lambda: csv_text(list(tidy_rows(found))),
        "json": lambda: json_text(nested(found)),
    }
    _deliver(chosen, writers, document, output)


def bench_compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help=_RUN)],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help=_RUN)],
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="Only this method; default all in both.")
    ] = None,
    flips: Annotated[
        int, typer.Option("--flips", min=0, metavar="N", help="Quote so many answers that turned.")
    ] = 10,
    format: _Format = None,
    output: _Output = None,
    directory: _Directory = None,
) -> None:
    """Compare two runs in pairs: wins, losses and significance for each noise, and the answers that turned.

    Tables on a terminal; one JSON line for each noise when piped.
    """
    from imc_agents.bench.report.compare import compare_runs
    from imc_agents.bench.report.compare_sheets import (
        COMPARED_FIELDS,
        comparison_document,
        comparison_record,
        comparison_rows,
    )
    from imc_agents.bench.report.markup import latex, markdown
    from imc_agents.bench.report.records import csv_text, json_text

    chosen = _chosen_format(format, output)
    _check_output(output)
    found = compare_runs(_read(first, directory), _read(second, directory), method, flips=flips)
    if chosen is None:
        _print_lines(comparison_rows(found))
        return

    def document() -> Document:
        return comparison_document(found)

    writers: dict[str, Callable[[], str]] = {
        "md": lambda: markdown(document()),
        "latex": lambda: latex(document()),
        "html": lambda: _html(document(), []),
        "csv": lambda: csv_text(list(comparison_rows(found)), COMPARED_FIELDS),
        "json": lambda: json_text(comparison_record(found)),
    }
    _deliver(chosen, writers, document, output)


def print_report(folder: Path) -> None:
    """Print the tables of a run folder on the terminal."""
    from imc_agents.bench.matrix.store import read_run
    from imc_agents.bench.report.sheets import report_document

    _print_document(report_document(_summary(read_run(folder), None, None, everything=False)))


def _read(run: str, directory: Path | None) -> BenchRun:
    from imc_agents.bench.evaluation import is_evaluation, read_evaluation
    from imc_agents.bench.matrix.store import read_run
    from imc_agents.runs.store import find_run

    if is_evaluation(Path(run)):
        return read_evaluation(Path(run))
    return read_run(find_run(run, directory or runs_directory(run)))


def _other_run(against: str | None, method: str | None, directory: Path | None) -> BenchRun | None:
    from imc_agents.errors import UsageError

    if against is not None:
        return _read(against, directory)
    if method is not None:
        raise UsageError(f"--against-method {method}: is of the run of --against; name that too")
    return None


def _summary(run: BenchRun, metric: str | None, baseline: str | None, *, everything: bool) -> Report:
    from imc_agents.bench.report.measures import DEFAULT, REPORTED
    from imc_agents.bench.report.summary import summarise_run

    metrics = names(metric) if metric is not None else REPORTED if everything else DEFAULT
    return summarise_run(run, metrics, baseline)


def _chosen_format(format: str | None, output: Path | None) -> str | None:
    """The format that was asked for, or that a file's name says; None for JSON lines."""
    from imc_agents.errors import UsageError, nearest

    if format is not None:
        if format not in _FORMATS:
            raise UsageError(
                f"--format: unknown {format!r}{nearest(format, _FORMATS)}; known: {', '.join(_FORMATS)}"
            )
        return format
    if output is None:
        return "table" if sys.stdout.isatty() else None
    found = _SUFFIXES.get(output.suffix.lower())
    if found is None:
        raise UsageError(f"{output}: no format goes with {output.suffix!r}; say --format, e.g. --format md")
    return found


def _check_output(output: Path | None) -> None:
    """Refuse a file that cannot be written before anything is computed."""
    from imc_agents.errors import UsageError

    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"{output}: its folder does not exist; create it first")


def _pictures(report: Report, folder: Path | None, *, needed: bool) -> list[Picture]:
    """Draw what will be shown or kept, and write it where that is asked for."""
    if folder is None and not needed:
        return []
    from imc_agents.bench.report.plots import pictures, write_pictures
    from imc_agents.bench.text_files import make_output_folder

    if folder is not None:
        make_output_folder(folder)
    drawn = list(pictures(report.panels))
    if folder is not None:
        for file in write_pictures(drawn, folder):
            typer.echo(f"wrote {file}", err=True)
    return drawn


def _html(document: Document, drawn: Iterable[Picture]) -> str:
    from imc_agents.bench.report.html import html

    return html(document, [(picture.title, picture.svg) for picture in drawn])


def _print_lines(rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        typer.echo(json.dumps(row, ensure_ascii=False))


def _print_document(document: Document) -> None:
    from rich.console import Console

    from imc_agents.bench.report.terminal import document_view

    console = Console(highlight=False)
    console.print(document_view(document, console.width))


def _deliver(
    chosen: str,
    writers: Mapping[str, Callable[[], str]],
    document: Callable[[], Document],
    output: Path | None,
) -> None:
    """Print in the chosen format, or write it into a file."""
    from imc_agents.errors import UsageError

    if output is None and chosen == "table":
        _print_document(document())
        return
    text = _plain_text(document()) if chosen == "table" else writers[chosen]()
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror}); name another file") from error
    typer.echo(f"wrote {output}", err=True)


def _plain_text(document: Document) -> str:
    import io

    from rich.console import Console

    from imc_agents.bench.report.terminal import document_view

    out = io.StringIO()
    Console(file=out, width=_FILE_WIDTH, highlight=False).print(document_view(document, _FILE_WIDTH))
    return out.getvalue()
