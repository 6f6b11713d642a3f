"""The options that every command which reads the configuration shares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from imc_agents.config.load import Resolved
    from imc_agents.config.schema import Config

__all__ = [
    "BackendOption",
    "BaseUrlOption",
    "ConfigOption",
    "IdFieldOption",
    "ModelOption",
    "ProfileOption",
    "QuestionFieldOption",
    "SetOption",
    "backend_keys",
    "check_backends",
    "load_config",
    "runs_directory",
    "set_values",
]

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

BackendOption = Annotated[
    str | None,
    typer.Option("--backend", help="Kind of the default backend: embedded, vllm, vllm-engine or openai."),
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model of the default backend.")]
BaseUrlOption = Annotated[
    list[str] | None,
    typer.Option("--base-url", help="Where the default backend's server listens; repeatable for vllm."),
]

QuestionFieldOption = Annotated[
    str | None,
    typer.Option("--question-field", help="Field with the question; default question, text or query."),
]
IdFieldOption = Annotated[
    str | None, typer.Option("--id-field", help="Field with the id; default id or qid, else row numbers.")
]


def backend_keys(backend: str | None, model: str | None, base_url: list[str] | None) -> dict[str, object]:
    """What the three options of the default backend say, by the keys that they set; None where one is not given."""
    return {
        "backends.default.kind": backend,
        "backends.default.model": model,
        "backends.default.options.base_url": base_url[0] if base_url and len(base_url) == 1 else base_url,
    }


def check_backends(config: Config, base_url: list[str] | None) -> None:
    """Find mistakes in the backends' settings before anything is made or loaded.

    Raises:
        UsageError: an address for a backend that has no server.
        ConfigError: unknown kind or option.
    """
    from imc_agents.errors import UsageError
    from imc_agents.models.registry import create_backend

    kind = config.backends["default"].kind
    if base_url and kind in ("embedded", "vllm-engine"):
        raise UsageError(f"--base-url: the {kind} backend has no server; add --backend vllm (or openai)")
    for name in sorted({role.backend for role in config.taking_part.values()}):
        create_backend(config.backends[name])


def set_values(keys: Mapping[str, object]) -> list[str]:
    """What options say as values of ``--set``; those that are None are left out."""
    return [f"{key}={json.dumps(value)}" for key, value in keys.items() if value is not None]


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
