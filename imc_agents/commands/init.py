"""``imc init``: a project of one's own to edit."""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from imc_agents.errors import UsageError

__all__ = ["init"]


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to lay the project out in.")],
    profile: Annotated[
        str,
        typer.Option("--profile", metavar="NAME", help="Profile to start from: default, fast or thorough."),
    ] = "default",
) -> None:
    """Lay out an editable project: config, prompts and a sample input."""
    contents = _contents(profile)
    there = [name for name in contents if (directory / name).exists()]
    if there:
        raise UsageError(f"{directory / there[0]} is there already; name another folder, nothing was written")
    try:
        for name, text in contents.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or directory}: {error.strerror}") from None
    _report(directory, list(contents))


def _contents(profile: str) -> dict[str, str]:
    from imc_agents.config.dump import json_schema
    from imc_agents.config.load import resolve
    from imc_agents.config.template import commented_yaml
    from imc_agents.prompts import list_prompts, prompt_folders

    # The environment of this shell is no part of the new project.
    config = resolve(profile).config
    samples = files("imc_agents.config") / "project"
    prompts = {f"prompts/{path.name}": path for path in list_prompts(prompt_folders()[-1:]).values()}
    return {
        "imc.yaml": commented_yaml(config, profile),
        "imc.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        "questions.jsonl": (samples / "questions.jsonl").read_text(encoding="utf-8"),
        "README.md": (samples / "README.md").read_text(encoding="utf-8"),
        **{name: path.read_text(encoding="utf-8") for name, path in prompts.items()},
    }


def _report(directory: Path, written: list[str]) -> None:
    if not sys.stdout.isatty():
        for name in written:
            typer.echo(json.dumps({"written": str(directory / name)}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    notes = {
        "imc.yaml": "every key with its default and meaning",
        "imc.schema.json": "completion and checks in your editor",
        "questions.jsonl": "a few noisy questions to try",
        "README.md": "what to do next",
    }
    console.print(Text.assemble("laid out ", (str(directory), "bold"), f", {len(written)} files"))
    for name, note in notes.items():
        console.print(Text.assemble(f"  {name:<18}", (note, "dim")))
    prompts = sum(name.startswith("prompts/") for name in written)
    console.print(
        Text.assemble(
            f"  {'prompts/':<18}", (f"{prompts} prompts; those here go before the built-in ones", "dim")
        )
    )
    console.print(
        Text.assemble("next: ", (f"cd {directory} && imc refine questions.jsonl -o refined.jsonl", "bold"))
    )
