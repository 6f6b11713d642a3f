"""Keeps replies of models on disk, so that no call is paid for twice: not by another method, and not after a crash.

The key holds everything that a reply depends on: model and revision, messages with the bytes of their images or the
digest of their features, sampling and schema. Two variants of an image therefore never share a reply. What a server
says of its model is a name and a path, though, the same for other weights there and with a calibration inside: a file
is for one run, and each model of the run has a scope of its own.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imc_agents.errors import DataError, UsageError
from imc_agents.models.protocol import (
    Backend,
    Capabilities,
    EngineWork,
    Generation,
    ImageFeatures,
    Measured,
    Message,
    Sampling,
    Score,
    Usage,
)

__all__ = ["CachedBackend", "Responses"]

_WAIT_SECONDS = 30.0  # for another process that writes


class Responses:
    """A file of replies. Several processes may use it at once."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it, readable by its owner alone.

        Raises:
            UsageError: it cannot be used.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=_WAIT_SECONDS)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, text TEXT NOT NULL,"
                " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise UsageError(
                f"{path}: the response cache cannot be used ({error}); delete the file, or leave it out by --no-cache"
            ) from error

    def get(self, key: bytes) -> Generation | None:
        """Return the reply to a call, or None; its cost is that of the call which was made."""
        query = "SELECT text, prompt_tokens, completion_tokens FROM replies WHERE key = ?"
        try:
            row = self._connection.execute(query, (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return None if row is None else Generation(row[0], usage=Usage(row[1], row[2]))

    def put(self, key: bytes, reply: Generation) -> None:
        """Keep a reply."""
        values = (key, reply.text, reply.usage.prompt_tokens, reply.usage.completion_tokens)
        try:
            self._connection.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _broken(self, error: sqlite3.Error) -> UsageError:
        return UsageError(
            f"{self._path}: the response cache cannot be used ({error}); delete the file, or leave it out by "
            "--no-cache"
        )


@dataclass(slots=True)
class CachedBackend:
    """A backend whose replies are kept; scores are not, they are many and cheap.

    Attributes:
        inner: The backend.
        responses: Where replies are kept.
        scope: Replies are shared within it only.
        identity: Model and revision, known once it is open.
    """

    inner: Backend
    responses: Responses
    scope: str = ""
    identity: tuple[str, str] = ("", "")

    async def open(self) -> Capabilities:
        """Load or reach the model."""
        found = await self.inner.open()
        self.identity = (found.model, found.revision)
        return found

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """Answer a chat, from the file where the very same was asked before."""
        key = _key((self.scope, *self.identity), messages, sampling, schema)
        known = self.responses.get(key)
        if known is None:
            known = await self.inner.generate(messages, sampling=sampling, schema=schema)
            self.responses.put(key, known)
            return known
        if schema is None:
            return known
        return Generation(known.text, json.loads(known.text), known.usage)

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """Log-probabilities of the tokens of each text."""
        return await self.inner.score(context, texts)

    async def engine_work(self) -> dict[str, EngineWork]:
        """What the engines behind the backend did, where it tells."""
        return await self.inner.engine_work() if isinstance(self.inner, Measured) else {}

    async def close(self) -> None:
        """Free the model; the file stays open."""
        await self.inner.close()


def _key(
    identity: tuple[str, ...],
    messages: Sequence[Message],
    sampling: Sampling,
    schema: dict[str, Any] | None,
) -> bytes:
    said = [[m.role, m.content, [_digest(image) for image in m.images]] for m in messages]
    # A greedy reply depends on neither.
    drawn = asdict(sampling if sampling.temperature else replace(sampling, seed=0, top_p=1.0))
    everything = [identity, said, drawn, schema]
    return hashlib.sha256(json.dumps(everything, sort_keys=True, ensure_ascii=False).encode()).digest()


def _digest(image: Path | ImageFeatures) -> str:
    if isinstance(image, ImageFeatures):
        return f"features:{image.digest}:{image.grid}"
    try:
        return f"image:{hashlib.sha256(image.read_bytes()).hexdigest()}"
    except OSError as error:
        raise DataError(f"{image}: cannot be read ({error.strerror})") from error
