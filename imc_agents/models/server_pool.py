"""Requests to one or several equal HTTP servers: least busy first, repeated where that can help, bounded in number.

A server that cannot be connected to is left out and asked again in the background until it answers. Requests wait for
a server as long as the patience lasts; none is sent to a server that is known to be down.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imc_agents.errors import BackendUnreachableError, InfraError
from imc_agents.models.http import Answer, LostConnection, exchange, new_session

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Check", "PoolLimits", "Server", "ServerPool"]

_LOG = logging.getLogger(__name__)
_REPEATED = frozenset({429, 500, 502, 503, 504})
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0
_SICK = 3  # errors in a row after which a server is left out until it passes its check
_FIRST_LIMIT = 64
_LEAST_LIMIT = 8
_MOST_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How long and how often.

    Attributes:
        timeout_seconds: Longest time for one attempt.
        attempts: Attempts after which a request fails where servers answer with an error or not in time.
        patience_seconds: How long requests wait while no server can be reached.
        in_flight: Requests in flight per server; None follows what the engine can take, see ``ServerPool.observe``.
    """

    timeout_seconds: float
    attempts: int
    patience_seconds: float
    in_flight: int | None


@dataclass(eq=False, slots=True)
class Server:
    """One address and what is known about it.

    Attributes:
        url: The address, up to and with /v1.
        key: Its API key; one that was started again may have another.
        in_flight: Our requests there.
        others: Requests of other clients that wait there, when it was last looked at.
        limit: Our requests there at most.
        down: Why it is left out; None where it answers.
        errors: Answers in a row that were server errors.
    """

    url: str
    limit: float
    key: str | None = field(default=None, repr=False)
    in_flight: int = 0
    others: float = 0.0
    down: str | None = None
    errors: int = 0

    @property
    def root(self) -> str:
        """The address without /v1: health and metrics are there."""
        return self.url.removesuffix("/v1")

    @property
    def is_free(self) -> bool:
        """Whether it answers and may have one more request."""
        return self.down is None and self.in_flight < self.limit


Check = Callable[[Server], Awaitable[None]]
"""Raises InfraError where a server does not serve what the pool is for."""


