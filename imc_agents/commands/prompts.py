"""``imc prompts``: which prompts there are and what exactly a model would be sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.listing import Item, print_items
from imc_agents.commands.options import ConfigOption, ProfileOption, SetOption, load_config
from imc_agents.errors import ConfigError, UsageError, nearest

if TYPE_CHECKING:
    from imc_agents.config.schema import Config
    from imc_agents.models.protocol import Message

__all__ = ["app"]

app = typer.Typer(help="List and render the agents' prompts.", no_args_is_help=True)


@app.command("list")
def list_all(
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """List the prompts, which file each comes from and who uses it."""
    from imc_agents.prompts import list_prompts, load_prompt

    settings = load_config(config, profile, overrides, prompts=False).config
    rows: list[dict[str, Any]] = []
    for name, path in list_prompts().items():
        row: dict[str, Any] = {"prompt": name, "used_by": _users(settings, name), "path": str(path)}
        try:
            prompt = load_prompt(name)
        except ConfigError as error:
            row["error"] = str(error)
        else:
            row |= {"role": prompt.role, "version": prompt.version, "variables": prompt.variables}
            row |= {"output": prompt.output, "sha256": prompt.sha256}
        rows.append(row)
    if sys.stdout.isatty():
        print_items([_item(row) for row in rows])
    else:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))


def _users(settings: Config, prompt: str) -> list[str]:
    from imc_agents.agents.contracts import BASELINE_PROMPT, GENERATED_PROMPT

    sms = settings.sms
    others = {"sms.context_prompt": sms.context_prompt, "sms.offtopic_prompt": sms.offtopic_prompt}
    if sms.supervisor.mode == "generate":
        others["sms.supervisor.mode"] = GENERATED_PROMPT
    others["imc bench text"] = BASELINE_PROMPT
    users = [name for name, role in settings.roles.items() if role.prompt == prompt]
    return [*users, *(user for user, name in others.items() if name == prompt)]


def _item(row: dict[str, Any]) -> Item:
    if "error" in row:
        return Item(row["prompt"], row["error"], row["path"], "red")
    users = ", ".join(row["used_by"]) or "no role"
    takes = ", ".join(row["variables"]) or "nothing"
    headline = f"{row['role']} prompt, version {row['version']}, used by {users}"
    return Item(row["prompt"], headline, f"{takes} -> {row['output'] or 'text'}   {row['path']}")


@app.command("render")
def render(
    name: Annotated[
        str, typer.Argument(metavar="ROLE_OR_PROMPT", help="A role, or the file name of a prompt.")
    ],
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="The question to put in; an example if left out.")
    ] = None,
    variables: Annotated[
        list[str] | None,
        typer.Option(
            "--var", metavar="NAME=VALUE", help="Another variable, in YAML; an example if left out."
        ),
    ] = None,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Show the messages that a model would be sent; nothing is sent."""
    from imc_agents.agents.contracts import CONTRACTS, GENERATED_PROMPT
    from imc_agents.models.protocol import Message
    from imc_agents.prompts import load_prompt

    settings = load_config(config, profile, overrides, prompts=False).config
    prompt = load_prompt(_prompt_of(settings, name))
    contract = CONTRACTS[GENERATED_PROMPT if prompt.name == GENERATED_PROMPT else prompt.role]
    values = dict(contract.variables) | _values(variables or (), prompt.variables)
    if question is not None:
        values["question"] = question
    messages = prompt.render(**values) if prompt.is_chat else (Message("user", prompt.render_text(**values)),)
    if sys.stdout.isatty():
        _print_messages(messages, f"{prompt.path}, version {prompt.version}", prompt.is_chat)
        return
    for message in messages:
        speaker = message.role if prompt.is_chat else "text"
        typer.echo(json.dumps({"role": speaker, "content": message.content}, ensure_ascii=False))


def _prompt_of(settings: Config, name: str) -> str:
    from imc_agents.prompts import list_prompts

    role = settings.roles.get(name)
    if role is not None and role.prompt is not None:
        return role.prompt
    prompts = list_prompts()
    if name in prompts:
        return name
    if role is not None:
        raise UsageError(
            f"role {name!r} has no prompt: its edits come from the lexicon channel {role.channel}"
        )
    raise UsageError(f"no role or prompt {name!r}{nearest(name, {*settings.roles, *prompts})}")


def _values(assignments: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    from imc_agents.config.yaml_nodes import parse_value, plain

    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in names:
            known = f"; the prompt uses {', '.join(names) or 'no variables'}"
            raise UsageError(f"--var {assignment}: needs NAME=VALUE{nearest(name, tuple(names)) or known}")
        values[name] = plain(parse_value(text, f"--var {assignment}"))
    return values


def _print_messages(messages: Sequence[Message], title: str, chat: bool) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(title, style="dim"))
    colours = {"system": "magenta", "user": "cyan", "assistant": "green"}
    for message in messages:
        name = message.role if chat else "text"
        console.print(
            Panel(Text(message.content), title=name, title_align="left", border_style=colours[message.role])
        )
