"""Which servers of ``imc serve`` on this machine have a model."""

from __future__ import annotations

import asyncio

from imc_agents.errors import BackendUnreachableError, DataError, InfraError
from imc_agents.models.http import LostConnection, exchange, new_session
from imc_agents.models.openai_wire import find_card
from imc_agents.models.served import Served, served_here

__all__ = ["servers_with"]

_ASK_SECONDS = 10.0


async def servers_with(model: str) -> tuple[str, ...]:
    """Return the addresses of the servers here that have a model, oldest first.

    Args:
        model: Name under which the model is served, or that of an adapter beside it; empty for the only one.

    Raises:
        BackendUnreachableError: there is none, or several models and no name; names those that there are.
    """
    here = served_here()
    names = sorted({served.model for served in here})
    if not model and len(names) > 1:
        raise BackendUnreachableError(
            f"several models are served on this machine ({', '.join(names)}); say which one: --model NAME"
        )
    fitting = [served for served in here if model in ("", served.model)]
    if not fitting:  # records name the model that was started; only a server knows its adapters
        has = await asyncio.gather(*(_has(served, model) for served in here))
        fitting = [served for served, found in zip(here, has, strict=True) if found]
    if fitting:
        return tuple(served.base_url for served in fitting)
    found = (
        f"those started with `imc serve` have {', '.join(names)}"
        if here
        else "none was started with `imc serve`"
    )
    wanted = f" that serves {model!r}" if model else ""
    raise BackendUnreachableError(
        f"no vLLM server{wanted} on this machine ({found}); start it (imc serve --model ...), or name its "
        "address (--base-url http://HOST:PORT/v1)"
    )


async def _has(served: Served, model: str) -> bool:
    url = f"{served.base_url}/models"
    try:
        async with new_session([url], _ASK_SECONDS) as session:
            find_card(await exchange(session, served.api_key, "GET", url, None), model, "")
    except (BackendUnreachableError, InfraError, DataError, LostConnection, TimeoutError):
        return False
    return True
