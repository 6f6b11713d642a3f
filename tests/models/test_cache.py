"""Replies that are kept: asked once, and never the answer of another image, model or setting."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imc_agents.errors import DataError, UsageError
from imc_agents.models.cache import CachedBackend, Responses
from imc_agents.models.protocol import (
    Capabilities,
    Generation,
    ImageFeatures,
    Message,
    Sampling,
    Score,
    Usage,
)

ASKED = Message("user", "Is there a mass?")


@dataclass
class Counting:
    """Answers with the number of the call."""

    revision: str = "1"
    calls: list[Sequence[Message]] = field(default_factory=list)

    async def open(self) -> Capabilities:
        return Capabilities("counting", self.revision, scores=False, max_tokens=0)

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        self.calls.append(messages)
        text = f'{{"call": {len(self.calls)}}}' if schema else f"call {len(self.calls)}"
        return Generation(text, {"call": len(self.calls)} if schema else None, Usage(7, 2, 5.0))

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        raise AssertionError("no test scores")

    async def close(self) -> None:
        pass


def ask(
    path: Path, *messages: Message, inner: Counting | None = None, **options: Any
) -> tuple[list[Generation], Counting]:
    """Ask each message as a chat of its own, in a process that has just started."""
    inner = inner or Counting()

    async def scenario() -> list[Generation]:
        responses = Responses(path)
        backend = CachedBackend(inner, responses, options.get("scope", ""))
        await backend.open()
        try:
            sampling = options.get("sampling", Sampling())
            return [
                await backend.generate([message], sampling=sampling, schema=options.get("schema"))
                for message in messages
            ]
        finally:
            await backend.close()
            responses.close()

    return asyncio.run(scenario()), inner


def test_the_same_call_is_made_once_and_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "responses.db"
    (first, again), inner = ask(path, ASKED, ASKED)
    assert (first.text, again.text, len(inner.calls)) == ("call 1", "call 1", 1)
    (later,), fresh = ask(path, ASKED)
    assert (later.text, later.usage.prompt_tokens, fresh.calls) == ("call 1", 7, [])
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_reply_in_json_is_decoded_again(tmp_path: Path) -> None:
    (_, again), inner = ask(tmp_path / "r.db", ASKED, ASKED, schema={"type": "object"})
    assert again.parsed == {"call": 1}
    assert len(inner.calls) == 1


def png(path: Path, grey: int) -> Path:
    Image.fromarray(np.full((8, 8), grey, np.uint8)).save(path)
    return path


def test_two_variants_of_an_image_never_share_a_reply(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    image = png(tmp_path / "a.png", 10)
    (clean,), _ = ask(path, Message("user", "?", (image,)))
    png(image, 11)  # the same name, another image
    (noisy,), inner = ask(path, Message("user", "?", (image,)))
    assert len(inner.calls) == 1
    copy = tmp_path / "b.png"
    copy.write_bytes(image.read_bytes())
    _, moved = ask(path, Message("user", "?", (copy,)))  # another name, the same image
    assert moved.calls == []
    rows = np.zeros((2, 3), np.float32)
    features = [ImageFeatures(rows, grid, digest) for digest in "ab" for grid in (None, (1, 2, 2))]
    _, each = ask(path, *(Message("user", "?", (item,)) for item in features))
    assert len(each.calls) == 4
    del clean, noisy


def test_whatever_a_reply_depends_on_is_in_the_key(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    ask(path, ASKED)
    different: list[tuple[Message, dict[str, Any]]] = [
        (Message("system", ASKED.content), {}),
        (Message("user", "Is there a mass"), {}),
        (ASKED, {"sampling": Sampling(max_tokens=8)}),
        (ASKED, {"sampling": Sampling(temperature=0.5, seed=1)}),
        (ASKED, {"sampling": Sampling(temperature=0.5, seed=2)}),
        (ASKED, {"schema": {"type": "object"}}),
        (ASKED, {"inner": Counting(revision="2")}),
        (ASKED, {"scope": "the same server, started with a calibration"}),
    ]
    for message, options in different:
        _, inner = ask(path, message, **options)
        assert len(inner.calls) == 1, options
    _, greedy = ask(path, ASKED, sampling=Sampling(seed=9))  # a seed that nothing is drawn with
    assert greedy.calls == []


def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_text("not a database, but long enough to be looked at as one\n" * 50)
    with pytest.raises(UsageError, match=r"r\.db: the response cache cannot be used .*--no-cache"):
        Responses(tmp_path / "r.db")
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        ask(tmp_path / "s.db", Message("user", "?", (tmp_path / "gone.png",)))


def test_a_file_that_another_process_writes_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    ask(path, ASKED)
    other = sqlite3.connect(path)
    assert other.execute("SELECT COUNT(*) FROM replies").fetchone() == (1,)
    (_, again), _ = ask(path, Message("user", "new"), ASKED)
    assert again.text == "call 1"
    assert other.execute("SELECT COUNT(*) FROM replies").fetchone() == (2,)
    other.close()
