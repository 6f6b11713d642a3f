"""``imc trace``: read the agents' decisions on the questions of a run."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.options import runs_directory

if TYPE_CHECKING:
    from imc_agents.refinement import Status
    from imc_agents.runs.store import RunStore, SampleRecord
    from imc_agents.trace.events import Event

__all__ = ["app"]

app = typer.Typer(help="Read the agents' decisions.", no_args_is_help=True, add_completion=False)

_LISTED_ON_TERMINAL = 50
_IDS_COMPARED = 20_000
_ID_DIGITS = 19  # a number with fewer digits fits the store's row numbers

_Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, start of its id, its name, or last.")]
_Directory = Annotated[
    Path | None, typer.Option("--directory", "-d", help="Folder with run folders; default run.directory.")
]
_Json = Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal.")]


@app.command("list")
def list_samples(
    run: _Run = "last",
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="With this status; repeatable.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="In which this agent took part.")
    ] = None,
    changed: Annotated[
        bool | None, typer.Option("--changed/--not-changed", help="Whose text was changed, or was not.")
    ] = None,
    vetoed: Annotated[
        bool | None, typer.Option("--vetoed/--not-vetoed", help="In which the guard stopped something.")
    ] = None,
    flag: Annotated[
        str | None, typer.Option("--flag", metavar="FLAG", help="With a flag that starts like this.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="Whose id, original or refined text has this."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help=f"At most so many; by default {_LISTED_ON_TERMINAL} on a terminal."),
    ] = None,
    directory: _Directory = None,
    as_json: _Json = False,
) -> None:
    """List the questions of a run: a table on a terminal, one JSON line per question when piped."""
    from imc_agents.trace.lines import sample_record
    from imc_agents.trace.views import samples_table

    with _open(run, directory) as store:
        samples = store.samples(
            status=_statuses(status), changed=changed, search=search, agent=agent, vetoed=vetoed
        )
        if flag is not None:
            samples = (s for s in samples if any(name.startswith(flag) for name in s.refinement.flags))
        if as_json or not sys.stdout.isatty():
            for sample in islice(samples, limit):
                _print_json(sample_record(sample))
            return
        limit = _LISTED_ON_TERMINAL if limit is None else limit
        shown = list(islice(samples, limit))
        more = next(samples, None) is not None
        name = store.folder.name
    _print(samples_table(shown) if shown else f"no such question in {name}")
    if more:
        _print(f"the first {limit} only; --limit N shows more")


@app.command("show")
def show(
    run: _Run = "last",
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="Id of the question, or its row counted from 1; default: a telling one."
        ),
    ] = None,
    prompts: Annotated[bool, typer.Option("--prompts", help="With each call's prompt and reply.")] = False,
    round_number: Annotated[
        int | None, typer.Option("--round", min=1, metavar="N", help="This round only.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All questions of the run, one after the other.")
    ] = False,
    directory: _Directory = None,
    as_json: _Json = False,
) -> None:
    """Show the decisions on one question: a tree on a terminal, one JSON line per event when piped."""
    from imc_agents.errors import UsageError
    from imc_agents.trace.lines import event_record, sample_record
    from imc_agents.trace.views import sample_tree

    if every and (question is not None or round_number is not None):
        other = "--round" if question is None else repr(question)
        raise UsageError(f"--all shows all rounds of every question; leave out either --all or {other}")
    with _open(run, directory) as store:
        for sample in store.samples() if every else [_find(store, question)]:
            events = store.events(sample.row_index)
            if round_number is not None:
                events = _of_round(sample, events, round_number)
            if as_json or not sys.stdout.isatty():
                _print_json(sample_record(sample))
                for event in events:
                    _print_json(event_record(sample, event, prompts=prompts))
            else:
                _print(sample_tree(sample, events, prompts=prompts))
                _print("")


@app.command("stats")
def stats(run: _Run = "last", directory: _Directory = None, as_json: _Json = False) -> None:
    """Sum up what each agent did and cost: tables on a terminal, one JSON line per agent when piped."""
    from imc_agents.trace.lines import stats_records
    from imc_agents.trace.views import collect_stats, stats_table

    with _open(run, directory) as store:
        collected = collect_stats(store.all_events())
    if as_json or not sys.stdout.isatty():
        for record in stats_records(collected):
            _print_json(record)
    else:
        _print(stats_table(collected))


def _open(run: str, directory: Path | None) -> RunStore:
    from imc_agents.errors import UsageError
    from imc_agents.runs.store import list_runs, open_run

    if directory is None:
        directory = runs_directory(run)
    if not Path(run).is_dir() and not list_runs(directory):
        raise UsageError(f"no runs in {directory} yet; `imc refine FILE` makes one")
    return open_run("last" if run == "latest" else run, directory)


def _statuses(names: list[str] | None) -> list[Status] | None:
    from typing import cast

    from imc_agents.errors import UsageError, nearest
    from imc_agents.refinement import STATUSES

    for name in names or ():
        if name not in STATUSES:
            hint = nearest(name, STATUSES) or f"; it is one of {', '.join(STATUSES)}"
            raise UsageError(f"--status: unknown status {name!r}{hint}")
    return cast("list[Status] | None", names or None)


def _find(store: RunStore, question: str | None) -> SampleRecord:
    """The sample with that id; or in that row; or, where nothing was asked for, the one with most to see."""
    from imc_agents.errors import UsageError, nearest
    from imc_agents.runs.summary import most_telling

    if question is None:
        sample = most_telling(store)
        if sample is None:
            cure = f"`imc resume {store.folder}` goes on with it"
            raise UsageError(f"{store.folder}: no question of this run is finished yet; {cure}")
        return sample
    for key in [
        question,
        *([int(question) - 1] if question.isdecimal() and len(question) < _ID_DIGITS else []),
    ]:
        try:
            return store.sample(key)
        except UsageError:
            continue
    ids = {sample.id for sample in islice(store.samples(), _IDS_COMPARED)}
    hint = nearest(question, ids) or "; `imc trace list` shows them"
    raise UsageError(f"{store.folder}: no finished question {question!r}{hint}")


def _of_round(sample: SampleRecord, events: list[Event], number: int) -> list[Event]:
    from imc_agents.errors import UsageError

    last = max((event.round for event in events), default=0)
    if number > last:
        rounds = f"it has {last}" if last else "no round was run"
        raise UsageError(f"--round: question {sample.id!r} has no round {number}; {rounds}")
    return [event for event in events if event.round == number]


def _print_json(record: dict[str, Any]) -> None:
    from imc_agents.trace.lines import json_line

    utf8 = (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(json_line(record, ascii_only=not utf8))


def _print(view: Any) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False, emoji=False).print(view)
