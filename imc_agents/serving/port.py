"""The port that a server will listen on, held from the moment it is chosen."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager

from imc_agents.errors import UsageError
from imc_agents.models.served import served_here

__all__ = ["HOST", "claimed_port"]

HOST = "127.0.0.1"
_PORT = 8000
_TRIES = 16


@contextmanager
def claimed_port(wanted: int | None) -> Generator[int]:
    """Take a port on 127.0.0.1 for as long as the context lasts.

    vLLM takes its port seconds after it was started; meanwhile another `imc serve` must not choose the same. The claim
    is the UDP port of that number, which vLLM has no use for, and which is free again once its process has ended.

    Args:
        wanted: The one to take; None takes 8000, or any free one where that is taken.

    Yields:
        The port.

    Raises:
        UsageError: it is taken.
    """
    ours = {served.port: served.model for served in served_here(starting=True)}
    if wanted is not None and wanted in ours:
        raise UsageError(
            f"port {wanted} is that of {ours[wanted]}, which `imc serve` started; stop it with "
            f"`imc serve --stop --port {wanted}`, or leave out --port"
        )
    claim = (_claim(_PORT) or _claim(0)) if wanted is None else _claim(wanted)
    if claim is None:
        raise UsageError(
            f"port {wanted or _PORT} cannot be listened on: another program has it, or it needs more rights; name "
            "another one, or leave out --port"
        )
    with claim:
        yield int(claim.getsockname()[1])


def _claim(port: int) -> socket.socket | None:
    """Take a port, 0 for any, that nobody has claimed or listens on; None where there is none."""
    for _ in range(_TRIES if port == 0 else 1):
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind((HOST, port))
            with socket.socket() as probe:
                # What a server that has ended left behind on the port is no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(claim.getsockname())
            return claim
        except OSError:
            claim.close()
    return None
