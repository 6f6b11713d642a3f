"""A middleware for vLLM's server: everything that reads or changes something needs the key.

vLLM 0.32 asks for the key below ``/v1`` and ``/inference`` only. Its other routes, ``/invocations`` and ``/tokenize``
among them, would let every user of the machine run the model. What is said about the server itself stays open.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["RequireKey"]

_OPEN = frozenset({"/health", "/ping", "/metrics", "/version", "/load"})
_REFUSAL = b'{"error":"Unauthorized"}'

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], _Send], Awaitable[None]]


class RequireKey:
    """An ASGI application around another one; vLLM is given it with ``--middleware``."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(
        self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send
    ) -> None:
        """Pass a request on, or refuse it with status 401."""
        if scope["type"] not in ("http", "websocket") or self._may(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})

    def _may(self, scope: _Message) -> bool:
        if scope.get("method") in ("GET", "HEAD") and scope["path"] in _OPEN:
            return True
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)
