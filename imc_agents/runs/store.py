"""The run store as readers see it: find runs, list their samples, read the decisions of the agents.

A run is a folder with ``run.db``, ``manifest.json``, ``config.yaml`` and the output file. ``run.db`` is
plain SQLite and can be queried with any client; ``writer.py`` fills it. Everything here only reads, live runs too.
"""

from __future__ import annotations

import fcntl
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_agents.errors import UsageError
from imc_agents.refinement import Refinement, Status
from imc_agents.runs.manifest import FILE_NAME, Manifest, RunState, read_manifest
from imc_agents.runs.schema import DATABASE, LOCK, RESULTS, Totals, read_totals
from imc_agents.trace.events import Event, load

__all__ = ["RunStore", "SampleRecord", "find_run", "list_runs", "open_run", "run_state"]

_COLUMNS = (
    "row_index, line, id, status, original, refined, flags, confidence, rounds, calls, prompt_tokens,"
    " completion_tokens, milliseconds, error"
)

_HAS_EVENT = "EXISTS (SELECT 1 FROM events e WHERE e.row_index = samples.row_index AND {})"


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One finished row of a run.

    Attributes:
        row_index: Position in the input, from 0.
        line: Line of the input file, from 1.
        id: The row's id; duplicates keep theirs and are told apart by ``row_index``.
        refinement: The outcome.
    """

    row_index: int
    line: int
    id: str
    refinement: Refinement


class RunStore:
    """Reads one run. Use as a context manager, or call ``close``."""

    def __init__(self, folder: Path) -> None:
        """Open the run in ``folder``.

        Raises:
            UsageError: if it is no run folder or its database cannot be opened.
        """
        self.folder = folder
        self._manifest = read_manifest(folder)
        self._connection = _connect(folder / DATABASE)

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    @property
    def manifest(self) -> Manifest:
        """The manifest as it was when the run was opened."""
        return self._manifest

    def samples(
        self,
        status: Status | Iterable[Status] | None = None,
        changed: bool | None = None,
        search: str | None = None,
        agent: str | None = None,
        vetoed: bool | None = None,
    ) -> Iterator[SampleRecord]:
        """Yield the finished samples in input order; filters combine with *and*.

        Args:
            status: Keep samples with this status, or one of these.
            changed: Keep samples whose text was changed, or was not.
            search: Keep samples whose id, original or refined text contains this, whatever the case of ASCII letters.
            agent: Keep samples in which this agent or specialist took part.
            vetoed: Keep samples in which the guard vetoed something, or nothing.
        """
        conditions: list[str] = []
        values: list[Any] = []
        if status is not None:
            wanted = [status] if isinstance(status, str) else list(status)
            conditions.append(f"status IN ({', '.join('?' * len(wanted))})")
            values += wanted
        if changed is not None:
            conditions.append("changed = ?")
            values.append(int(changed))
        if search is not None:
            terms = [f"{column} LIKE ? ESCAPE '!'" for column in ("id", "original", "refined")]
            conditions.append(f"({' OR '.join(terms)})")
            values += [_like(search)] * len(terms)
        if agent is not None:
            conditions.append(_HAS_EVENT.format("? IN (e.agent, e.role)"))
            values.append(agent)
        if vetoed is not None:
            conditions.append(("" if vetoed else "NOT ") + _HAS_EVENT.format("e.type = 'vetoed'"))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        query = f"SELECT {_COLUMNS} FROM samples{where} ORDER BY row_index"
        for row in self._connection.execute(query, values):
            yield _sample(row)

    def sample(self, id_or_index: str | int) -> SampleRecord:
        """Return one sample by id (the first one where ids repeat) or, for an int, by position in the input.

        Raises:
            UsageError: if there is no such sample.
        """
        column = "row_index" if isinstance(id_or_index, int) else "id"
        query = f"SELECT {_COLUMNS} FROM samples WHERE {column} = ? ORDER BY row_index LIMIT 1"
        row = self._connection.execute(query, (id_or_index,)).fetchone()
        if row is None:
            raise UsageError(f"{self.folder}: no finished sample {id_or_index!r}; `imc trace list` shows all")
        return _sample(row)

    def events(self, row_index: int) -> list[Event]:
        """Return the events of one sample in the order they happened."""
        query = "SELECT body FROM events WHERE row_index = ? ORDER BY seq"
        return [load(body) for (body,) in self._connection.execute(query, (row_index,))]

    def all_events(self) -> Iterator[tuple[int, Event]]:
        """Yield ``(row_index, event)`` of all samples in input order."""
        query = "SELECT row_index, body FROM events ORDER BY row_index, seq"
        for row_index, body in self._connection.execute(query):
            yield row_index, load(body)

    def results(self) -> sqlite3.Cursor:
        """Return a cursor over ``RESULTS``."""
        return self._connection.execute(RESULTS)

    def totals(self) -> Totals:
        """Return the sums over all finished samples."""
        return read_totals(self._connection)


def list_runs(directory: Path) -> list[Path]:
    """Return the run folders in ``directory``, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if (path / FILE_NAME).is_file())


