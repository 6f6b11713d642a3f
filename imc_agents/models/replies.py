"""Turns a model's reply into the JSON that was asked for."""

from __future__ import annotations

import json
from typing import Any

from imc_agents.errors import ModelOutputError

__all__ = ["parse_reply"]


def parse_reply(text: str, schema: dict[str, Any]) -> Any:
    """Decode a reply and check it against its JSON schema; servers may ignore the schema they are given.

    Raises:
        ModelOutputError: the reply is not JSON, or not valid for the schema.
    """
    from jsonschema import ValidationError, validate

    try:
        value = json.loads(text)
    except ValueError as error:
        raise ModelOutputError(f"the reply is not JSON ({error}): {_short(text)}") from error
    try:
        validate(value, schema)
    except ValidationError as error:
        raise ModelOutputError(
            f"the reply does not fit its schema ({error.message}): {_short(text)}"
        ) from error
    return value


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else f"{line[:79]}…")
