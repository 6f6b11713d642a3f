"""Reads YAML and remembers the line of every key, so that an error or an origin can name it.

The YAML 1.2 core schema is used: ``no``, ``on`` and ``1:30`` are text, ``1e-3`` is a number. Only plain data
is built; tags, duplicate keys and keys that are not text are errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from imc_agents.errors import ConfigError

__all__ = ["Node", "parse_value", "parse_yaml", "plain", "read_text", "to_yaml"]

_MAX_NODES = 10_000
_TAG = "tag:yaml.org,2002:"
_SCALARS = ("str", "null", "bool", "int", "float")
_CORE = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands.

    Attributes:
        value: A mapping of nodes, or anything else as plain data.
        where: The place as an error names it, e.g. ``imc.yaml:12``.
        shadowed: What it replaced, nearest first: nodes of lower layers.
    """

    value: Any
    where: str
    shadowed: tuple[Node, ...] = ()

    @property
    def children(self) -> Mapping[str, Node] | None:
        """The keys of a mapping; None for anything else."""
        return self.value if isinstance(self.value, dict) else None  # pyright: ignore[reportUnknownVariableType]


if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeLoader as _BaseLoader
else:  # ten times as fast, but not in every build of PyYAML
    from yaml import CSafeLoader as _BaseLoader


class _Loader(_BaseLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own protocol


class _Dumper(yaml.SafeDumper):
    # Quotes a text that either YAML 1.1, which other tools read, or the core schema takes for something else.
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes line breaks of Unicode as they are outside double quotes, and reads them back as blanks.
    style = '"' if any(mark in text for mark in "\r\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar(f"{_TAG}str", text, style)


_Dumper.add_representer(str, _represent_text)

for _name, _pattern, _first in _CORE:
    _expression = re.compile(rf"^(?:{_pattern})$")
    _first_characters = [character.replace("\0", "") for character in _first]
    _Loader.add_implicit_resolver(_TAG + _name, _expression, _first_characters)
    _Dumper.add_implicit_resolver(_TAG + _name, _expression, _first_characters)


class _Reader:
    """Turns composed YAML nodes into ours, collecting every error instead of stopping at the first."""

    def __init__(self, source: str, first_line: int, lines: bool) -> None:
        self.source = source
        self.first_line = first_line
        self.lines = lines
        self.errors: list[str] = []
        self.count = 0

    def where(self, mark: Any) -> str:
        return f"{self.source}:{mark.line + self.first_line}" if self.lines else self.source

    def mapping(self, node: yaml.MappingNode, where: str) -> Node:
        children: dict[str, Node] = {}
        for key, value in node.value:
            place = self.where(key.start_mark)
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                self.errors.append(f"{place}: a key must be text, not {shown}; put it in quotes")
            elif key.value in children:
                self.errors.append(
                    f"{place}: {key.value!r} stands twice, first at {children[key.value].where}"
                )
            else:
                children[key.value] = self.node(value, place)
        return Node(children, where)

    def node(self, node: Any, where: str) -> Node:
        self.count += 1
        if self.count > _MAX_NODES:
            raise ConfigError(f"{where}: more than {_MAX_NODES} values; aliases repeat too much")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self.mapping(node, where)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return Node([plain(self.node(item, self.where(item.start_mark))) for item in node.value], where)
        if isinstance(node, yaml.ScalarNode) and node.tag.removeprefix(_TAG) in _SCALARS:
            return Node(self.scalar(node), where)
        self.errors.append(
            f"{self.where(node.start_mark)}: tag {node.tag!r} is not allowed; write a plain value"
        )
        return Node(None, where)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        try:
            if kind in ("str", "null", "bool"):
                return {"str": text, "null": None, "bool": text.lower() == "true"}[kind]
            if kind == "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if kind == "float":
                return _number(text)
        except ValueError:
            pass
        self.errors.append(f"{self.where(node.start_mark)}: {text!r} is no number; put it in quotes")
        return None


def _number(text: str) -> float:
    # float() does not read YAML's ".inf" and ".nan"; no setting of ours may be either.
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def parse_yaml(text: str, source: str, *, first_line: int = 1, lines: bool = True) -> Node:
    """Parse one YAML document that is a mapping (or empty).

    Args:
        text: The document.
        source: What errors call it: a file name, or e.g. ``profile:fast``.
        first_line: Line of the file at which the text starts.
        lines: Whether places carry a line number.

    Raises:
        ConfigError: no YAML, no mapping, duplicate keys, tags, keys that are not text; one line each.
    """
    node = _compose(text, source, first_line)
    reader = _Reader(source, first_line, lines)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null"):
        return Node({}, f"{source}:{first_line}" if lines else source)
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{reader.where(node.start_mark)}: needs keys and values, e.g. 'seed: 1'")
    return _read(reader, node)


def parse_value(text: str, where: str) -> Node:
    """Parse one YAML value from the command line or the environment; an empty text is null.

    Raises:
        ConfigError: if it is no YAML value; the message starts with ``where``.
    """
    node = _compose(text, where, None)
    return Node(None, where) if node is None else _read(_Reader(where, 1, lines=False), node)


def _compose(text: str, source: str, first_line: int | None) -> yaml.Node | None:
    try:
        return cast(yaml.Node | None, yaml.compose(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = source
        if mark and first_line is not None:
            place = f"{source}:{mark.line + first_line}:{mark.column + 1}"
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{place}: not valid YAML: {problem}") from None
    except (yaml.reader.ReaderError, UnicodeEncodeError):
        raise ConfigError(f"{source}: not valid YAML: it holds a control character or broken text") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply") from None


def _read(reader: _Reader, node: yaml.Node) -> Node:
    try:
        parsed = reader.node(node, reader.where(node.start_mark))
    except RecursionError:
        raise ConfigError(f"{reader.source}: nested too deeply") from None
    if reader.errors:
        raise ConfigError("\n".join(reader.errors))
    return parsed


def plain(node: Node) -> Any:
    """Return the value without its places."""
    children = node.children
    return node.value if children is None else {key: plain(child) for key, child in children.items()}


def read_text(path: Path) -> str:
    """Read a UTF-8 file that a user wrote (a byte order mark is dropped).

    Raises:
        ConfigError: naming the file and what is wrong with it.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def to_yaml(data: Any, *, flow: bool | None = False) -> str:
    """Write plain data as YAML that ``parse_yaml`` reads back equal; keys keep their order.

    ``flow`` True writes lists and mappings in one line, None only those of plain values.
    """
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=2**16
    )
