"""The layers of a configuration as trees of nodes, and how a higher one goes over a lower one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from imc_agents.config.yaml_nodes import Node, parse_value, parse_yaml, plain, read_text
from imc_agents.errors import ConfigError, nearest

__all__ = [
    "NAMED",
    "NO_PROFILE",
    "environment_layer",
    "environment_names",
    "file_layer",
    "merge",
    "node_of",
    "override_layer",
    "profile_layers",
    "profiles",
]

NO_PROFILE = "none"
"""The profile that sets nothing: a resolved configuration stands on the built-in defaults alone."""

NAMED = ("roles", "backends")
"""Mappings whose entries have names of the user's choice; null removes an entry."""

_PREFIX = "IMC_"
_OTHER_VARIABLES = frozenset(
    {
        "IMC_ALLOW_LANGSMITH",
        "IMC_CACHE",
        "IMC_DEBUG",
        "IMC_SHARED",
        "IMC_VLLM_ADAPTERS",
        "IMC_VLLM_CACHED_SCORES",
        "IMC_VLLM_CALIBRATION",
        "IMC_VLLM_CALIBRATION_OPERATOR",
        "IMC_VLLM_CALIBRATION_STRENGTH",
    }
)
"""Variables about this process, not about the configuration."""


def node_of(data: Any, where: str) -> Node:
    """Return plain data as a tree whose every node stands at the same place."""
    if isinstance(data, Mapping):
        mapping = cast(Mapping[str, Any], data)
        return Node({key: node_of(value, where) for key, value in mapping.items()}, where)
    return Node(data, where)


def profiles() -> tuple[str, ...]:
    """Return the names of the built-in profiles, sorted."""
    folder = files("imc_agents.config") / "profiles"
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


@cache
def profile_layers(name: str, where: str = "--profile") -> tuple[Node, ...]:
    """Return the layers of a profile, those that it extends first; ``where`` is who named it.

    Raises:
        ConfigError: there is no profile of that name.
    """
    if name == NO_PROFILE:
        return ()
    if name not in profiles():
        hint = nearest(name, profiles()) or f"; there are {', '.join(profiles())} and {NO_PROFILE}"
        raise ConfigError(f"{where}: unknown profile {name!r}{hint}")
    text = (files("imc_agents.config") / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
    layer = parse_yaml(text, f"profile:{name}", lines=False)
    keys: dict[str, Node] = dict(layer.children or {})
    base = keys.pop("extends", None)
    lower = profile_layers(str(base.value)) if base else ()
    return (*lower, Node(keys, layer.where))


def file_layer(path: Path) -> Node:
    """Return the layer of a YAML file.

    Raises:
        ConfigError: the file cannot be read or is no valid YAML.
    """
    return parse_yaml(read_text(path), str(path))


def override_layer(override: str) -> Node:
    """Return the layer of one ``--set key=value``.

    Raises:
        ConfigError: it has no ``=`` or the value is no valid YAML.
    """
    key, equals, text = override.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise ConfigError(f"--set {override}: needs key=value, e.g. --set run.concurrency=8")
    with_key = parse_value(text, f"--set {override}")
    return _branch(path, node_of(plain(with_key), "--set"), "--set")


def environment_names(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the ``IMC_*`` variables that set a key, sorted."""
    return sorted(name for name in environ if name.startswith(_PREFIX) and name not in _OTHER_VARIABLES)


def environment_layer(name: str, text: str) -> Node:
    """Return the layer of one ``IMC_*`` variable; ``__`` in its name stands for a dot.

    Raises:
        ConfigError: its value is no valid YAML.
    """
    where = f"env {name}"
    return _branch(name.removeprefix(_PREFIX).lower().split("__"), parse_value(text, where), where)


def _branch(path: Sequence[str], node: Node, where: str) -> Node:
    for key in reversed(path):
        node = Node({key: node}, where)
    return node


def merge(low: Node, high: Node, errors: list[str], path: tuple[str, ...] = ()) -> Node:
    """Return ``high`` over ``low``: mappings key by key, everything else replaced; null removes a named entry.

    A name that is not there to be removed adds a line to ``errors``.
    """
    below, above = low.children, high.children
    if below is None or above is None:
        return Node(high.value, high.where, (Node(low.value, low.where), *low.shadowed))
    merged: dict[str, Node] = dict(below)
    for key, node in above.items():
        if node.value is None and len(path) == 1 and path[0] in NAMED:
            _remove(merged, key, node, path[0], errors)
        else:
            # A mapping is merged even over nothing, for the nulls in it.
            under = merged.get(key, Node({}, node.where)) if node.children is not None else merged.get(key)
            merged[key] = merge(under, node, errors, (*path, key)) if under else node
    return Node(merged, high.where)


def _remove(entries: dict[str, Node], name: str, node: Node, section: str, errors: list[str]) -> None:
    if name not in entries:
        hint = nearest(name, set(entries))
        errors.append(f"{node.where}: nothing to remove: no {section[:-1]} is named {name!r}{hint}")
    entries.pop(name, None)
