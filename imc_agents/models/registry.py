"""Which kinds of backend there are, and one from its config.

A kind is an entry point of the group ``imc_agents.backends`` that names ``module:create``. Beside ``create(model,
options)`` the module holds ``Settings``, a pydantic model of the options. The built-in kinds work without an
installed distribution and cannot be replaced by one that happens to use the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ValidationError

from imc_agents.config.schema import BackendConfig
from imc_agents.errors import ConfigError, nearest
from imc_agents.models.protocol import Backend

__all__ = ["backend_kinds", "backend_settings", "create_backend"]

_GROUP = "imc_agents.backends"
_BUILT_IN = {
    "embedded": "imc_agents.models.embedded:create",
    "openai": "imc_agents.models.openai:create",
    "vllm": "imc_agents.models.vllm_server:create",
    "vllm-engine": "imc_agents.models.vllm_engine:create",
}


def backend_kinds() -> dict[str, str]:
    """Return the registered kinds and where each is made, as ``module:function``."""
    return {entry.name: entry.value for entry in entry_points(group=_GROUP)} | _BUILT_IN


def _load(kind: str) -> tuple[type[BaseModel], Callable[[str, dict[str, Any]], Backend]]:
    # Other packages are looked through only for what is not here, which takes a while.
    kinds = _BUILT_IN if kind in _BUILT_IN else backend_kinds()
    if kind not in kinds:
        hint = nearest(kind, set(kinds)) or f"; registered: {', '.join(sorted(kinds))}"
        raise ConfigError(f"unknown kind of backend {kind!r}{hint}")
    module_name, _, attribute = kinds[kind].partition(":")
    try:
        module = import_module(module_name)
        return module.Settings, getattr(module, attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"backend kind {kind!r} ({kinds[kind]}) cannot be loaded: {error}") from error


def backend_settings(kind: str) -> type[BaseModel]:
    """Return the pydantic model of a kind's ``options``.

    Raises:
        ConfigError: the kind is unknown or its module cannot be loaded.
    """
    return _load(kind)[0]


def create_backend(spec: BackendConfig) -> Backend:
    """Make a backend, not yet open, from its config.

    Raises:
        ConfigError: unknown kind, unknown option or a value that does not fit; names the nearest valid one.
    """
    settings, create = _load(spec.kind)
    try:
        settings.model_validate(spec.options)
    except ValidationError as error:
        raise ConfigError(_first_problem(spec.kind, settings, error)) from error
    return create(spec.model, dict(spec.options))


def _first_problem(kind: str, settings: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = sorted(settings.model_fields)
        hint = nearest(key, set(valid)) or f"; valid: {', '.join(valid)}"
        return f"backend kind {kind!r} has no option {key!r}{hint}"
    # Our own validators say what is wrong without the value, which may hold what nobody should see.
    got = "" if problem["type"] == "value_error" else f" (got {problem['input']!r})"
    return f"option {key!r} of backend kind {kind!r}: {problem['msg']}{got}"
