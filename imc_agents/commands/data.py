"""``imc data``: look through a copy of a data set before anything is measured on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from imc_agents.data.sets.check import Advance, Checked
    from imc_agents.data.sets.survey import ImagePart, QuestionPart

__all__ = ["app"]

app = typer.Typer(
    help="Look through copies of medical data sets.", no_args_is_help=True, add_completion=False
)

_SHOWN_NAMES = 6


@app.callback()
def _group() -> None:
    """Keep ``check`` a command of its own while it is the only one."""


@app.command("check")
def check(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The copy: a folder, a file, or hf:owner/name.")
    ],
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="Its format; without it, what the copy looks like.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="Look at one split only; without it, at all.")
    ] = None,
    most: Annotated[int, typer.Option("--problems", min=1, help="Problems that are told one by one.")] = 20,
) -> None:
    """Tell what a copy of a data set holds and what is wrong with it.

    Every image is read. Exit code 0: nothing is wrong; 3: something is; 2: the copy cannot be used.
    """
    from imc_agents.data.sets.check import check_copy

    with _progress() as advance:
        checked = check_copy(path, format, split, advance=advance)
    (_show if sys.stdout.isatty() else _write)(checked, most)
    if checked.problems:
        raise typer.Exit(3)


@contextmanager
def _progress() -> Generator[Advance]:
    """A bar on standard error, one for each part."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=None)

        def advance(part: str, done: int, total: int) -> None:
            progress.update(task, description=part, completed=done, total=total)

        yield advance


def _write(checked: Checked, most: int) -> None:
    from dataclasses import fields

    for part in checked.parts:
        held = {field.name: getattr(part, field.name) for field in fields(part) if field.repr}
        _line({"record": "part", **held})
    for record, found in (("problem", checked.problems), ("note", checked.notes)):
        for problem in found[:most]:
            _line({"record": record, "where": problem.where, "what": problem.what})
    _line(
        {
            "record": "copy",
            "path": str(checked.path),
            "format": checked.format,
            "name": checked.name,
            "problems": len(checked.problems),
            "notes": len(checked.notes),
        }
    )


def _line(record: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(record, ensure_ascii=False))


def _show(checked: Checked, most: int) -> None:
    from rich.console import Console
    from rich.text import Text

    from imc_agents.data.sets.survey import ImagePart, QuestionPart

    console = Console(highlight=False)
    console.print(Text.assemble((checked.name, "bold"), f"  {checked.path}, read as {checked.format}"))
    console.print()
    questions = [part for part in checked.parts if isinstance(part, QuestionPart)]
    images = [part for part in checked.parts if isinstance(part, ImagePart)]
    console.print(_questions(questions) if questions else _images(images))
    for heading, style, found in (("problem", "red", checked.problems), ("note", "dim", checked.notes)):
        if found:
            console.print()
            for problem in found[:most]:
                console.print(
                    Text.assemble((f"{heading}  ", style), f"{problem.where}: {problem.what}"), soft_wrap=True
                )
            if len(found) > most:
                console.print(Text(f"and {len(found) - most:,} more {heading}s", style))
    if not checked.problems:
        console.print()
        console.print(Text("nothing is wrong with this copy", "green"))


def _questions(parts: Sequence[QuestionPart]) -> Any:
    from rich.console import Group
    from rich.text import Text

    table = _table("split", "questions", "closed", "open", "asked twice", "images", "missing", "unreadable")
    about: list[Text] = []
    for part in parts:
        twice = "" if part.repeated is None else f"{part.repeated:,}"
        images = (f"{number:,}" for number in (part.images, part.missing, part.unreadable))
        table.add_row(part.split, f"{part.questions:,}", f"{part.closed:,}", f"{part.open:,}", twice, *images)
        named = "; ".join(filter(None, (_counts(part.languages), _counts(part.groups))))
        if named:
            about.append(Text(f"{part.split}: {named}", "dim"))
    return Group(table, *([Text()] if about else []), *about)


def _images(parts: Sequence[ImagePart]) -> Any:
    table = _table("split", "images", "size", "values", "mean", "twice")
    table.add_column("classes", overflow="fold", ratio=1)
    for part in parts:
        severity = None if part.severity is None else str(part.severity)
        name = " ".join(filter(None, (part.split, part.corruption, severity, part.labels)))
        size = "x".join(map(str, part.shape))
        values = f"{part.lowest}..{part.highest}"
        numbers = (f"{part.images:,}", size, values, f"{part.mean:.1f}", f"{part.repeated:,}")
        table.add_row(name, *numbers, _counts(part.classes))
    return table


def _table(first: str, *numbers: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column(first, style="cyan")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _counts(values: Mapping[str, int]) -> str:
    """``normal 234, pneumonia 390``, and how many more there are."""
    named = [f"{name} {count:,}" for name, count in list(values.items())[:_SHOWN_NAMES]]
    more = len(values) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
