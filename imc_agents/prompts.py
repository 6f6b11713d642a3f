"""Prompts as files: ``<name>.md`` holds YAML front matter and a Jinja2 body in a strict sandbox.

    ---
    role: specialist                 # the kind of role that uses it, or context or baseline
    version: 1                       # raise it with every change of meaning
    variables: [question]            # what the body uses, all of it
    output: SpanEdits                # model of the reply, where the reply is JSON
    ---
    # System
    ...
    # User
    {{ question | fence("question") }}

A body is either plain text (``render_text``) or messages under the headings ``# System``, ``# User`` and
``# Assistant`` (``render``). Files of the working directory's ``prompts/`` go before those of the package.

Values are data: they are put in as they are and never rendered again, so Jinja in a question is inert. The same holds
for chat-template tokens such as ``<|im_start|>`` as far as this module goes; neutralising them is the backend's job,
which alone knows the tokens of its model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from imc_agents.config.yaml_nodes import Node, parse_yaml, plain, read_text
from imc_agents.errors import ConfigError, nearest
from imc_agents.models.protocol import Message
from imc_agents.templates import Part, split_parts

__all__ = ["PROMPT_ROLES", "Prompt", "list_prompts", "load_prompt", "prompt_folders"]

PROMPT_ROLES = (
    "perceiver",
    "supervisor",
    "specialist",
    "adjudicator",
    "critic",
    "answerer",
    "context",
    "baseline",
)
"""What the key ``role`` may say: the kinds of roles, the context of scored questions, and the bench's baseline."""

_KEYS = ("role", "version", "variables", "output")
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*\n", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that was loaded and found sound.

    Attributes:
        name: File name without ``.md``.
        path: The file.
        role: The kind of role that may use it, see ``PROMPT_ROLES``.
        version: Version of its meaning.
        variables: Names of the variables that the body uses.
        output: Name of the model of its JSON reply, or None.
        sha256: Digest of the file, for the manifest of a run.
    """

    name: str
    path: Path
    role: str
    version: int
    variables: tuple[str, ...]
    output: str | None
    sha256: str
    _parts: tuple[Part, ...]
    _places: Mapping[str, str]

    @property
    def is_chat(self) -> bool:
        """Whether the body is messages (``render``) rather than plain text (``render_text``)."""
        return self._parts[0].speaker is not None

    def where(self, key: str) -> str:
        """Return the place of a front-matter key as errors name it, e.g. ``prompts/critique.md:4``."""
        return self._places.get(key, str(self.path))

    def render(self, **variables: Any) -> tuple[Message, ...]:
        """Return the messages; variables that the prompt does not use are ignored.

        Raises:
            ConfigError: the prompt has no headings, a variable is missing, or the template fails.
        """
        if not self.is_chat:
            raise ConfigError(f"{self.path}: has no heading '# User', so it cannot be sent as a chat")
        used = self._used(variables)
        return tuple(
            Message(part.speaker or "user", part.render(used), fixed=not part.names) for part in self._parts
        )

    def render_text(self, **variables: Any) -> str:
        """Return the text of a prompt without headings; variables that it does not use are ignored.

        Raises:
            ConfigError: the prompt has headings, a variable is missing, or the template fails.
        """
        if self.is_chat:
            raise ConfigError(
                f"{self.path}: must be plain text here; remove the headings '# System' and '# User'"
            )
        return self._parts[0].render(self._used(variables))

    def _used(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        for name in self.variables:
            if name not in variables:
                hint = (
                    nearest(name, set(variables)) or f"; there are {', '.join(sorted(variables)) or 'none'}"
                )
                raise ConfigError(f"{self.where('variables')}: no value for the variable {name!r}{hint}")
        return {name: variables[name] for name in self.variables}


def prompt_folders() -> tuple[Path, ...]:
    """Return where prompts are looked for: ``prompts/`` of the working directory, then the package's own."""
    package = Path(__file__).parent
    installed = package / "builtin_prompts"
    return Path("prompts"), installed if installed.is_dir() else package.parent / "prompts"


