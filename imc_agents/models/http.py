"""One HTTP exchange with a server, and what it may end with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "LostConnection", "exchange", "new_session", "plain_address"]

_CONNECT_SECONDS = 10.0
_KEPT_ALIVE_SECONDS = 3.0  # less than servers keep idle connections, or one is used that they just closed
_HERE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered: the status and the body, and the address that was asked."""

    url: str
    status: int
    content: bytes

    @property
    def text(self) -> str:
        """The body as text, whatever is in it."""
        return self.content.decode("utf-8", "replace")


class LostConnection(Exception):  # noqa: N818 - it says what happened, and is caught where it is raised
    """No connection, or it broke; the text says why."""


def new_session(urls: Sequence[str], timeout_seconds: float) -> aiohttp.ClientSession:
    """Return a client for these servers; connections are unlimited, requests are bounded elsewhere."""
    import aiohttp

    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=_CONNECT_SECONDS),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_ALIVE_SECONDS),
        # Proxies from the environment are not for servers on this machine.
        trust_env=not all(urlsplit(url).hostname in _HERE for url in urls),
    )


async def exchange(
    session: aiohttp.ClientSession, key: str | None, method: str, url: str, body: dict[str, Any] | None
) -> Answer:
    """Send a request and return the answer, whatever its status.

    Raises:
        TimeoutError: no answer in time.
        LostConnection: no connection.
    """
    import aiohttp

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    content = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    try:
        async with session.request(
            method, url, data=content, headers=headers, allow_redirects=False
        ) as response:
            return Answer(url, response.status, await response.read())
    except TimeoutError:
        raise
    except (aiohttp.ClientError, OSError) as error:
        raise LostConnection(" ".join(str(error).split()) or type(error).__name__) from error


def plain_address(value: str) -> str:
    """Return the address of a server without a slash at the end.

    Raises:
        ValueError: it is no HTTP address, or holds credentials.
    """
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must be an http:// or https:// address such as http://127.0.0.1:8000/v1")
    if url.username is not None or url.password is not None:
        raise ValueError("must not hold credentials; put the key into the variable that api_key_env names")
    return value.rstrip("/")
