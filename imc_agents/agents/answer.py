"""The answer: the model reads a question and its image, each as it came or as its branch left it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from imc_agents.agents.context import AgentContext
from imc_agents.agents.sight import SightContext
from imc_agents.models.protocol import ImageFeatures
from imc_agents.trace.events import Answered
from imc_agents.vision.reading import inside

__all__ = ["WAYS", "ImcContext", "Way", "answer", "refines"]

Way = Literal["raw", "text", "image", "full"]
"""What the model reads: everything as it came (raw), the refined text, the calibrated image, or both (full)."""

WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True, slots=True)
class ImcContext:
    """What the whole graph works with. Lives in the graph's runtime, never in its state.

    Attributes:
        text: What the agents of the text branch share.
        folder: Where images lie; paths must not lead out of it.
        sight: What the image branch works with; None leaves images as they are.
    """

    text: AgentContext
    folder: Path
    sight: SightContext | None = None


def refines(ways: Sequence[Way]) -> bool:
    """Whether the text has to be refined: not where every answer is to the question as it came."""
    return not ways or any(way in ("text", "full") for way in ways)


async def answer(
    context: ImcContext, question: str, refined: str, image: str | None, ways: Sequence[Way], round_: int
) -> dict[Way, str]:
    """Answer in each of the ways; what is the same in two ways is asked once.

    Where there is a bank, the model reads features from our encoder in every way, so that ways differ in nothing but
    the calibration.

    Args:
        context: The context; the store of ``sight`` holds what the image branch made.
        question: As it came.
        refined: What the text branch made of it.
        image: Path of the image within the folder, if there is one.
        ways: The ways.
        round_: Under which the calls are recorded.

    Raises:
        DataError: the image cannot be read, or the backend takes no images or features.
        ModelOutputError, InfraError: the call failed.
    """
    if not ways:
        return {}  # there may be no answerer
    name, role = context.text.role_of("answerer")
    assert role.prompt is not None  # checked with the configuration
    known: dict[tuple[str, str], str] = {}
    found: dict[Way, str] = {}
    for way in ways:
        text = refined if way in ("text", "full") else question
        shown = () if image is None else (_shown(context, image, calibrated=way in ("image", "full")),)
        key = text, "".join(item.digest if isinstance(item, ImageFeatures) else str(item) for item in shown)
        if key not in known:
            reply = await context.text.reply(name, round_, role.prompt, {"question": text}, images=shown)
            known[key] = reply.strip()
        found[way] = known[key]
        context.text.emit(Answered(agent=name, round=round_, way=way, question=text, answer=found[way]))
    return found


def _shown(context: ImcContext, image: str, *, calibrated: bool) -> Path | ImageFeatures:
    if context.sight is None:
        return inside(context.folder, image)
    seen = context.sight.store[image]
    features = seen.features if calibrated else seen.raw
    assert features is not None  # the image branch has run
    return features
