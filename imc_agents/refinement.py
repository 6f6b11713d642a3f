"""What refining one question yields: the row that users get and the store keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["STATUSES", "Refinement", "Status"]

Status = Literal["ok", "unchanged", "reverted", "model_error", "infra_error", "data_error", "timeout"]
"""ok: refined; unchanged: found clean or left alone; reverted: edits were made and taken back; the rest failed."""

STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, slots=True)
class Refinement:
    """The outcome for one question. On every failure ``refined`` is the original text.

    Attributes:
        original: The question as it came, byte for byte.
        refined: The refined question, or the original.
        status: See ``Status``.
        flags: Machine-readable marks for a person, e.g. ``look_alike:ilium/ileum``, ``unsupported_language``.
        confidence: Probability-like number in [0, 1] that ``refined`` is what was meant; 0 on errors.
        rounds: Rounds of specialists that ran.
        calls: Model calls.
        prompt_tokens: Tokens read by the model.
        completion_tokens: Tokens written by the model.
        milliseconds: Wall time.
        error: One line on what failed, or None.
    """

    original: str
    refined: str
    status: Status
    flags: tuple[str, ...] = ()
    confidence: float = 1.0
    rounds: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    milliseconds: float = 0.0
    error: str | None = None

    @property
    def changed(self) -> bool:
        """Whether the refined text differs from the original."""
        return self.refined != self.original
