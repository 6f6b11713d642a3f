"""What stands for a class in text: templates and phrases of each data set, in ``class_prompts.yaml``.

    default:
      templates: ["a medical image of {{ class }} belonging to {{ dataset }}"]
    pneumoniamnist:
      title: PneumoniaMNIST              # what {{ dataset }} becomes; the name if left out
      templates: ["{{ class }}"]         # strict sandboxed Jinja2; those of default if left out
      classes:                           # phrases by name of the class; the name itself if left out
        normal: [a normal chest x-ray]

The file of the working directory's ``prompts/`` goes before that of the package, whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from imc_agents.config.yaml_nodes import Node, parse_yaml, plain, read_text
from imc_agents.errors import ConfigError, UsageError, nearest
from imc_agents.prompts import prompt_folders
from imc_agents.templates import Part, split_parts

__all__ = ["FILE_NAME", "ClassPrompts", "load_class_prompts"]

FILE_NAME = "class_prompts.yaml"
"""The file that is looked for where prompts are."""

_DEFAULT = "default"
_KEYS = ("title", "templates", "classes")
_VARIABLES = ("class", "dataset")


@dataclass(frozen=True, slots=True)
class ClassPrompts:
    """The texts of the classes of one data set.

    Attributes:
        texts: By number of the class: each template with each phrase, template by template.
        digest: SHA-256 in hex of the names of the classes and their texts.
        source: The file.
    """

    texts: tuple[tuple[str, ...], ...]
    digest: str
    source: Path


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the file; None and empty where a key is left out."""

    where: str
    title: str | None
    templates: tuple[Part, ...]
    classes: Mapping[str, tuple[str, ...]] | None


def load_class_prompts(name: str, classes: Sequence[str], path: Path | None = None) -> ClassPrompts:
    """Load the texts for the classes of a data set; the whole file is checked.

    A data set without an entry has the templates of ``default`` filled with the names of its classes.

    Args:
        name: Name of the data set.
        classes: Names of its classes by number.
        path: The file; None looks for ``class_prompts.yaml`` where prompts are.

    Raises:
        ConfigError: there is no such file, or it is wrong; names file and line.
        UsageError: the classes of the entry are not those of the data, classes that are only numbers have no phrases,
            or two classes have the same texts.
    """
    source = path or _found()
    entries = _entries(source)
    entry = entries.get(name, _Entry(str(source), None, (), None))
    templates = entry.templates or entries.get(_DEFAULT, entry).templates
    if not templates:
        raise ConfigError(
            f"{entry.where}: no templates for {name!r}; add 'templates' to its entry, or an entry {_DEFAULT!r}"
        )
    phrases = _phrases(name, classes, entry)
    title = entry.title or name
    texts = tuple(
        tuple(_text(template, phrase, title) for template in templates for phrase in phrases[label])
        for label in classes
    )
    first: dict[tuple[str, ...], str] = {}
    for label, made in zip(classes, texts, strict=True):
        other = first.setdefault(tuple(sorted(made)), label)
        if other != label:
            raise UsageError(
                f"{entry.where}: the classes {other!r} and {label!r} of {name!r} have the same texts ({made[0]!r}), "
                "so nothing tells them apart; give them different phrases"
            )
    digest = hashlib.sha256(json.dumps([list(classes), texts]).encode()).hexdigest()
    return ClassPrompts(texts, digest, source)


def _found() -> Path:
    folders = prompt_folders()
    found = next((file for folder in folders if (file := folder / FILE_NAME).is_file()), None)
    if found is None:
        raise ConfigError(
            f"no {FILE_NAME} in {' or '.join(f'{folder}/' for folder in folders)}; install again"
        )
    return found