class ServerPool:
    """See the module. Lives on one event loop.

    Args:
        urls: The addresses.
        key: Gives the API key of an address, or None.
        limits: How long and how often.
        check: Run when the pool opens and before a server that was left out takes part again.
    """

    def __init__(
        self, urls: tuple[str, ...], key: Callable[[str], str | None], limits: PoolLimits, check: Check
    ) -> None:
        self._limits = limits
        self._key = key
        self._check = check
        self.servers = [Server(url, limits.in_flight or _FIRST_LIMIT) for url in urls]
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def up(self) -> list[Server]:
        """The servers that answer."""
        return [server for server in self.servers if server.down is None]

    async def open(self) -> None:
        """Check every server; those that cannot be reached are left out for now.

        Raises:
            InfraError: what is wrong with the first one, where none can be used.
            BackendUnreachableError: a server refuses the key or serves something else.
        """
        self._session = new_session([server.url for server in self.servers], self._limits.timeout_seconds)
        for server in self.servers:
            server.key = self._key(server.url)
        checks = await asyncio.gather(*map(self._check, self.servers), return_exceptions=True)
        problems = [problem for problem in checks if problem is not None]
        for problem in problems:
            if not isinstance(problem, InfraError) or isinstance(problem, BackendUnreachableError):
                raise problem
        if len(problems) == len(self.servers):
            raise problems[0]
        for server, problem in zip(self.servers, checks, strict=True):
            if problem is not None:
                self._leave_out(server, str(problem))

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Send a request to the least busy server and return its answer, whatever its status.

        Connection errors, timeouts and the statuses 429, 500, 502, 503 and 504 are repeated, elsewhere if possible.

        Raises:
            InfraError: no answer in time, after all attempts.
            BackendUnreachableError: no server could be reached for ``patience_seconds``.
        """
        attempt = lost = 0
        failed: set[Server] = set()
        while True:
            server = await self._take(failed)
            try:
                answer = await self._send(server, method, server.url + path, body)
            except TimeoutError as error:
                attempt += 1
                self._failed(server, "requests time out")
                if attempt >= self._limits.attempts:
                    raise InfraError(self._late(server.url + path)) from error
            except LostConnection as error:
                # One lost connection may be an idle one that the server closed; two in a row are not.
                lost += 1
                if lost > 1:
                    self._leave_out(server, f"no connection: {error}")
                continue
            else:
                attempt += 1
                lost = 0
                if answer.status not in _REPEATED:
                    server.errors = 0
                    return answer
                self._failed(server, f"HTTP {answer.status}")
                if attempt >= self._limits.attempts:
                    return answer
            finally:
                self._release(server)
            failed.add(server)
            await asyncio.sleep(_pause(attempt))

    async def ask(self, server: Server, url: str) -> Answer:
        """GET from one server, once, whether it is left out or not.

        Raises:
            InfraError: no answer; names the address.
        """
        try:
            return await self._send(server, "GET", url, None)
        except TimeoutError as error:
            raise InfraError(self._late(url)) from error
        except LostConnection as error:
            raise InfraError(f"no connection to {url}: {error}") from error

    def observe(self, server: Server, running: float, waiting: float) -> None:
        """Note how many requests an engine runs and keeps waiting, and let it have more or fewer of ours.

        An engine that keeps none waiting can take more; one with a backlog as large as what it runs is full.
        """
        server.others = max(0.0, running + waiting - server.in_flight)
        if self._limits.in_flight is not None:
            return
        if waiting == 0 and server.in_flight + 1 > server.limit:
            server.limit = min(server.limit * 1.5, _MOST_LIMIT)
            self._wake()
        elif waiting > max(running, 1):
            server.limit = max(server.limit * 0.8, _LEAST_LIMIT)

    async def close(self) -> None:
        """Cancel the requests in flight and drop the connections. Idempotent."""
        session, self._session = self._session, None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiter in self._waiting:
            waiter.cancel()
        if session is not None:
            await session.close()

    def _late(self, url: str) -> str:
        return f"no answer from {url} within timeout_seconds = {self._limits.timeout_seconds:g}"

    async def _send(self, server: Server, method: str, url: str, body: dict[str, Any] | None) -> Answer:
        if self._session is None:
            raise InfraError("the backend is not open")
        # A task of the pool, so that closing the pool cancels it.
        task = asyncio.ensure_future(exchange(self._session, server.key, method, url, body))
        self._tasks.add(task)
        try:
            return await task
        finally:
            self._tasks.discard(task)

    async def _take(self, failed: set[Server]) -> Server:
        """Wait for a server with room, better none that failed before, and count one more request there."""
        lonely = time.monotonic()
        while True:
            if self._session is None:
                raise InfraError("the backend is not open")
            free = [server for server in self.servers if server.is_free]
            if free:
                server = min(free, key=lambda server: (server in failed, server.in_flight + server.others))
                server.in_flight += 1
                return server
            if self.up:
                lonely = time.monotonic()
            left = lonely + self._limits.patience_seconds - time.monotonic()
            if left <= 0:
                reasons = "; ".join(f"{server.url}: {server.down}" for server in self.servers)
                raise BackendUnreachableError(
                    f"no server answered for {self._limits.patience_seconds:g} s ({reasons}); start it again"
                )
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(waiter, left)
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake(1)  # the room that this one was told of is for another
                raise

    def _release(self, server: Server) -> None:
        server.in_flight -= 1
        self._wake(1)

    def _wake(self, count: int | None = None) -> None:
        """Let those that wait for a server look again, as many as there is room for."""
        while self._waiting and (count is None or count > 0):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count = None if count is None else count - 1

    def _failed(self, server: Server, reason: str) -> None:
        """Count a server error; a server that gives nothing else would draw all requests, being the least busy."""
        server.errors += 1
        if self._limits.in_flight is None:
            server.limit = max(server.limit * 0.8, _LEAST_LIMIT)
        if server.errors >= _SICK:
            self._leave_out(server, reason)

    def _leave_out(self, server: Server, reason: str) -> None:
        if server.down is not None:
            return
        server.down = reason
        _LOG.warning(
            "%s does not answer (%s); %s",
            server.url,
            reason,
            "the others go on" if self.up else f"waiting for it, {self._limits.patience_seconds:g} s at most",
        )
        self._wake()  # who waits for room there must look elsewhere, or begin to lose patience
        task = asyncio.ensure_future(self._revive(server))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _revive(self, server: Server) -> None:
        attempt = 0
        while True:
            attempt += 1
            await asyncio.sleep(_pause(attempt))
            server.key = self._key(server.url)
            try:
                await self._check(server)
            except InfraError as error:
                if isinstance(error, BackendUnreachableError) and server.down != str(error):
                    _LOG.warning("%s answers, but is still left out: %s", server.url, error)
                server.down = str(error)
                continue
            server.down = None
            _LOG.warning("%s answers again", server.url)
            self._wake()
            return


def _pause(attempt: int) -> float:
    """Seconds before the next attempt: twice as long each time, with jitter so that a crowd does not come at once."""
    longest = min(_FIRST_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)
    return random.uniform(longest / 2, longest)
