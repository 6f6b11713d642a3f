"""The options that every command which reads the configuration shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from imc_agents.config.load import Resolved

__all__ = ["ConfigOption", "ProfileOption", "SetOption", "load_config", "runs_directory"]

_PANEL = "Configuration"

ConfigOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML file; repeatable, later ones win. Without it ./imc.yaml is read if it is there.",
        rich_help_panel=_PANEL,
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="What the files stand on: default, fast, thorough or none.",
        rich_help_panel=_PANEL,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one key, e.g. run.concurrency=8; repeatable, wins over everything.",
        rich_help_panel=_PANEL,
    ),
]


def load_config(
    config: Sequence[Path] | None = None,
    profile: str | None = None,
    overrides: Sequence[str] | None = None,
    *,
    prompts: bool = True,
) -> Resolved:
    """Resolve the configuration as the options, ``./imc.yaml`` and the environment say.

    Args:
        config: Values of ``--config``.
        profile: Value of ``--profile``.
        overrides: Values of ``--set``.
        prompts: Also load the prompts of the enabled roles and check them.

    Raises:
        ConfigError: with one line for each problem.
    """
    import os

    from imc_agents.config.load import local_files, resolve

    resolved = resolve(profile, tuple(config or local_files()), tuple(overrides or ()), os.environ)
    if prompts:
        from imc_agents.agents.contracts import check_roles

        check_roles(resolved.config, resolved.origins)
    return resolved


def runs_directory(run: str | None = None) -> Path:
    """Return the configured folder with run folders; for a run named by its path, the folder it lies in."""
    from imc_agents.runs.manifest import FILE_NAME

    # What counts for such a run is its own config.yaml: a mistake in today's configuration must not hide it.
    if run is not None and (Path(run) / FILE_NAME).is_file():
        return Path(run).parent
    return Path(load_config(prompts=False).config.run.directory)
