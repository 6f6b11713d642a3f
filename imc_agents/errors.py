"""Errors a user may meet: each is one line that names the thing, the place and the cure.

The commands turn them into one line on stderr and the exit code below; the batch runner turns them into a
per-sample status. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations

__all__ = [
    "BackendUnreachableError",
    "ConfigError",
    "DataError",
    "ImcError",
    "InfraError",
    "ModelOutputError",
    "UsageError",
    "nearest",
]


class ImcError(Exception):
    """Base of all errors with a message for the user."""

    exit_code = 2


class UsageError(ImcError):
    """A command was called with arguments or files that cannot work."""


class ConfigError(ImcError):
    """A config file, override, profile, role or prompt is wrong; names the key and the nearest valid one."""


class DataError(ImcError):
    """One input row cannot be used; the row is reported, the batch goes on (status ``data_error``)."""


class ModelOutputError(ImcError):
    """A model's reply is not what was asked for (status ``model_error``)."""


class InfraError(ImcError):
    """A backend failed to serve a call (status ``infra_error``); may be retried, is never scored as wrong."""


class BackendUnreachableError(InfraError):
    """A backend cannot be reached or loaded at all; the run stops."""

    exit_code = 4


def nearest(name: str, valid: list[str] | tuple[str, ...] | set[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or ``""`` where none is close."""
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(valid), n=1, cutoff=0.55)
    return f"; did you mean {close[0]!r}?" if close else ""
