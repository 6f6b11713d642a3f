"""Resolves the configuration from its layers: defaults < profile < YAML files < IMC_* environment < ``--set``."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from imc_agents.config.check import check
from imc_agents.config.keys import known, validate
from imc_agents.config.layers import (
    environment_layer,
    environment_names,
    file_layer,
    merge,
    node_of,
    override_layer,
    profile_layers,
)
from imc_agents.config.schema import Config
from imc_agents.config.yaml_nodes import Node, plain
from imc_agents.errors import ConfigError

__all__ = ["DEFAULT_PROFILE", "LOCAL_FILE", "Origin", "Resolved", "local_files", "resolve"]

DEFAULT_PROFILE = "default"
LOCAL_FILE = "imc.yaml"
"""Picked up from the working directory where no file is named."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who set a key.

    Attributes:
        where: ``default``, ``profile:fast``, ``imc.yaml:12``, ``env IMC_RUN__CONCURRENCY`` or ``--set``.
        value: What was set there.
        shadowed: What it overrides, nearest first.
    """

    where: str
    value: Any
    shadowed: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration and where each of its values comes from.

    Attributes:
        config: The configuration.
        origins: Origin of each leaf by its dotted key, in the order of the configuration.
        profile: Name of the profile below the files.
        files: The YAML files, lowest first.
    """

    config: Config
    origins: Mapping[str, Origin]
    profile: str
    files: tuple[Path, ...]


def local_files() -> tuple[Path, ...]:
    """Return the ``imc.yaml`` of the working directory as a tuple, empty where there is none."""
    path = Path(LOCAL_FILE)
    return (path,) if path.is_file() else ()


def resolve(
    profile: str | None = None,
    files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    inline: Sequence[Node] = (),
) -> Resolved:
    """Merge all layers and validate the result.

    Args:
        profile: Name of a profile, or ``none``; without it the top-level key ``profile`` of a higher layer counts,
            then ``default``.
        files: YAML files, later ones win.
        overrides: ``key=value`` with dotted keys and YAML values, later ones win.
        environ: Environment variables; only ``IMC_*`` are looked at.
        inline: Parts of other files that hold a configuration; they win over ``files``.

    Raises:
        ConfigError: with one line for each problem, naming its place, the key and the cure.
    """
    environ = environ or {}
    errors: list[str] = []
    layers: list[Node] = []
    for path in files:
        with _collect(errors):
            layers.append(file_layer(path))
    layers += inline
    for name in environment_names(environ):
        with _collect(errors):
            layers.append(environment_layer(name, environ[name]))
    for override in overrides:
        with _collect(errors):
            layers.append(override_layer(override))
    layers, name, where = _take_profile(layers, profile)
    tree = node_of(Config().model_dump(mode="json"), "default")
    try:
        base = profile_layers(name, where)
    except ConfigError as error:
        errors.append(str(error))
        base = profile_layers(DEFAULT_PROFILE)  # so that the errors below are about the files
    for layer in (*base, *layers):
        tree = merge(tree, known(layer, errors), errors)
    config = validate(tree, errors, Config)
    if config is not None:
        errors += check(config, tree)
    if errors or config is None:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    return Resolved(config, _origins(config, tree), name, tuple(files))


@contextmanager
def _collect(errors: list[str]) -> Generator[None]:
    try:
        yield
    except ConfigError as error:
        errors += str(error).splitlines()


def _take_profile(layers: list[Node], flag: str | None) -> tuple[list[Node], str, str]:
    name, where = DEFAULT_PROFILE, "default"
    rest: list[Node] = []
    for layer in layers:
        keys: dict[str, Node] = dict(layer.children or {})
        if (chosen := keys.pop("profile", None)) and plain(chosen) is not None:
            name, where = str(plain(chosen)), chosen.where
        rest.append(Node(keys, layer.where))
    return (rest, name, where) if flag is None else (rest, flag, "--profile")


def _origins(config: Config, tree: Node) -> dict[str, Origin]:
    origins: dict[str, Origin] = {}
    for path, value in _leaves(config.model_dump(mode="json")):
        node: Node | None = tree
        for key in path:
            node = (node.children or {}).get(key) if node else None
        shadowed = tuple(Origin(under.where, plain(under)) for under in node.shadowed) if node else ()
        origins[".".join(path)] = Origin(node.where if node else "default", value, shadowed)
    return origins


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, child in cast(dict[str, Any], value).items():
            yield from _leaves(child, (*path, key))
    else:
        yield path, value
