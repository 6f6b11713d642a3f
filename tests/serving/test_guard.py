"""Which requests pass without the key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from imc_agents.serving.guard import RequireKey


def status(monkeypatch: pytest.MonkeyPatch, method: str, path: str, *authorization: bytes) -> int:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    headers = [(b"authorization", value) for value in authorization]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(RequireKey(app)(scope, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("POST", "/invocations"),
        ("POST", "/tokenize"),
        ("POST", "/health"),
        ("POST", "/scale_elastic_ep"),
        ("OPTIONS", "/v1/models"),
        ("GET", "/docs"),
        ("GET", "/health/../v1/models"),
    ],
)
def test_what_needs_the_key(monkeypatch: pytest.MonkeyPatch, method: str, path: str) -> None:
    assert status(monkeypatch, method, path) == 401
    assert status(monkeypatch, method, path, b"Bearer wrong") == 401
    assert status(monkeypatch, method, path, b"Bearer wrong", b"Bearer secret") == 401
    assert status(monkeypatch, method, path, b"Bearer secret") == 200


@pytest.mark.parametrize("path", ["/health", "/metrics", "/version"])
def test_what_is_open(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    assert status(monkeypatch, "GET", path) == 200
