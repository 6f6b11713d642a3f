"""``imc ask``: one question, with its image or without, through the whole graph to an answer."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.options import (
    BackendOption,
    BaseUrlOption,
    ConfigOption,
    ModelOption,
    ProfileOption,
    SetOption,
    backend_keys,
    check_backends,
    load_config,
    set_values,
)
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from imc_agents.agents.answer import Way
    from imc_agents.config.schema import Config
    from imc_agents.refinement import Refinement
    from imc_agents.trace.events import Calibrated, Event

__all__ = ["ask"]

_ID = "ask"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What came out; a ``Sample`` for the views."""

    refinement: Refinement
    answers: dict[Way, str]
    events: list[Event]
    row_index: int = 0
    id: str = _ID

    @property
    def calibrated(self) -> Calibrated | None:
        from imc_agents.trace.events import Calibrated

        return next((event for event in self.events if isinstance(event, Calibrated)), None)


def ask(
    question: Annotated[str, typer.Option("--question", "-q", help="The question.")],
    image: Annotated[
        Path | None, typer.Option("--image", "-i", metavar="FILE", help="The image that it is about.")
    ] = None,
    bank: Annotated[
        str | None,
        typer.Option("--bank", metavar="DIR", help="Calibrate the image by this bank: pdc.bank."),
    ] = None,
    operator: Annotated[
        str | None, typer.Option("--operator", help="auto, identity or an operator: pdc.operator.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", min=0, help="Factor on the correction: pdc.strength.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also answer as it came, with the text alone, and the image alone."),
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Also show the decisions of the agents.")] = False,
    backend: BackendOption = None,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Answer a question from its refined text and its calibrated image.

    Text and image are worked on at the same time, then the model answers. JSON when piped.

    A question about an image needs a model with eyes: `imc serve --model CHECKPOINT`, then `--backend vllm`.
    """
    import asyncio

    if image is not None and not image.exists():
        raise UsageError(f"{image}: there is no such image")
    # A link that the user names may lead anywhere; only paths in data must stay in their folder.
    image = None if image is None else image.resolve()
    shortcuts = {
        "run.answer": True,
        **backend_keys(backend, model, base_url),
        "pdc.bank": bank,
        "pdc.operator": operator,
        "pdc.strength": strength,
        "pdc.images": None if image is None else str(image.parent),
    }
    resolved = load_config(config, profile, [*(overrides or ()), *set_values(shortcuts)]).config
    if not question.strip():
        raise UsageError("--question: the question is empty")
    if image is None and (bank or operator or strength is not None):
        raise UsageError("--bank, --operator and --strength are for images; name one by --image")
    check_backends(resolved, base_url)
    ways: tuple[Way, ...] = ("raw", "text", "image", "full") if compare else ("full",)
    try:
        asked = asyncio.run(_ask(resolved, question, image, ways))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    _show(asked, compare=compare, trace=trace)


async def _ask(config: Config, question: str, image: Path | None, ways: tuple[Way, ...]) -> _Asked:
    from imc_agents.agents.refiner import Refiner

    refiner = Refiner(config)
    events: list[Event] = []
    try:
        await refiner.open()
        name = None if image is None else image.name
        refinement, answers = await refiner.ask(_ID, question, events.append, image=name, ways=ways)
    finally:
        await refiner.close()
    return _Asked(refinement, answers, events)


def _show(asked: _Asked, *, compare: bool, trace: bool) -> None:
    refinement, seen = asked.refinement, asked.calibrated
    if not sys.stdout.isatty():
        row: dict[str, Any] = {
            "question": refinement.original,
            "refined": refinement.refined,
            "status": refinement.status,
            "flags": refinement.flags,
            "confidence": refinement.confidence,
            "image": None if seen is None else seen.model_dump(exclude={"type", "agent", "round"}),
            "answer": asked.answers["full"],
        }
        if compare:
            row["answers"] = asked.answers
        if trace:
            row["trace"] = [event.model_dump(mode="json") for event in asked.events]
        typer.echo(json.dumps(row, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if trace:
        from imc_agents.trace.views import sample_tree

        console.print(sample_tree(asked, asked.events))
        console.print()
    console.print(_summary(asked, console, compare=compare))


def _summary(asked: _Asked, console: Console, *, compare: bool) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from imc_agents.trace.calibration import calibration_line
    from imc_agents.trace.diff import word_diff
    from imc_agents.trace.look import Look, inert
    from imc_agents.trace.marks import FLAG_STYLE

    look = Look.of(console, console.options)
    refinement = asked.refinement
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    lines.add_row("question", word_diff(refinement.original, refinement.refined, look))
    for flag in refinement.flags:
        lines.add_row("flag", Text(inert(flag, look), FLAG_STYLE))
    if asked.calibrated is not None:
        lines.add_row("image", calibration_line(asked.calibrated, look))
    answers = {way: inert(text, look) for way, text in asked.answers.items()}
    if not compare:
        lines.add_row("answer", Text(answers["full"], "bold"))
        return lines
    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("answers", style="dim")
    table.add_column("image as it came", overflow="fold")
    table.add_column("image calibrated", overflow="fold")
    table.add_row("question as it came", answers["raw"], answers["image"])
    table.add_row("question refined", answers["text"], Text(answers["full"], "bold"))
    return Group(lines, "", table)