def _phrases(name: str, classes: Sequence[str], entry: _Entry) -> Mapping[str, tuple[str, ...]]:
    if entry.classes is None:
        numbered = [label for label in classes if label.strip().isdecimal()]
        if numbered:
            raise UsageError(
                f"{entry.where}: the class {numbered[0]!r} of {name!r} is only a number, which tells an encoder "
                f"nothing; write what it shows under {name}: classes: in a file of class prompts"
            )
        return {label: (label,) for label in classes}
    missing = [label for label in classes if label not in entry.classes]
    extra = [label for label in entry.classes if label not in classes]
    if missing or extra:
        parts = [f"no phrases for {', '.join(map(repr, missing))}, which the data has"] if missing else []
        parts += [f"phrases for {', '.join(map(repr, extra))}, which the data does not have"] if extra else []
        hint = nearest(extra[0], tuple(missing or classes)) if extra else ""
        raise UsageError(
            f"{entry.where}: the classes of {name!r} are not those of the data: {' and '.join(parts)}"
            f"{hint or '; the data has: ' + ', '.join(map(repr, classes))}"
        )
    return entry.classes


def _text(template: Part, phrase: str, title: str) -> str:
    text = " ".join(template.render({"class": phrase, "dataset": title}).split())
    if not text:
        raise ConfigError(
            f"{template.path}: a template comes to nothing with the phrase {phrase!r}; correct it"
        )
    return text


def _entries(path: Path) -> dict[str, _Entry]:
    tree = parse_yaml(read_text(path), str(path))
    return {name: _entry(path, name, node) for name, node in (tree.children or {}).items()}


def _entry(path: Path, name: str, node: Node) -> _Entry:
    if node.children is None:
        raise ConfigError(f"{node.where}: {name!r} needs keys below it: {', '.join(_KEYS)}")
    allowed = _KEYS[1:2] if name == _DEFAULT else _KEYS
    for key, child in node.children.items():
        if key not in allowed:
            hint = nearest(key, allowed) or f"; there are {', '.join(allowed)}"
            raise ConfigError(f"{child.where}: unknown key {key!r} in {name!r}{hint}")
    title, templates, classes = (node.children.get(key) for key in _KEYS)
    if title is not None and not (isinstance(title.value, str) and title.value.strip()):
        raise ConfigError(f"{title.where}: title must be text, not {title.value!r}")
    parts = tuple[Part, ...]()
    if templates is not None:
        parts = tuple(_template(path, text, templates) for text in _texts("templates", templates))
    return _Entry(node.where, title.value if title is not None else None, parts, _classes(name, classes))


def _classes(name: str, node: Node | None) -> dict[str, tuple[str, ...]] | None:
    if node is None:
        return None
    if not node.children:
        raise ConfigError(
            f"{node.where}: classes of {name!r} must be names with their phrases, e.g. normal: [a normal chest x-ray]"
        )
    return {label: _texts(f"the phrases of {label!r}", child) for label, child in node.children.items()}


def _texts(what: str, node: Node) -> tuple[str, ...]:
    values = cast("list[Any]", plain(node))
    if not isinstance(node.value, list) or not values:
        raise ConfigError(f"{node.where}: {what} must be a list of texts, e.g. [pneumonia]")
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{node.where}: {what} must be texts (in quotes where needed), not {value!r}")
    return tuple(values)


def _template(path: Path, text: str, node: Node) -> Part:
    template, *others = split_parts(path, text, int(node.where.rpartition(":")[2]))
    if others or template.speaker is not None:
        raise ConfigError(f"{node.where}: the template {text!r} has headings; write plain text")
    for name in template.names:
        if name not in _VARIABLES:
            hint = nearest(name, _VARIABLES) or f"; there are {' and '.join(_VARIABLES)}"
            raise ConfigError(f"{node.where}: unknown variable {name!r} in the template {text!r}{hint}")
    if "class" not in template.names:
        raise ConfigError(
            f"{node.where}: the template {text!r} does not use 'class', so all classes would get the same text; "
            "put {{ class }} into it"
        )
    return template
