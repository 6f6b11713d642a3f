"""``imc refine --dry-run``: what would be sent, through the real code path, without sending anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

if TYPE_CHECKING:
    from imc_agents.config.schema import Config
    from imc_agents.runs.manifest import Selection

__all__ = ["print_requests"]


def print_requests(
    source: Path | BinaryIO,
    config: Config,
    selection: Selection,
    format: str | None,
    question_field: str | None,
    id_field: str | None,
    image_field: str | None = None,
) -> None:
    """Print each request that the selected rows would send: text on a terminal, JSON lines when piped.

    Raises:
        UsageError: if the input cannot be read.
        ConfigError: if the agents cannot be set up.
    """
    import asyncio
    import tempfile

    from rich.console import Console
    from rich.rule import Rule
    from rich.text import Text

    from imc_agents.agents.refiner import Refiner
    from imc_agents.data.images import choose_image_field, with_images
    from imc_agents.data.registry import open_reader
    from imc_agents.data.rows import Row
    from imc_agents.errors import DataError
    from imc_agents.runs.start import count_rows, select, spool_stdin

    console = Console(highlight=False)

    def show(row: Row, key: str, text: str) -> None:
        if console.is_terminal:
            console.print(Text(text, "red" if key == "error" else ""), soft_wrap=True)
        else:
            typer.echo(json.dumps({"id": row.id, "line": row.line, key: text}, ensure_ascii=False))

    async def run(path: Path) -> None:
        reader = open_reader(path, format=format, question_field=question_field, id_field=id_field)
        count_rows(reader, selection)
        rows = select(reader.rows(), selection)
        if config.run.answer and (field := choose_image_field(reader, image_field)) is not None:
            rows = with_images(rows, reader.path, field)
        current: list[Row] = []
        refiner = Refiner(config, dry_run=lambda text: show(current[-1], "request", text))
        await refiner.open()
        try:
            for row in rows:
                current[:] = [row]
                if console.is_terminal:
                    console.print(Rule(Text(f"{row.id}  line {row.line}", "bold"), align="left"))
                if row.error is not None or row.question is None:
                    show(row, "error", row.error or "")
                else:
                    try:
                        await refiner.refine(row.id, row.question, lambda _: None, image=row.image)
                    except DataError as error:
                        show(row, "error", str(error))
        finally:
            await refiner.close()

    if isinstance(source, Path):
        asyncio.run(run(source))
        return
    format = format or "jsonl"
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(spool_stdin(source, Path(folder) / "stdin")))