def list_prompts(search: Sequence[Path] | None = None) -> dict[str, Path]:
    """Return the file of every prompt by name, sorted; earlier folders hide later ones."""
    found: dict[str, Path] = {}
    for folder in reversed(prompt_folders() if search is None else search):
        found |= {path.stem: path for path in folder.glob("*.md") if _NAME.fullmatch(path.stem)}
    return dict(sorted(found.items()))


def load_prompt(name: str, search: Sequence[Path] | None = None) -> Prompt:
    """Load a prompt and check all of it that can be checked without its values.

    Args:
        name: File name without ``.md``.
        search: Folders to look in, default ``prompt_folders()``.

    Raises:
        ConfigError: there is no such prompt, or it is wrong; names file and line.
    """
    folders = prompt_folders() if search is None else tuple(search)
    path = next((file for folder in folders if (file := folder / f"{name}.md").is_file()), None)
    if path is None or not _NAME.fullmatch(name):
        places = " or ".join(f"{folder}/" for folder in folders)
        raise ConfigError(f"no prompt {name!r} in {places}{nearest(name, set(list_prompts(folders)))}")
    return _parse(name, path)


def _parse(name: str, path: Path) -> Prompt:
    text = read_text(path).replace("\r\n", "\n")
    front = _FRONT.match(text)
    if front is None:
        raise ConfigError(f"{path}:1: needs front matter between two lines '---' with {', '.join(_KEYS)}")
    keys = _front_matter(path, parse_yaml(front[1], str(path), first_line=2))
    body, first_line = text[front.end() :], text.count("\n", 0, front.end()) + 1
    variables = tuple(cast(list[str], keys["variables"][0]))
    parts = _parts(path, body, first_line, variables, keys["variables"][1])
    return Prompt(
        name=name,
        path=path,
        role=keys["role"][0],
        version=keys["version"][0],
        variables=variables,
        output=keys["output"][0],
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        _parts=parts,
        _places={key: place for key, (_, place) in keys.items()},
    )


def _front_matter(path: Path, node: Node) -> dict[str, tuple[Any, str]]:
    values: dict[str, tuple[Any, str]] = {"variables": ([], str(path)), "output": (None, str(path))}
    for key, child in (node.children or {}).items():
        if key not in _KEYS:
            hint = nearest(key, _KEYS) or f"; there are {', '.join(_KEYS)}"
            raise ConfigError(f"{child.where}: unknown key {key!r} in the front matter{hint}")
        values[key] = (plain(child), child.where)
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "role": (lambda value: value in PROMPT_ROLES, f"one of {', '.join(PROMPT_ROLES)}"),
        "version": (lambda value: type(value) is int and value > 0, "a whole number from 1"),
        "variables": (_is_names, "a list of names, e.g. [question]"),
        "output": (lambda value: value is None or isinstance(value, str), "the name of an output model"),
    }
    for key, (holds, expected) in rules.items():
        if key not in values:
            raise ConfigError(f"{path}:1: the front matter has no {key!r}; it must be {expected}")
        value, place = values[key]
        if not holds(value):
            hint = nearest(value, PROMPT_ROLES) if key == "role" and isinstance(value, str) else ""
            raise ConfigError(f"{place}: {key} must be {expected}, not {value!r}{hint}")
    return values


def _is_names(value: Any) -> bool:
    items = cast(list[Any], value)
    return isinstance(value, list) and all(isinstance(item, str) and item.isidentifier() for item in items)


def _parts(
    path: Path, body: str, first_line: int, variables: tuple[str, ...], declared_at: str
) -> tuple[Part, ...]:
    parts = split_parts(path, body, first_line)
    used: dict[str, int] = {}
    for part in parts:
        used = {**part.names, **used}
    for name, line in used.items():
        if name not in variables:
            hint = nearest(name, variables) or "; add it to 'variables' in the front matter"
            raise ConfigError(f"{path}:{line}: undeclared variable {name!r}{hint}")
    for name in variables:
        if name not in used:
            hint = nearest(name, set(used))
            raise ConfigError(f"{declared_at}: the variable {name!r} is declared but not used{hint}")
    return parts
