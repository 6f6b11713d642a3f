"""How requests are spread over servers, repeated and held back, with small servers that misbehave on command."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from imc_agents.errors import BackendUnreachableError, InfraError
from imc_agents.models.server_pool import PoolLimits, Server, ServerPool

LIMITS = PoolLimits(timeout_seconds=5.0, attempts=4, patience_seconds=5.0, in_flight=8)


@dataclass
class Small:
    """A server on a port of its own; ``answers`` are given first, then 200, after ``seconds``."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    seconds: float = 0.0
    busy: int = 0
    most: int = 0
    served: int = 0
    listener: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        self.listener = await asyncio.start_server(self.handle, "127.0.0.1", self.port)
        self.port = self.listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self.listener is not None
        self.listener.close()
        for writer in list(self.writers):
            writer.close()
        await self.listener.wait_closed()
        await asyncio.sleep(0.02)  # for the handlers to end

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.decode().lower().split("\r\n"):
                    if line.startswith("content-length:"):
                        await reader.readexactly(int(line.split(":")[1]))
                status = 200
                if head.startswith(b"POST"):
                    self.busy += 1
                    self.most = max(self.most, self.busy)
                    await asyncio.sleep(self.seconds)
                    self.busy -= 1
                    status = self.answers.pop(0) if self.answers else 200
                    self.served += status == 200
                body = json.dumps({"port": self.port}).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


@asynccontextmanager
async def pool_of(
    *smalls: Small,
    limits: PoolLimits = LIMITS,
    check: Callable[[Server], Awaitable[None]] | None = None,
    absent: Small | None = None,
) -> AsyncIterator[ServerPool]:
    for small in smalls:
        await small.start()
    if absent is not None:
        await absent.stop()

    async def ask(server: Server) -> None:
        await pool.ask(server, f"{server.root}/health")

    pool = ServerPool(tuple(small.url for small in smalls), lambda _: None, limits, check or ask)
    try:
        await pool.open()
        yield pool
    finally:
        await pool.close()
        for small in smalls:
            await small.stop()


async def post(pool: ServerPool, count: int = 1) -> list[int]:
    """The ports that answered."""
    replies = await asyncio.gather(*(pool.request("POST", "/x", {}) for _ in range(count)))
    assert all(reply.status == 200 for reply in replies)
    return [json.loads(reply.content)["port"] for reply in replies]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_repeated(status: int) -> None:
    async def scenario() -> None:
        async with pool_of(Small(answers=[status, status])) as pool:
            assert len(await post(pool)) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refused_request_is_not_repeated(status: int) -> None:
    async def scenario() -> tuple[int, int]:
        small = Small(answers=[status])
        async with pool_of(small) as pool:
            reply = await pool.request("POST", "/x", {})
        return reply.status, small.served

    assert asyncio.run(scenario()) == (status, 0)


def test_a_lasting_failure_is_handed_on_after_all_attempts() -> None:
    async def scenario() -> tuple[int, int]:
        small = Small(answers=[500] * 9)
        async with pool_of(small) as pool:
            reply = await pool.request("POST", "/x", {})
        return reply.status, len(small.answers)

    assert asyncio.run(scenario()) == (500, 9 - LIMITS.attempts)


def test_requests_go_to_the_least_busy_server() -> None:
    async def scenario() -> tuple[int, int]:
        slow, quick = Small(seconds=0.2), Small(seconds=0.01)
        async with pool_of(slow, quick) as pool:
            await post(pool, 60)
        return slow.served, quick.served

    slow, quick = asyncio.run(scenario())
    assert slow + quick == 60
    assert quick > 2 * slow > 0


def test_no_server_has_more_requests_than_it_may() -> None:
    async def scenario() -> int:
        small = Small(seconds=0.01)
        async with pool_of(small) as pool:
            await post(pool, 50)
        return small.most

    assert asyncio.run(scenario()) == LIMITS.in_flight


def test_a_dead_server_is_left_out_and_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        one, other = Small(seconds=0.05), Small(seconds=0.05)
        async with pool_of(one, other) as pool:
            running = asyncio.ensure_future(post(pool, 40))
            await asyncio.sleep(0.07)
            await one.stop()
            assert len(await running) == 40, "no request is lost"
            assert set(await post(pool, 10)) == {other.port}
            await one.start()
            async with asyncio.timeout(10):
                while len(pool.up) < 2:
                    await asyncio.sleep(0.05)
            assert set(await post(pool, 10)) == {one.port, other.port}

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    told = [record.getMessage() for record in caplog.records]
    assert sum("does not answer" in line and "the others go on" in line for line in told) == 1
    assert sum("answers again" in line for line in told) == 1


