"""The bodies of prompts: split at their headings into parts, each a Jinja2 template in a strict sandbox."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from imc_agents.errors import ConfigError, nearest

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["Part", "split_parts"]

Speaker = Literal["system", "user", "assistant"]

_HEADING = re.compile(r"^# +(\S+)[ \t]*$", re.MULTILINE)
_SPEAKERS: dict[str, Speaker] = {"System": "system", "User": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Part:
    """One message of a prompt, or a whole prompt without headings.

    Attributes:
        speaker: Whose message it is; None for plain text.
        path: The prompt's file.
        names: Each variable that the template uses and the line of its first use.
        blank_lines: Newlines in front of the template that make its line numbers those of the file.
        template: The compiled template.
    """

    speaker: Speaker | None
    path: Path
    names: Mapping[str, int]
    blank_lines: int
    template: Template

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text with the values put in as they are.

        Raises:
            ConfigError: the template fails with these values; names file and line.
        """
        import jinja2

        try:
            text = self.template.render(variables)
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.path}:{_line_of(error, self.path)}: {error}") from None
        return text.removeprefix("\n" * self.blank_lines)


def split_parts(path: Path, body: str, first_line: int) -> tuple[Part, ...]:
    """Split a body at its headings and compile the parts.

    Args:
        path: The prompt's file.
        body: The text behind the front matter.
        first_line: Line of the file at which it starts.

    Raises:
        ConfigError: the body is empty, a heading is unknown or out of order, or a template is not valid.
    """
    if not body.strip():
        raise ConfigError(f"{path}:{first_line}: the prompt is empty")
    # Split before rendering, so that a heading inside a value starts no message.
    headings: list[tuple[Speaker, re.Match[str]]] = []
    for match in _HEADING.finditer(body):
        line = first_line + body.count("\n", 0, match.start())
        if match[1] in _SPEAKERS:
            headings.append((_SPEAKERS[match[1]], match))
        elif hint := nearest(match[1], tuple(_SPEAKERS)):
            raise ConfigError(f"{path}:{line}: unknown heading {match[1]!r}{hint}")
    if not headings:
        return (_compile(path, None, body, first_line),)
    if body[: headings[0][1].start()].strip():
        raise ConfigError(f"{path}:{first_line}: text before the first heading; put it under '# System'")
    _check_order(path, [speaker for speaker, _ in headings], first_line)
    parts: list[Part] = []
    for index, (speaker, match) in enumerate(headings):
        end = headings[index + 1][1].start() if index + 1 < len(headings) else len(body)
        line = first_line + body.count("\n", 0, match.end())
        parts.append(_compile(path, speaker, body[match.end() : end], line))
    return tuple(parts)


def _check_order(path: Path, speakers: list[Speaker], line: int) -> None:
    turns = speakers[1:] if speakers[0] == "system" else speakers
    expected = (["user", "assistant"] * len(turns))[: len(turns)]
    if turns != expected or len(turns) % 2 == 0:
        order = "'# System' once, then '# User' and '# Assistant' in turn, '# User' last"
        raise ConfigError(f"{path}:{line}: the headings must be {order}")


def _compile(path: Path, speaker: Speaker | None, text: str, first_line: int) -> Part:
    import jinja2
    from jinja2 import meta, nodes

    environment = _environment()
    # The template is stripped, not what it renders: a value keeps its own white space.
    content = text.lstrip()
    blank_lines = first_line - 1 + text[: len(text) - len(content)].count("\n")
    source = "\n" * blank_lines + content.rstrip()
    try:
        tree = environment.parse(source, filename=str(path))
        outside = next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None)
        if outside is not None:
            raise ConfigError(
                f"{path}:{outside.lineno}: a prompt stands alone; include, import and extends are off"
            )
        undeclared = meta.find_undeclared_variables(tree)
        code = environment.compile(source, filename=str(path))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: not a valid template: {error.message}") from None
    names: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.name in undeclared:
            names[node.name] = min(node.lineno, names.get(node.name, node.lineno))
    template = jinja2.Template.from_code(environment, code, environment.globals)
    return Part(speaker, path, names, blank_lines, template)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.clear()
    cast(dict[str, Any], environment.filters)["fence"] = _fence
    return environment


def _fence(text: str, tag: str) -> str:
    """Put a text, byte for byte, between tags that it cannot close."""
    number, name = 1, tag
    while f"</{name}" in text:
        number += 1
        name = f"{tag}_{number}"
    return f"<{name}>\n{text}\n</{name}>"


def _line_of(error: BaseException, path: Path) -> int:
    # Jinja maps the traceback to the lines of the template.
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
