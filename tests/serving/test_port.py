"""The port of a server is its own from the moment it is chosen."""

from __future__ import annotations

import socket

import pytest

from imc_agents.errors import UsageError
from imc_agents.serving.port import claimed_port


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} cannot be listened on"), claimed_port(port):
            pass
    with claimed_port(port) as claimed:
        assert claimed == port


def test_a_claimed_port_is_for_one_server() -> None:
    with claimed_port(None) as port:
        with pytest.raises(UsageError, match=f"port {port} cannot be listened on"), claimed_port(port):
            pass
        with claimed_port(None) as other:
            assert other != port
        with socket.create_server(("127.0.0.1", port)) as server:
            # The side that closes first leaves its end behind for a minute.
            client = socket.create_connection(("127.0.0.1", port))
            server.accept()[0].close()
            client.close()
    with claimed_port(port) as again:
        assert again == port