def test_a_server_that_gives_nothing_but_errors_does_not_draw_all_requests() -> None:
    async def scenario() -> int:
        sick, sound = Small(answers=[500] * 1000), Small(seconds=0.02)
        async with pool_of(sick, sound) as pool:
            assert set(await post(pool, 60)) == {sound.port}
        return 1000 - len(sick.answers)

    assert asyncio.run(scenario()) < 60


def test_requests_wait_for_the_only_server_to_come_back() -> None:
    async def scenario() -> None:
        small = Small()
        async with pool_of(small) as pool:
            await small.stop()
            waiting = asyncio.ensure_future(post(pool, 5))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await small.start()
            assert len(await waiting) == 5

    asyncio.run(scenario())


def test_patience_ends_with_the_address_and_the_reason() -> None:
    async def scenario() -> None:
        small = Small()
        async with pool_of(small, limits=PoolLimits(5.0, 4, 0.5, 8)) as pool:
            await small.stop()
            try:
                with pytest.raises(BackendUnreachableError, match=rf"{small.port}.*start it again"):
                    await post(pool, 3)
            finally:
                await small.start()

    asyncio.run(scenario())


def test_a_server_that_hangs_is_given_up_after_all_attempts() -> None:
    async def scenario() -> None:
        async with pool_of(Small(seconds=30.0), limits=PoolLimits(0.1, 2, 5.0, 8)) as pool:
            with pytest.raises(InfraError, match=r"timeout_seconds = 0\.1"):
                await post(pool)

    asyncio.run(scenario())


def test_a_hanging_server_does_not_stop_the_others() -> None:
    async def scenario() -> None:
        hanging, sound = Small(seconds=30.0), Small()
        async with pool_of(hanging, sound, limits=PoolLimits(0.3, 4, 5.0, 8)) as pool:
            assert set(await post(pool, 20)) == {sound.port}

    asyncio.run(scenario())


def test_an_engine_with_room_gets_more_and_a_full_one_less() -> None:
    async def scenario() -> tuple[float, float, float]:
        small = Small(seconds=0.3)
        async with pool_of(small, limits=PoolLimits(5.0, 4, 5.0, None)) as pool:
            (server,) = pool.servers
            first = server.limit
            running = asyncio.ensure_future(post(pool, 200))
            await asyncio.sleep(0.1)
            pool.observe(server, running=first, waiting=0)
            more = server.limit
            pool.observe(server, running=10, waiting=50)
            fewer = server.limit
            await running
        return first, more, fewer

    first, more, fewer = asyncio.run(scenario())
    assert more > first
    assert fewer < more


def test_a_server_that_serves_something_else_is_an_error_at_once() -> None:
    async def wrong(server: Server) -> None:
        raise BackendUnreachableError(f"{server.url} serves another model")

    async def scenario() -> None:
        async with pool_of(Small(), check=wrong):
            pass

    with pytest.raises(BackendUnreachableError, match="serves another model"):
        asyncio.run(scenario())


def test_one_of_two_servers_may_be_missing_at_the_start() -> None:
    async def scenario() -> None:
        there, missing = Small(), Small()
        async with pool_of(there, missing, absent=missing) as pool:
            assert set(await post(pool, 10)) == {there.port}
            await missing.start()
            async with asyncio.timeout(10):
                while len(pool.up) < 2:
                    await asyncio.sleep(0.05)
            assert set(await post(pool, 20)) == {there.port, missing.port}

    asyncio.run(scenario())


def test_closing_ends_what_waits() -> None:
    async def scenario() -> None:
        small = Small(seconds=20.0)
        async with pool_of(small, limits=PoolLimits(30.0, 4, 5.0, 1)) as pool:
            calls = [asyncio.ensure_future(pool.request("POST", "/x", {})) for _ in range(3)]
            await asyncio.sleep(0.1)
            await pool.close()
            done = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
            assert all(isinstance(found, asyncio.CancelledError | InfraError) for found in done)

    asyncio.run(scenario())
