"""A backend that shows every request and sends none, so that a dry run takes the real path through the agents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from imc_agents.models.protocol import Capabilities, Generation, Message, Sampling, Score, TokenScore, Usage

__all__ = ["DryBackend"]

_WORD = re.compile(r"\s*\S+|\s+")
_FLAT_LOGPROB = -2.0


class DryBackend:
    """See ``imc_agents.models.protocol.Backend``. Every word is equally likely; replies are the smallest valid ones."""

    def __init__(self, name: str, show: Callable[[str], None]) -> None:
        self._name = name
        self._show = show

    async def open(self) -> Capabilities:
        """Nothing to open."""
        return Capabilities(self._name, "dry-run", True, 1 << 30)

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """Show the chat and answer with the smallest reply that the schema admits."""
        lines = [
            f"generate  backend={self._name} temperature={sampling.temperature} max_tokens={sampling.max_tokens}"
        ]
        for message in messages:
            lines += [
                f"[image]\n{image.name if isinstance(image, Path) else image.digest}"
                for image in message.images
            ]
            lines.append(f"[{message.role}]\n{message.content}")
        self._show("\n".join(lines))
        reply = _smallest(schema, schema) if schema is not None else ""
        return Generation(json.dumps(reply), reply if schema is not None else None)

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """Show the texts and give every word of them the same log-probability."""
        shown = "\n".join(f"  {text!r}" for text in texts)
        self._show(f"score  backend={self._name}\n[context]\n{context}\n[texts]\n{shown}")
        return [
            Score(tuple(TokenScore(*m.span(), _FLAT_LOGPROB) for m in _WORD.finditer(text))) for text in texts
        ], Usage()

    async def close(self) -> None:
        """Nothing to close."""


def _smallest(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if reference := schema.get("$ref"):
        return _smallest(root["$defs"][str(reference).rsplit("/", 1)[-1]], root)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        properties = cast(dict[str, dict[str, Any]], schema.get("properties", {}))
        return {key: _smallest(properties[key], root) for key in schema.get("required", [])}
    if kind == "array":
        return [_smallest(schema["items"], root)] * int(schema.get("minItems", 0))
    if kind == "string":
        return "x" * int(schema.get("minLength", 0))
    return {"boolean": False, "integer": schema.get("minimum", 0), "number": schema.get("minimum", 0.0)}.get(
        str(kind)
    )
