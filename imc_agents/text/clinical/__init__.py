"""Word lists of the clinical guard as data: one YAML file a subject, each with its source and licence.

Everything is loaded on first use and cached; nothing here reads the configuration.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from imc_agents.errors import ConfigError

__all__ = ["load"]


@cache
def load(name: str) -> dict[str, Any]:
    """Return the mapping in ``<name>.yaml``; every scalar is a string (``no`` is a word here, not a boolean).

    Raises:
        ConfigError: if the file does not say where its content comes from.
    """
    import yaml

    text = files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    for key in ("source", "licence"):
        if not data.get(key):
            raise ConfigError(
                f"{name}.yaml: no {key!r}; every clinical word list names its source and licence"
            )
    return data
