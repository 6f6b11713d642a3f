"""Prompts and replies of model calls: chats by message, scoring requests as a list of texts with their scores."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from imc_agents.trace.events import Called
from imc_agents.trace.look import Look, inert, number

__all__ = ["CallViews"]

_BLOCK_CHARS = 6000
_TEXTS = 40


class _Scoring(BaseModel):
    context: str
    texts: list[str]


class _Message(BaseModel):
    role: str
    content: str
    images: list[str] = []


_CHAT = TypeAdapter(list[_Message])
_TOTALS = TypeAdapter(list[float])


@dataclass
class CallViews:
    """Draws the calls of one question; a context that many scoring requests share is written out once."""

    look: Look
    contexts: set[str] = field(default_factory=set[str])

    def view(self, call: Called, at: int, calls: int) -> RenderableType:
        """Return one of an agent's calls, prompt and reply in full up to some thousand characters."""
        title = f"call {at} of {calls}: {call.operation} on {inert(call.backend, self.look)}"
        lines = Table.grid(padding=(0, 2, 0, 0))
        lines.add_column(style="dim", justify="right", no_wrap=True)
        lines.add_column(overflow="fold")
        for name, content in self._rows(call):
            lines.add_row(Text(inert(name, self.look)), content)
        return Padding(Group(Text(title, "dim underline"), lines), (0, 0, 0, 2))

    def _rows(self, call: Called) -> list[tuple[str, Text]]:
        if not call.prompt and not call.reply:
            return [("", Text("not kept: run.keep_prompts was false", "dim italic"))]
        reply = [("reply", self._block(call.reply))] if call.reply else []
        try:
            if call.operation == "score":
                return self._scoring(_Scoring.model_validate_json(call.prompt), call.reply)
            chat = _CHAT.validate_json(call.prompt)
            return [row for message in chat for row in self._message(message)] + reply
        except ValidationError:
            return [("prompt", self._block(call.prompt)), *reply]

    def _message(self, message: _Message) -> list[tuple[str, Text]]:
        images = [("image", Text(inert(image, self.look), "dim")) for image in message.images]
        return [*images, (message.role, self._block(message.content))]

    def _scoring(self, request: _Scoring, reply: str) -> list[tuple[str, Text]]:
        rows = [("context", Text("as above", "dim italic"))]
        if request.context not in self.contexts:
            self.contexts.add(request.context)
            rows = [("context", self._block(request.context))]
        totals = [number(total) for total in _TOTALS.validate_json(reply)] if reply else []
        totals += [""] * (len(request.texts) - len(totals))
        shown = list(zip(totals, request.texts, strict=False))[:_TEXTS]
        rows += [(total, Text(inert(text, self.look))) for total, text in shown]
        if len(request.texts) > len(shown):
            rows.append(("", self._left_out(len(request.texts) - len(shown), "texts")))
        return rows

    def _block(self, text: str) -> Text:
        kept = text[:_BLOCK_CHARS]
        block = Text("\n").join(Text(inert(line.expandtabs(4), self.look)) for line in kept.split("\n"))
        if len(kept) < len(text):
            block.append("\n").append_text(self._left_out(len(text) - len(kept), "characters"))
        return block

    def _left_out(self, count: int, what: str) -> Text:
        return Text(f"{self.look.ellipsis}{count:,} more {what}; --json has them all", "dim")
