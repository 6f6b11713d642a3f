"""A vLLM server without a model: answers recorded requests from memory, as fast as it can read them.

Started as a process of its own, so that it takes no time from the client that is measured:
``python -m imc_agents.bench.serving_stub FILE`` reads the replies, prints its port and ends when its stdin is closed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from imc_agents.models.protocol import Score

__all__ = ["MODEL", "ReplyBook", "serve", "started_stub"]

MODEL = "stub"
_MAX_TOKENS = 1_000_000
_PIECE = 4
"""Characters of a context token, as many as English has."""
_BEHIND_CACHE = 16
"""Tokens of a context that are no whole block and so do not come from the prefix cache, half a block on average."""
_METRICS = "".join(
    f'vllm:{name}{{model_name="{MODEL}"}} 0.0\n'
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
)
_NO_IMAGES = {"error": {"message": "stub is not a multimodal model"}}


class ReplyBook:
    """The replies to known requests. Contexts make up most of a reply and are kept once."""

    def __init__(self) -> None:
        self._shared: dict[str, int] = {}
        self._replies: dict[str, list[str | int]] = {}

    def add_scores(
        self, body: dict[str, Any], context: str, texts: Sequence[str], scores: Sequence[Score]
    ) -> None:
        """Note what a scoring request is answered."""
        head = _entries([context[at : at + _PIECE] for at in range(0, len(context), _PIECE)])
        number = self._shared.setdefault(_joined(head), len(self._shared))
        parts: list[str | int] = ['{"id":"cmpl-stub","object":"text_completion","model":"stub","choices":[']
        for index, (text, score) in enumerate(zip(texts, scores, strict=True)):
            parts.append(_CHOICE.format(index=index, comma="," if index else ""))
            parts.append(number)
            tail = _joined([_entry(*piece) for piece in _pieces(text, score)])
            parts.append((f",{tail}" if tail else "") + "]}")
        read = sum(len(score.tokens) + len(head) for score in scores)
        parts.append(f"],{_usage(read, len(scores))}}}")
        self._replies[_digest(body)] = parts

    def add_text(self, body: dict[str, Any], text: str, finish_reason: str, written: int) -> None:
        """Note what a chat is answered."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "reasoning": None, "tool_calls": []}
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        head = '{"id":"chatcmpl-stub","object":"chat.completion","model":"stub","choices":['
        self._replies[_digest(body)] = [f"{head}{_json(choice)}],{_usage(100, written)}}}"]

    def save(self, path: Path) -> None:
        """Write the replies for the process that serves them."""
        path.write_text(
            json.dumps({"shared": list(self._shared), "replies": self._replies}), encoding="utf-8"
        )


