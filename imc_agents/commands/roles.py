"""``imc roles``: who takes part, with what, and whether each role can work."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.listing import Item, print_items
from imc_agents.commands.options import ConfigOption, ProfileOption, SetOption, load_config
from imc_agents.errors import UsageError, nearest

if TYPE_CHECKING:
    from imc_agents.config.schema import RoleConfig

__all__ = ["app"]

app = typer.Typer(help="List, show and check the agents' roles.", no_args_is_help=True)


@app.command("list")
def list_roles(
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """List the roles, the disabled ones too."""
    roles = load_config(config, profile, overrides, prompts=False).config.roles
    if not sys.stdout.isatty():
        for name, role in roles.items():
            typer.echo(json.dumps({"role": name, **role.model_dump(mode="json")}, ensure_ascii=False))
        return
    print_items(
        [
            Item(name, _headline(role), role.description, "cyan" if role.enabled else "dim")
            for name, role in roles.items()
        ]
    )


def _headline(role: RoleConfig) -> str:
    text = role.kind
    if role.kind == "specialist":
        source = f"lexicon channel {role.channel}" if role.source == "lexicon" else f"prompt {role.prompt}"
        text += f" for {', '.join(role.handles) or 'nothing'}; edits from the {source}"
    if role.backend != "default":
        text += f"; on backend {role.backend}"
    return text if role.enabled else f"off: {text}"


@app.command("show")
def show_role(
    name: Annotated[str, typer.Argument(help="Name of the role; `imc roles list` shows them.")],
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Show every setting of one role, what it means and where it comes from."""
    from imc_agents.config.keys import describe

    resolved = load_config(config, profile, overrides, prompts=False)
    if name not in resolved.config.roles:
        hint = nearest(name, set(resolved.config.roles)) or "; `imc roles list` shows them"
        raise UsageError(f"no role {name!r}{hint}")
    prefix = f"roles.{name}."
    found = {
        key.removeprefix(prefix): origin for key, origin in resolved.origins.items() if key.startswith(prefix)
    }
    if not sys.stdout.isatty():
        for key, origin in found.items():
            row: dict[str, Any] = {"role": name, "key": key, "value": origin.value, "origin": origin.where}
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    items: list[Item] = []
    for key, origin in found.items():
        value = origin.value if isinstance(origin.value, str) else json.dumps(origin.value)
        items.append(Item(key, f"{value}   [{origin.where}]", describe(f"{prefix}{key}")))
    print_items(items)


@app.command("check")
def check(
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Check each role: its prompt loads, uses only what the role gets, and returns what the role expects."""
    from imc_agents.agents.contracts import check_roles, role_problems

    resolved = load_config(config, profile, overrides, prompts=False)
    problems = {name: role_problems(name, role) for name, role in resolved.config.roles.items()}
    if not sys.stdout.isatty():
        for name, found in problems.items():
            row = {"role": name, "enabled": resolved.config.roles[name].enabled, "ok": not found}
            typer.echo(
                json.dumps(row | {"problems": [f"{key}: {text}" for key, text in found]}, ensure_ascii=False)
            )
    else:
        _print_check(problems)
    # The exit code is that of a run with this configuration: a disabled role stops none.
    check_roles(resolved.config, resolved.origins)


def _print_check(problems: dict[str, list[tuple[str, str]]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for name, found in problems.items():
        console.print(Text.assemble(("ok   ", "green") if not found else ("bad  ", "bold red"), name))
        for key, text in found:
            console.print(Text(f"     {key}: {text}", style="red"), soft_wrap=True)
