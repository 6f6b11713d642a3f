"""The run store as the one process sees that fills it: create a run, lock it, add finished rows, keep the manifest.

A row and its events are always committed together, several rows at a time. What has been flushed survives ``kill -9``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imc_agents.data.rows import Row
from imc_agents.errors import UsageError
from imc_agents.refinement import Refinement, Status
from imc_agents.runs.manifest import Manifest, write_manifest
from imc_agents.runs.schema import DATABASE, LOCK, RESULTS, SCHEMA, Totals, read_totals
from imc_agents.trace.events import Event, dump

__all__ = ["EventValues", "RunWriter", "StorageError", "event_values", "make_run_folder", "utc_now"]

FLUSH_SECONDS = 0.5
"""Longest time that a finished row stays in memory."""

FLUSH_ROWS = 256
"""Most finished rows that stay in memory."""

_LOCK_ATTEMPTS = 5

EventValues = tuple[str, str | None, str, str]
"""An event as it is stored: agent, role, type, JSON."""


class StorageError(UsageError):
    """The run folder cannot be written: disk full, read-only, or gone. What was flushed is safe."""


def utc_now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_run_folder(directory: Path, name: str) -> Path:
    """Create an empty run folder ``<utc>-<name>-<hex>`` that only its owner can read.

    Raises:
        StorageError: if it cannot be created.
    """
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "run"
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = directory / f"{stamp}-{slug[:60]}-{secrets.token_hex(3)}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        cure = "choose another place with --set run.directory=DIR"
        raise StorageError(
            f"{folder}: the run folder cannot be created ({error.strerror}); {cure}"
        ) from error
    return folder


def event_values(event: Event) -> EventValues:
    """Return the event as it is stored.

    Raises:
        ValueError: if its text cannot be written as UTF-8.
    """
    return event.agent, getattr(event, "role", None), event.type, dump(event)


class RunWriter:
    """Fills one run; holds its lock until closed. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Lock the run in ``folder`` and open its database, creating what is missing.

        Raises:
            UsageError: if another process is filling the run.
            StorageError: if the folder cannot be written.
        """
        self.folder = folder
        self._waiting: list[tuple[Row, Refinement, Sequence[EventValues]]] = []
        self._oldest = 0.0
        self._lock = _lock(folder)
        try:
            self._connection = _open_database(folder / DATABASE)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise self._storage_error(error) from error

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and give back the lock. Rows that were not flushed are dropped."""
        with suppress(sqlite3.Error):
            self._connection.close()
        os.close(self._lock)

    def claim(self, row: Row) -> bool:
        """Return whether the row is the first one with its id.

        Raises:
            StorageError: if the claim cannot be stored.
        """
        try:
            self._begin()
            self._connection.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (row.id, row.index))
            query = "SELECT row_index FROM ids WHERE id = ?"
            return self._connection.execute(query, (row.id,)).fetchone()[0] == row.index
        except sqlite3.Error as error:
            raise self._storage_error(error) from error

    def has(self, row_index: int) -> bool:
        """Return whether the row is finished and stored."""
        query = "SELECT 1 FROM samples WHERE row_index = ?"
        return self._connection.execute(query, (row_index,)).fetchone() is not None

    def put(self, row: Row, refinement: Refinement, events: Sequence[EventValues]) -> None:
        """Take a finished row; it is stored with the next flush, which this triggers where one is due.

        Raises:
            StorageError: if it cannot be stored.
        """
        if not self._waiting:
            self._oldest = time.monotonic()
        self._waiting.append((row, refinement, events))
        if len(self._waiting) >= FLUSH_ROWS:
            self.flush()
        else:
            self.flush_if_due()

    def flush_if_due(self) -> None:
        """Store the waiting rows if one has waited for ``FLUSH_SECONDS``.

        Raises:
            StorageError: if they cannot be stored.
        """
        if self._waiting and time.monotonic() - self._oldest >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store all waiting rows in one transaction.

        Raises:
            StorageError: if they cannot be stored; they stay in memory and none of them is half stored.
        """
        try:
            self._begin()
            for row, refinement, events in self._waiting:
                self._connection.execute(_INSERT_SAMPLE, _sample_values(row, refinement))
                values = [(row.index, seq, *event) for seq, event in enumerate(events)]
                self._connection.executemany(_INSERT_EVENT, values)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise self._storage_error(error) from error
        self._waiting.clear()

    def forget(self, statuses: Iterable[Status]) -> int:
        """Delete the samples with these statuses, so that they are done again; return how many.

        Raises:
            StorageError: if the database cannot be written.
        """
        wanted = list(statuses)
        chosen = f"(SELECT row_index FROM samples WHERE status IN ({', '.join('?' * len(wanted))}))"
        try:
            self._begin()
            self._connection.execute(f"DELETE FROM events WHERE row_index IN {chosen}", wanted)
            deleted = self._connection.execute(f"DELETE FROM samples WHERE row_index IN {chosen}", wanted)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._storage_error(error) from error
        return deleted.rowcount

    def totals(self) -> Totals:
        """Return the sums over the stored rows."""
        return read_totals(self._connection)

    def results(self) -> sqlite3.Cursor:
        """Return a cursor over ``RESULTS``."""
        return self._connection.execute(RESULTS)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest.

        Raises:
            StorageError: if that is impossible; the old one stays.
        """
        try:
            write_manifest(self.folder, manifest)
        except OSError as error:
            raise self._storage_error(error) from error

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    def _storage_error(self, error: sqlite3.Error | OSError) -> StorageError:
        reason = str(error) if isinstance(error, sqlite3.Error) else (error.strerror or str(error))
        code = getattr(error, "sqlite_errorname", "")
        if code == "SQLITE_FULL" or getattr(error, "errno", None) == errno.ENOSPC:
            cure = "free some space"
        elif (
            code.startswith("SQLITE_READONLY")
            or code == "SQLITE_CANTOPEN"
            or isinstance(error, PermissionError)
        ):
            cure = "make the folder writable"
        else:
            cure = "check the disk"
        return StorageError(
            f"{self.folder}: cannot be written ({reason}); {cure}, then `imc resume {self.folder}`: "
            "what was finished before is stored"
        )


_INSERT_SAMPLE = f"INSERT OR REPLACE INTO samples VALUES ({', '.join('?' * 15)})"
_INSERT_EVENT = "INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?, ?)"


def _sample_values(row: Row, refinement: Refinement) -> tuple[Any, ...]:
    return (
        row.index,
        row.line,
        row.id,
        refinement.status,
        refinement.original,
        refinement.refined,
        refinement.changed,
        json.dumps(refinement.flags, ensure_ascii=False),
        refinement.confidence,
        refinement.rounds,
        refinement.calls,
        refinement.prompt_tokens,
        refinement.completion_tokens,
        refinement.milliseconds,
        refinement.error,
    )


def _open_database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # Committed rows survive the death of the process, and a power cut but for the last moments.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _lock(folder: Path) -> int:
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        cure = "make the folder writable, then resume"
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); {cure}") from error
    for attempt in range(_LOCK_ATTEMPTS):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            # `imc runs list` holds the lock for a moment to see whether a run is alive.
            if attempt == _LOCK_ATTEMPTS - 1:
                owner = os.pread(handle, 100, 0).decode() or "another process"
                os.close(handle)
                message = f"{folder}: {owner} is filling this run; wait for it or stop it first"
                raise UsageError(message) from None
            time.sleep(0.05)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
    return handle