class _Replies:
    """Finds the reply to a request."""

    def __init__(self, path: Path) -> None:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        shared = [part.encode() for part in content["shared"]]
        self._replies: dict[str, list[bytes]] = {
            digest: [shared[part] if isinstance(part, int) else part.encode() for part in parts]
            for digest, parts in content["replies"].items()
        }
        # The same bytes come again with every pass; parsing them once is enough.
        self._seen: dict[bytes, list[bytes]] = {}

    def to(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if method == "POST":
            return self._to_post(path, body)
        if path == "/v1/models":
            card = {"id": MODEL, "root": MODEL, "max_model_len": _MAX_TOKENS, "owned_by": "vllm"}
            return 200, _json({"object": "list", "data": [card]}).encode()
        if path == "/health":
            return 200, b""
        return (200, _METRICS.encode()) if path == "/metrics" else _missing(f"no page {path}")

    def _to_post(self, path: str, body: bytes) -> tuple[int, bytes]:
        raw = hashlib.blake2b(body, digest_size=16).digest()
        parts = self._seen.get(raw)
        if parts is None:
            asked: Any = json.loads(body)
            parts = self._replies.get(_digest(asked))
            if parts is None:
                return _to_unknown(path, asked)
            self._seen[raw] = parts
        return 200, b"".join(parts)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as one known client needs it."""

    def __init__(self, replies: _Replies) -> None:
        self._replies = replies
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *fields = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
            length = next((int(f[15:]) for f in fields if f.lower().startswith("content-length:")), 0)
            stop = end + 4 + length
            if len(self._buffer) < stop:
                return
            method, path, _ = first.split(" ", 2)
            status, body = self._replies.to(method, path, bytes(self._buffer[end + 4 : stop]))
            del self._buffer[:stop]
            head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            assert self._transport is not None
            self._transport.write(head.encode() + body)


async def serve(path: Path) -> None:
    """Serve the replies of a file on a free port of 127.0.0.1 until stdin is closed."""
    replies = _Replies(path)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(replies), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


@asynccontextmanager
async def started_stub(path: Path) -> AsyncGenerator[str]:
    """Run the server in a process of its own; gives its address, up to and with /v1."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "imc_agents.bench.serving_stub", str(path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = await process.stdout.readline()
        if not port:
            raise RuntimeError("the stub server ended before it said its port; what it wrote above says why")
        yield f"http://127.0.0.1:{int(port)}/v1"
    finally:
        process.stdin.close()
        await process.wait()


def _digest(body: dict[str, Any]) -> str:
    known = {key: value for key, value in body.items() if key not in ("vllm_xargs", "model")}
    return hashlib.blake2b(json.dumps(known, sort_keys=True).encode(), digest_size=16).hexdigest()


def _to_unknown(path: str, asked: dict[str, Any]) -> tuple[int, bytes]:
    if path == "/v1/completions" and "prompt_logprobs" in asked:
        prompts: list[str] = [asked["prompt"]] if isinstance(asked["prompt"], str) else asked["prompt"]
        choices = (_unknown_choice(index, prompt) for index, prompt in enumerate(prompts))
        return 200, f'{{"choices":[{"".join(choices)}],{_usage(len(prompts), len(prompts))}}}'.encode()
    messages: list[dict[str, Any]] = asked.get("messages", [])
    if any(not isinstance(message["content"], str) for message in messages):
        return 400, _json(_NO_IMAGES).encode()
    return _missing("this request was not recorded")


def _unknown_choice(index: int, prompt: str) -> str:
    """All before the last blank as a context, the rest as one token."""
    cut = prompt.rfind(" ")
    pieces = [prompt[at : min(at + _PIECE, cut)] for at in range(0, cut, _PIECE)]
    entries = [*_entries(pieces), _entry(prompt[max(cut, 0) :], -1.0)]
    return _CHOICE.format(index=index, comma="," if index else "") + _joined(entries) + "]}"


def _missing(what: str) -> tuple[int, bytes]:
    return 404, _json({"error": {"message": what}}).encode()


_CHOICE = (
    '{comma}{{"index":{index},"text":" x","logprobs":null,"finish_reason":"length","stop_reason":null,'
    '"token_ids":null,"prompt_logprobs":['
)


def _entries(pieces: Sequence[str]) -> list[str]:
    """The tokens of a context as they are answered: null in the place of the first, or of all from the cache."""
    return ["null", *(_entry(piece, -1.5) for piece in pieces[max(len(pieces) - _BEHIND_CACHE, 1) :])]


def _entry(piece: str, logprob: float) -> str:
    token = 1000 + sum(piece.encode()) % 30000
    return _json({str(token): {"logprob": logprob, "rank": 1, "decoded_token": piece}})


def _pieces(text: str, score: Score) -> list[tuple[str, float]]:
    """The decoded tokens of a text; those that split characters decode to U+FFFD, as a server sends them."""
    tokens = score.tokens
    empty = [token.start == token.end for token in tokens] + [False]
    return [
        (
            "\ufffd" if empty[at] or empty[at + 1] else text[token.start : token.end],
            min(token.logprob, 0.0),  # above 0 would mark it as not computed
        )
        for at, token in enumerate(tokens)
    ]


def _usage(read: int, written: int) -> str:
    counts = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return f'"usage":{_json(counts)}'


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _joined(entries: Sequence[str]) -> str:
    return ",".join(entries)


if __name__ == "__main__":
    # Ctrl-C goes to the whole process group; this process ends when its parent closes its stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(serve(Path(sys.argv[1])))
