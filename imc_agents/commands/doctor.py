"""``imc doctor``: what is installed, which backends answer, where models and word lists come from."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from imc_agents.commands.options import ConfigOption, ProfileOption, SetOption, load_config

if TYPE_CHECKING:
    from imc_agents.config.schema import Config
    from imc_agents.doctor import Finding

__all__ = ["doctor"]

_Result = TypeVar("_Result")
_MARKS = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "fail": "[red]✗[/]"}


def doctor(
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare", help="Prepare the default model and the vocabulary in the cache; show failures only."
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not load the models to see whether they answer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, on a terminal too.")] = False,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Check what is installed and where models and word lists come from.

    Exit code 4 if something will not work; each such line names its cure.
    """
    from imc_agents.doctor import check_answers, check_installation

    settings = load_config(config, profile, overrides, prompts=False).config
    if prepare:
        _prepare(settings)
    found = [f for f in check_installation(settings) if f.status == "fail" or not prepare]
    if not quick and not prepare:
        found += _watched("asking the backends", lambda: list(check_answers(settings)))
    if as_json or not sys.stdout.isatty():
        for finding in found:
            typer.echo(json.dumps(asdict(finding), ensure_ascii=False))
    else:
        _show(found)
    if any(finding.status == "fail" for finding in found):
        raise typer.Exit(4)


def _prepare(config: Config) -> None:
    from imc_agents.models.weights import DEFAULT_MODEL, cache_directory, prepare_default
    from imc_agents.text.lexicon import load_lexicon

    if any(
        spec.kind == "embedded" and spec.model in ("", DEFAULT_MODEL) for spec in config.backends.values()
    ):
        _watched(f"preparing the model {DEFAULT_MODEL}", prepare_default)
    lexicon = config.lexicon
    _watched(
        "preparing the vocabulary",
        lambda: load_lexicon(lexicon.min_zipf, lexicon.extra_lists, cache_directory()),
    )


def _watched(what: str, work: Callable[[], _Result]) -> _Result:
    from rich.console import Console

    console = Console(stderr=True)
    started = time.perf_counter()
    with console.status(f"{what} …"):
        result = work()
    console.print(f"{what}: {time.perf_counter() - started:.1f} s", style="dim", highlight=False)
    return result


def _show(found: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column()
    heading = ""
    for finding in found:
        if finding.group != heading:
            if heading:
                table.add_row()
            heading = finding.group
            table.add_row("", f"[bold]{heading}[/]")
        colour = {"ok": "", "note": "", "fail": "red"}[finding.status]
        table.add_row(_MARKS[finding.status], escape(finding.name), escape(finding.detail), style=colour)
        if finding.cure:
            table.add_row("", "", f"[cyan]→ {escape(finding.cure)}[/]")
    console.print(table)
    failed = sum(finding.status == "fail" for finding in found)
    verdict = f"[red]{failed} of the checks failed[/]" if failed else "[green]ready[/]"
    console.print(f"\n{verdict}")
