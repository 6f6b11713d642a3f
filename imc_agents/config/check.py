"""What must hold between the keys of a configuration, beyond their types."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imc_agents.config.keys import place
from imc_agents.config.schema import Config, RoleConfig
from imc_agents.config.yaml_nodes import Node
from imc_agents.errors import nearest

__all__ = ["CHANNELS", "check"]

CHANNELS = ("keyboard", "ocr", "sound", "spacing", "casing", "shorthand", "relevance")
"""Lexicon channels, each a model of how one kind of slip comes about."""

_ONCE = ("perceiver", "supervisor", "adjudicator", "critic")
_ANSWERER = "answerer"  # needed only where questions are answered
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_GRAPH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def check(config: Config, tree: Node) -> list[str]:
    """Return one line for each rule that the configuration breaks, with its place in the tree."""
    lines = [*_names(config), *_backends(config), *_once(config), *_specialists(config), *_graphs(config)]
    return [f"{place(tree, path)}: {problem}" for path, problem in lines]


_Problem = tuple[tuple[str, ...], str]


def _names(config: Config) -> Iterator[_Problem]:
    for section, names in (("roles", config.roles), ("backends", config.backends)):
        for name in names:
            if not _NAME.fullmatch(name):
                cure = "use lower-case letters, digits and single underscores, a letter first"
                yield (section, name), f"{section[:-1]} name {name!r} is not allowed; {cure}"


def _backends(config: Config) -> Iterator[_Problem]:
    if "default" not in config.backends:
        yield ("backends",), "backends.default is missing; roles that name no backend use it"
    for name, role in config.roles.items():
        if role.backend not in config.backends and role.backend != "default":
            hint = nearest(role.backend, set(config.backends)) or f"; there are {', '.join(config.backends)}"
            yield (
                ("roles", name, "backend"),
                f"roles.{name}.backend: no backend is named {role.backend!r}{hint}",
            )


def _once(config: Config) -> Iterator[_Problem]:
    for kind in (*_ONCE, _ANSWERER):
        names = [name for name, role in config.roles.items() if role.kind == kind and role.enabled]
        if len(names) > 1:
            problem = f"only one enabled role may be {kind}, not {', '.join(names)}; set enabled: false on the others"
            yield ("roles", names[-1], "kind"), problem
        elif not names and (kind != _ANSWERER or config.run.answer):
            off = [name for name, role in config.roles.items() if role.kind == kind]
            cure = f"enable roles.{off[0]}" if off else f"add one under roles with kind: {kind}"
            yield ("roles", *off[:1], "enabled"), f"one enabled role must be {kind}; {cure}"


def _specialists(config: Config) -> Iterator[_Problem]:
    for name, role in config.roles.items():
        path = ("roles", name)
        lexicon = role.kind == "specialist" and role.source == "lexicon"
        if role.channel is not None and not lexicon:
            yield (
                (*path, "channel"),
                f"roles.{name}.channel is for specialists with source: lexicon only; remove it",
            )
        if lexicon:
            yield from _channel(name, role)
        if role.kind != "specialist":
            for key in ("source", "handles"):
                if getattr(role, key) != RoleConfig.model_fields[key].default:
                    yield (*path, key), f"roles.{name}.{key} is for specialists only; remove it"
        elif role.enabled and not role.handles:
            yield path, f"roles.{name}.handles is empty, so the specialist is never instantiated; e.g. [typo]"
        if role.kind == "specialist" and role.source == "model" and role.prompt is None:
            problem = f"roles.{name} needs a prompt because its source is the model; or set source: lexicon"
            yield path, problem


def _channel(name: str, role: RoleConfig) -> Iterator[_Problem]:
    channels = ", ".join(CHANNELS)
    if role.channel is None:
        yield (
            ("roles", name),
            f"roles.{name} needs a channel because its source is a lexicon: one of {channels}",
        )
    elif role.channel not in CHANNELS:
        hint = nearest(role.channel, CHANNELS) or f"; there are {channels}"
        yield ("roles", name, "channel"), f"roles.{name}.channel: unknown channel {role.channel!r}{hint}"


def _graphs(config: Config) -> Iterator[_Problem]:
    for path, graph, example in (
        (("sms", "graph"), config.sms.graph, "graphs.sms:build"),
        (("pdc", "graph"), config.pdc.graph, "graphs.pdc:build"),
        (("graph",), config.graph, "graphs.imc:build"),
    ):
        if not _GRAPH.fullmatch(graph):
            yield path, f"{'.'.join(path)} must be module:function, e.g. {example}, not {graph!r}"