def find_run(path_or_prefix: str, directory: Path) -> Path:
    """Return a run folder by path, start of its id, name, closing hex digits, or as ``last``.

    Raises:
        UsageError: if none or several fit.
    """
    path = Path(path_or_prefix)
    if (path / FILE_NAME).is_file():
        return path
    runs = list_runs(directory)
    if path_or_prefix == "last" and runs:
        return runs[-1]
    fitting = [run for run in runs if run.name.startswith(path_or_prefix)]
    if not fitting:
        parts = re.compile(rf"[^-]+-(?:{re.escape(path_or_prefix)}-[^-]+|.*-{re.escape(path_or_prefix)})")
        fitting = [run for run in runs if parts.fullmatch(run.name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(run.name for run in fitting[-5:])
        raise UsageError(
            f"{path_or_prefix!r} fits {len(fitting)} runs in {directory} ({names}); give the whole id"
        )
    known = f"the last one is {runs[-1].name}" if runs else "there are none yet"
    raise UsageError(f"no run {path_or_prefix!r} in {directory}; {known}, `imc runs list` shows all")


def open_run(path_or_prefix: str, directory: Path | str = "runs") -> RunStore:
    """Open a run for reading; see ``find_run`` for what names it.

    Raises:
        UsageError: if none or several fit, or the run cannot be read.
    """
    return RunStore(find_run(path_or_prefix, Path(directory)))


def run_state(folder: Path, manifest: Manifest) -> RunState:
    """Return the state of a run; one that is marked as running while no process holds it was interrupted."""
    if manifest.state == "running" and not _locked(folder):
        return "interrupted"
    return manifest.state


def _locked(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _connect(path: Path) -> sqlite3.Connection:
    """Open a run database for reading; immutable where the folder does not let SQLite make helper files."""
    problem: sqlite3.Error | None = None
    for mode in ("mode=ro", "mode=ro&immutable=1"):
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
            connection.execute("SELECT 1 FROM samples LIMIT 1")
            return connection
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            problem = error
    raise UsageError(f"{path}: the run database cannot be read ({problem}); is it complete?")


def _like(text: str) -> str:
    return "%" + re.sub(r"[!%_]", r"!\g<0>", text) + "%"


def _sample(row: tuple[Any, ...]) -> SampleRecord:
    index, line, sample_id, status, original, refined, flags, confidence, rounds, *costs, error = row
    calls, prompt_tokens, completion_tokens, milliseconds = costs
    refinement = Refinement(
        original=original,
        refined=refined,
        status=status,
        flags=tuple(json.loads(flags)),
        confidence=confidence,
        rounds=rounds,
        calls=calls,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        milliseconds=milliseconds,
        error=error,
    )
    return SampleRecord(index, line, sample_id, refinement)
