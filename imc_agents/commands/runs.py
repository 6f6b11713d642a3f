"""``imc runs``: which runs there are, and what one of them did."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.options import runs_directory

if TYPE_CHECKING:
    from rich.table import Table

    from imc_agents.runs.manifest import Manifest, RunState
    from imc_agents.runs.schema import Totals

__all__ = ["app"]

app = typer.Typer(help="List runs and show what one of them did.", no_args_is_help=True)

_Directory = Annotated[
    Path | None, typer.Option("--directory", "-d", help="Folder with run folders; default run.directory.")
]
_WIDE = 115  # columns of a terminal on which the list has room for the model
_STATE_STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "stopped": "red"}


@app.command("list")
def list_all(
    directory: _Directory = None,
) -> None:
    """List the runs, oldest first: a table on a terminal, one JSON line per run when piped."""
    from imc_agents.errors import UsageError
    from imc_agents.runs.store import RunStore, list_runs

    directory = directory or runs_directory()
    runs: list[dict[str, Any]] = []
    for folder in list_runs(directory):
        try:
            with RunStore(folder) as store:
                runs.append(_record(folder, store.manifest, store.totals()))
        except UsageError as error:
            typer.echo(f"imc: warning: {error}", err=True)
    if not sys.stdout.isatty():
        for run in runs:
            typer.echo(json.dumps(run, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if runs:
        console.print(_table(runs, with_model=console.width >= _WIDE))
    else:
        console.print(f"no runs in {directory}; `imc refine FILE` starts one")


@app.command("show")
def show(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run folder, start of its id, its name, or last.")
    ],
    directory: _Directory = None,
) -> None:
    """Show what one run did and what it ran on: a table on a terminal, one JSON line when piped."""
    from imc_agents.runs.store import open_run

    with open_run(run, directory or runs_directory(run)) as store:
        record = _record(store.folder, store.manifest, store.totals())
        record["manifest"] = store.manifest.model_dump(mode="json")
    if not sys.stdout.isatty():
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    from rich.console import Console

    Console(highlight=False).print(_details(record))


def _record(folder: Path, manifest: Manifest, totals: Totals) -> dict[str, Any]:
    from imc_agents.runs.store import run_state

    state: RunState = run_state(folder, manifest)
    return {
        "run": folder.name,
        "folder": str(folder),
        "state": state,
        "created": manifest.created,
        "rows": manifest.rows,
        **totals.record(),
        "seconds": manifest.seconds,
        "models": [model.model for model in manifest.models.values()],
        "input": manifest.input.path,
        "output": manifest.output,
    }


def _table(runs: list[dict[str, Any]], *, with_model: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold", min_width=16)
    table.add_column("state", no_wrap=True, min_width=11)
    for heading in ("done", "refined", "flagged", "failed"):
        width = max(len(heading), *(len(f"{run['rows']:,}") for run in runs))
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    if with_model:
        table.add_column("model", overflow="ellipsis", no_wrap=True)
    for run in runs:
        failed = Text(f"{run['failed']:,}", "red" if run["failed"] else "dim")
        cells = [
            Text(run["run"]),
            Text(run["state"], _STATE_STYLES[run["state"]]),
            Text(f"{run['done']:,}/{run['rows']:,}"),
            Text(f"{run['ok']:,}", "green" if run["ok"] else "dim"),
            Text(f"{run['flagged']:,}", "magenta" if run["flagged"] else "dim"),
            failed,
        ]
        if with_model:
            cells.append(Text(", ".join(run["models"])))
        table.add_row(*cells)
    return table


def _details(record: dict[str, Any]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from imc_agents.refinement import STATUSES
    from imc_agents.runs.progress import STATUS_STYLES

    manifest = record["manifest"]
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False, title_justify="left")
    table.title = Text(record["run"], "bold")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, *parts: Any) -> None:
        texts = [part if isinstance(part, Text) else Text(str(part)) for part in parts]
        table.add_row(name, Text("  ").join(texts))

    state = Text(record["state"], _STATE_STYLES[record["state"]])
    row("state", state, f"{record['done']:,}/{record['rows']:,} done")
    if manifest["error"]:
        row("error", Text(manifest["error"], "red"))
    row(
        "questions",
        *(Text(f"{name} {record[name]:,}", STATUS_STYLES[name]) for name in STATUSES if record[name]),
        *([Text(f"flagged {record['flagged']:,}", "magenta")] if record["flagged"] else []),
    )
    tokens = f"{record['prompt_tokens']:,} tokens read, {record['completion_tokens']:,} written"
    row("cost", f"{record['calls']:,} calls, {tokens}, {record['seconds']:,.1f} s")
    table.add_section()
    selection = manifest["selection"]
    source = manifest["input"]
    row("input", source["path"], Text(f"{source['rows']:,} rows, {source['bytes']:,} bytes", "dim"))
    row("", Text(f"sha256 {source['sha256']}", "dim"))
    if selection["limit"] or selection["only"]:
        limit = f"the first {selection['limit']:,}" if selection["limit"] else ""
        row("selection", limit, ", ".join(selection["only"]))
    row("output", manifest["output"] or "stdout")
    for name, model in manifest["models"].items():
        row(f"model {name}", model["model"], Text(model["revision"], "dim"))
    for name, digest in manifest["prompts"].items():
        row(f"prompt {name}", Text(digest[:16], "dim"))
    table.add_section()
    row("command", " ".join(manifest["command"]))
    row("seed", manifest["seed"])
    row("created", manifest["created"], Text(f"last change {manifest['updated']}", "dim"))
    row("sittings", manifest["sittings"])
    row("versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()))
    row("platform", manifest["platform"])
    row("folder", record["folder"])
    return table
