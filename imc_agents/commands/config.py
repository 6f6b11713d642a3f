"""``imc config``: what is set, by whom, and whether it holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.commands.options import ConfigOption, ProfileOption, SetOption, load_config
from imc_agents.errors import UsageError, nearest

if TYPE_CHECKING:
    from imc_agents.config.load import Origin

__all__ = ["app"]

app = typer.Typer(help="Show, validate and explain the configuration.", no_args_is_help=True)


@app.command("show")
def show(
    key: Annotated[
        str | None, typer.Argument(help="Only this key and those below it, e.g. run or roles.spelling.")
    ] = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Also tell where each value comes from and what it overrides.")
    ] = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print all of it as a YAML file that gives the same configuration.")
    ] = False,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Show the resolved configuration."""
    resolved = load_config(config, profile, overrides, prompts=False)
    if as_yaml:
        from imc_agents.config.dump import dump_yaml

        typer.echo(dump_yaml(resolved.config), nl=False)
        return
    origins = _below(resolved.origins, key)
    if sys.stdout.isatty():
        _table(origins, origin)
        return
    for name, found in origins.items():
        row: dict[str, Any] = {"key": name, "value": found.value}
        if origin:
            row["origin"] = found.where
            row["shadowed"] = [{"origin": under.where, "value": under.value} for under in found.shadowed]
        typer.echo(json.dumps(row, ensure_ascii=False))


def _below(origins: Mapping[str, Origin], key: str | None) -> dict[str, Origin]:
    if key is None:
        return dict(origins)
    found = {name: origin for name, origin in origins.items() if name == key or name.startswith(f"{key}.")}
    if not found:
        sections = {name.rsplit(".", depth)[0] for name in origins for depth in range(4)}
        raise UsageError(f"no key {key!r}{nearest(key, sections) or '; `imc config show` lists all'}")
    return found


def _table(origins: Mapping[str, Origin], with_origin: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("key", style="cyan", no_wrap=True)
    table.add_column("value", overflow="fold")
    if with_origin:
        table.add_column("origin", overflow="fold", min_width=15)
        table.add_column("overrides", style="dim", overflow="fold")
    for name, origin in origins.items():
        cells = [Text(name), Text(_written(origin.value))]
        if with_origin:
            style = (
                "dim"
                if origin.where == "default"
                else ""
                if origin.where.startswith("profile:")
                else "bold green"
            )
            overridden = [f"{_written(under.value)} ({under.where})" for under in origin.shadowed]
            cells += [Text(origin.where, style=style), Text(", ".join(overridden))]
        table.add_row(*cells)
    Console().print(table)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@app.command("validate")
def validate(
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Check the configuration, its roles and their prompts; every problem is one line, and the exit code is 2."""
    resolved = load_config(config, profile, overrides)
    roles = [name for name, role in resolved.config.roles.items() if role.enabled]
    files = [str(path) for path in resolved.files]
    if not sys.stdout.isatty():
        row = {"valid": True, "profile": resolved.profile, "files": files, "roles": roles}
        typer.echo(json.dumps(row, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(
        f"[bold green]valid[/]: {' < '.join([f'profile {resolved.profile}', *files])}", soft_wrap=True
    )
    console.print(f"[dim]{len(roles)} roles take part: {', '.join(roles)}[/]")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of config files, for completion and checks in an editor."""
    from imc_agents.config.dump import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
