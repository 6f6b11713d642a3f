"""Which keys there are, and what stands where: unknown keys and values of a wrong type, in plain words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from imc_agents.config.schema import Config
from imc_agents.config.yaml_nodes import Node, plain
from imc_agents.errors import nearest

__all__ = ["describe", "entry_of", "known", "place", "schema_keys", "section_of", "validate"]

_Model = TypeVar("_Model", bound=BaseModel)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section model that a field holds, or None for a plain value."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def entry_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section model of the entries of a mapping such as ``roles``, or None."""
    return section_of(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def describe(key: str, root: type[BaseModel] = Config) -> str:
    """Return what a dotted key means, or an empty text for one that is not in the schema (backend options)."""
    model: type[BaseModel] | None = root
    description, named = "", False
    for part in key.split("."):
        if named:
            named = False
            continue
        field = model.model_fields.get(part) if model else None
        if field is None:
            break
        description = field.description or ""
        model, named = (
            section_of(field.annotation) or entry_of(field.annotation),
            bool(entry_of(field.annotation)),
        )
    return description


def schema_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every key; ``*`` stands for the name of a role or backend."""
    for name, field in model.model_fields.items():
        entry, section = entry_of(field.annotation), section_of(field.annotation)
        yield f"{prefix}{name}"
        if entry or section:
            yield from schema_keys(entry or section or Config, f"{prefix}{name}.{'*.' if entry else ''}")


def known(
    node: Node,
    errors: list[str],
    model: type[BaseModel] = Config,
    path: str = "",
    root: type[BaseModel] | None = None,
) -> Node:
    """Return the tree without its unknown keys, each of which adds a line to ``errors``.

    Args:
        node: The tree.
        errors: Takes the lines.
        model: What its keys are of.
        path: Dotted key of the tree.
        root: Model of the whole, for hints; None where the tree is the whole.
    """
    root = root or model
    kept: dict[str, Node] = {}
    for key, child in (node.children or {}).items():
        field = model.model_fields.get(key)
        if field is None:
            errors.append(f"{child.where}: unknown key {key!r}{_in(path)}{_hint(key, model, root)}")
            continue
        at = f"{path}.{key}" if path else key
        section, entry = section_of(field.annotation), entry_of(field.annotation)
        if child.value is None and (section or get_origin(field.annotation) is dict):
            continue  # a heading whose keys are all commented out
        if (section or entry) and child.children is None and child.value is not None:
            errors.append(f"{child.where}: {at} needs keys below it, not {_shown(child.value)}")
        elif section:
            kept[key] = known(child, errors, section, at, root)
        elif entry:
            kept[key] = Node(_entries(child, errors, entry, at, root), child.where)
        else:
            kept[key] = child
    return Node(kept, node.where)


def _entries(
    node: Node, errors: list[str], model: type[BaseModel], path: str, root: type[BaseModel]
) -> dict[str, Node]:
    kept: dict[str, Node] = {}
    for name, entry in (node.children or {}).items():
        at = f"{path}.{name}"
        if entry.children is not None:
            kept[name] = known(entry, errors, model, at, root)
        elif entry.value is None:
            kept[name] = entry
        else:
            errors.append(f"{entry.where}: {at} needs keys below it, not {_shown(entry.value)}")
    return kept


def _in(path: str) -> str:
    return f" in {path!r}" if path else ""


def _hint(key: str, model: type[BaseModel], root: type[BaseModel]) -> str:
    if close := nearest(key, set(model.model_fields)):
        return close
    elsewhere = [name for name in schema_keys(root) if name.rpartition(".")[2] == key]
    if elsewhere:
        return f"; did you mean {elsewhere[0].replace('*', '<name>')!r}?"
    return f"; there are {', '.join(model.model_fields)}"


def place(tree: Node, path: tuple[str, ...]) -> str:
    """Return where the key, or the nearest parent that was set, stands."""
    where = tree.where
    for key in path:
        child = (tree.children or {}).get(key)
        if child is None:
            break
        tree, where = child, child.where
    return where


def validate(tree: Node, errors: list[str], model: type[_Model]) -> _Model | None:
    """Return the configuration, or None after adding a line to ``errors`` for each wrong value."""
    try:
        # Through JSON because strict mode then takes a list for a tuple, but no "8" or true for a number.
        return model.model_validate_json(json.dumps(plain(tree)), strict=True)
    except ValidationError as failure:
        for error in failure.errors():
            path = tuple(str(part) for part in error["loc"])
            errors.append(f"{place(tree, path)}: {'.'.join(path)} {_in_words(error)}")
    return None


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text (in quotes where it looks like a number)",
    "tuple_type": "a list, e.g. [a, b]",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
}
_BOUNDS = {
    "greater_than_equal": "at least",
    "greater_than": "more than",
    "less_than_equal": "at most",
    "less_than": "less than",
}


def _in_words(error: ErrorDetails) -> str:
    kind, wrong, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is missing; it must be set"
    if kind == "literal_error":
        names = [name.strip("'") for name in str(context["expected"]).replace(" or ", ", ").split(", ")]
        hint = nearest(wrong, names) if isinstance(wrong, str) else ""
        return f"must be one of {', '.join(names)}, not {_shown(wrong)}{hint}"
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind]} {next(iter(context.values()))}, not {_shown(wrong)}"
    return (
        f"must be {_EXPECTED[kind]}, not {_shown(wrong)}"
        if kind in _EXPECTED
        else f"is wrong: {error['msg']}"
    )


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return repr(value) if isinstance(value, str) else json.dumps(value)
