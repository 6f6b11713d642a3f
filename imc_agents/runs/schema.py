"""What is in a run folder's database: its tables, and the sums over them that readers and the writer both need."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from imc_agents.refinement import STATUSES, Status

__all__ = ["DATABASE", "FAILED", "LOCK", "RESULTS", "SCHEMA", "Totals", "read_totals"]

DATABASE = "run.db"
LOCK = "run.lock"

FAILED: tuple[Status, ...] = ("model_error", "infra_error", "data_error", "timeout")
"""The statuses that count as failed rows."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
    row_index INTEGER PRIMARY KEY,  -- position in the input, from 0
    line INTEGER NOT NULL,          -- line of the input file, from 1
    id TEXT NOT NULL,
    status TEXT NOT NULL,
    original TEXT NOT NULL,
    refined TEXT NOT NULL,
    changed INTEGER NOT NULL,
    flags TEXT NOT NULL,            -- JSON array
    confidence REAL NOT NULL,
    rounds INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    milliseconds REAL NOT NULL,
    error TEXT
);
CREATE TABLE IF NOT EXISTS events (
    row_index INTEGER NOT NULL,
    seq INTEGER NOT NULL,           -- order within the sample, from 0
    agent TEXT NOT NULL,
    role TEXT,                      -- the specialist that the event is about, where it is not the agent
    type TEXT NOT NULL,
    body TEXT NOT NULL,             -- the event as JSON
    PRIMARY KEY (row_index, seq)
);
CREATE TABLE IF NOT EXISTS ids (
    id TEXT PRIMARY KEY,
    row_index INTEGER NOT NULL      -- the first row with that id
) WITHOUT ROWID;
"""

_LAST_EVENT = (
    "(SELECT body FROM events e WHERE e.row_index = samples.row_index AND e.type = '{}'"
    " ORDER BY seq DESC LIMIT 1)"
)

RESULTS = (
    "SELECT row_index, refined, changed, flags, confidence, status, error,"
    f" {_LAST_EVENT.format('calibrated')}, {_LAST_EVENT.format('answered')}"
    " FROM samples ORDER BY row_index"
)
"""What there is to tell of each finished row, in input order; what was found in its image, and its answer, as the JSON
of events, or null."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the finished rows of a run. ``by_status`` has every status, also those with 0 rows."""

    rows: int
    by_status: dict[Status, int]
    changed: int
    flagged: int
    calls: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def failed(self) -> int:
        """Rows that failed, of whatever kind."""
        return sum(self.by_status[status] for status in FAILED)

    def record(self) -> dict[str, int]:
        """Return the sums as plain data, each status by its name."""
        return {
            "done": self.rows,
            **self.by_status,
            "changed": self.changed,
            "flagged": self.flagged,
            "failed": self.failed,
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


def read_totals(connection: sqlite3.Connection) -> Totals:
    """Return the sums over all finished samples of an open run database."""
    by_status: dict[Status, int] = dict.fromkeys(STATUSES, 0)
    sums = [0] * 6
    query = (
        "SELECT status, COUNT(*), SUM(changed), SUM(flags != '[]'), SUM(calls), SUM(prompt_tokens),"
        " SUM(completion_tokens) FROM samples GROUP BY status"
    )
    for status, *numbers in connection.execute(query):
        by_status[status] = numbers[0]
        sums = [total + number for total, number in zip(sums, numbers, strict=True)]
    rows, changed, flagged, calls, prompt_tokens, completion_tokens = sums
    return Totals(rows, by_status, changed, flagged, calls, prompt_tokens, completion_tokens)
