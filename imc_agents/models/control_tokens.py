"""Makes chat control tokens inside a message inert: question text must not end its own turn and speak as another."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["inert"]

# Those of the model families that are served today; each is broken by a blank behind its first character.
_KNOWN = re.compile(
    r"<\|[^\s<>|]{1,40}\|>"  # ChatML, Llama 3, Qwen, Phi
    r"|</?(?:s|bos|eos|pad|unk|image|video|audio|think|tool_call|tool_response)>"
    r"|<(?:start|end)_of_(?:turn|image)>|<image_soft_token>"  # Gemma
    r"|\[/?(?:INST|IMG|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"  # Mistral, Llama 2
    r"|<｜[^\s<>｜]{1,40}｜>"  # DeepSeek
)


def inert(text: str, specials: Sequence[str] | None = None) -> str:
    """Return the text with a blank inside every control token.

    Args:
        text: A message.
        specials: The control tokens of the tokenizer; without them those of known chat formats are taken.
    """
    if specials is None:
        return _KNOWN.sub(lambda found: _broken(found.group()), text)
    for special in specials:
        if special in text:
            text = text.replace(special, _broken(special))
    return text


def _broken(special: str) -> str:
    return special[0] + " " + special[1:]
