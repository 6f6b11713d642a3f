"""Writes a configuration: re-runnable YAML and the JSON Schema of config files."""

from __future__ import annotations

from typing import Any

from imc_agents.config.layers import NAMED, NO_PROFILE, profiles
from imc_agents.config.schema import Config
from imc_agents.config.yaml_nodes import to_yaml

__all__ = ["dump_yaml", "json_schema"]

_PROFILE = "What the keys below stand on: default, fast, thorough, or none for the built-in defaults alone."


def dump_yaml(config: Config) -> str:
    """Return a config file that resolves to exactly this configuration, whatever the profiles are by then."""
    return to_yaml({"profile": NO_PROFILE, **config.model_dump(mode="json")})


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config file, for editors: every key is optional, null removes a named entry."""
    schema: dict[str, Any] = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "imc-agents configuration"
    choices = [*profiles(), NO_PROFILE]
    profile = {"type": "string", "enum": choices, "description": _PROFILE}
    properties: dict[str, Any] = {"profile": profile, **schema["properties"]}
    schema["properties"] = properties
    for section in schema["$defs"].values():
        section.pop("required", None)
    for name in NAMED:
        entries = properties[name]
        entries["additionalProperties"] = {"anyOf": [entries["additionalProperties"], {"type": "null"}]}
    return schema
