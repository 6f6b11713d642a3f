"""Writes a config file with a comment on every key, for people who start from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from imc_agents.config.keys import entry_of, section_of
from imc_agents.config.schema import Config, RoleConfig
from imc_agents.config.yaml_nodes import to_yaml

__all__ = ["commented_yaml"]

_WIDTH = 110
_HEAD = """\
# yaml-language-server: $schema=imc.schema.json
# The configuration of this project. Every key is there with its default behind a `#`: take the `#` away to change it.
# `imc config show --origin` tells what is in force and who set it; `imc config validate` checks it all.

# What the keys below stand on: default, fast (cheapest) or thorough (for strong models). `--profile` overrides it.
profile: {profile}
"""
_ROLES = """\
# A new role is a new name here; `name: null` removes one. The keys of a role:
"""


def commented_yaml(config: Config, profile: str = "default") -> str:
    """Return a config file that sets nothing but the profile and shows every key with its meaning and value.

    With every `#` before a key taken away it sets exactly ``config``.
    """
    return _HEAD.format(profile=profile) + "\n".join(_section(config, 0)) + "\n"


def _section(section: BaseModel, depth: int, standing: str = "") -> Iterator[str]:
    indent = "  " * depth
    for number, (name, field) in enumerate(type(section).model_fields.items()):
        value = getattr(section, name)
        if number or not depth:
            yield ""
        yield from _comment(field.description or "", indent)
        if section_of(field.annotation):
            yield f"{indent}{name}:"
            yield from _section(value, depth + 1)
        elif entry_of(field.annotation) is RoleConfig:
            yield f"{indent}{name}:"
            yield from _roles(value)
        elif entry_of(field.annotation):
            yield f"{indent}{name}:"
            for entry, model in value.items():
                yield f"{indent}  {entry}:"
                yield from _section(model, depth + 2, standing="kind")
        else:
            mark = "" if name == standing else "# "
            yield f"{indent}{mark}{name}: {_inline(section.model_dump(mode='json')[name])}"


def _roles(roles: dict[str, RoleConfig]) -> Iterator[str]:
    yield from (f"  {line}" for line in _ROLES.splitlines())
    for name, field in RoleConfig.model_fields.items():
        yield from _comment(f"- {name} - {field.description}", "  ", "  ")
    for name, field in (
        section_of(RoleConfig.model_fields["sampling"].annotation) or RoleConfig
    ).model_fields.items():
        yield from _comment(f"- sampling.{name} - {field.description}", "  ", "  ")
    for role, model in roles.items():
        yield ""
        yield f"  {role}:"
        values = model.model_dump(mode="json")
        # One key stands, because a name with nothing below it removes the entry; no profile changes the kind.
        yield f"    kind: {values.pop('kind')}"
        sampling = values.pop("sampling")
        defaults = RoleConfig(kind=model.kind).model_dump(mode="json")
        for key, value in values.items():
            if value != defaults[key] or key in ("enabled", "backend"):
                yield f"    # {key}: {_inline(value)}"
        if sampling != defaults["sampling"]:
            yield f"    # sampling: {_inline(sampling)}"


def _comment(text: str, indent: str, hanging: str = "") -> Iterator[str]:
    import textwrap

    for number, line in enumerate(textwrap.wrap(text, _WIDTH - len(indent) - 2, subsequent_indent=hanging)):
        # A wrapped line may look like a key; a blank more keeps prose apart from keys.
        yield f"{indent}# {line}" if number == 0 or hanging else f"{indent}#  {line}"


def _inline(value: Any) -> str:
    return to_yaml(value, flow=True).removesuffix("\n").removesuffix("...").rstrip()
