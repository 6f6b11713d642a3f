"""A question with four slips, of which one must not be guessed: what the agents record while they refine it."""

from __future__ import annotations

import io
from dataclasses import dataclass

from rich.console import Console, RenderableType

from imc_agents.refinement import Refinement
from imc_agents.trace.events import (
    Assessed,
    Called,
    Critiqued,
    EditRecord,
    Event,
    Flagged,
    Instantiated,
    Merged,
    Perceived,
    Proposed,
    SuspiciousSpan,
    Vetoed,
)

QUESTION = "Is there evidnce of hypodensty in teh lfet lung?"
REFINED = "Is there evidence of hypodensty in the left lung?"
FLAG = "look_alike:hypodensity/hyperdensity"


@dataclass(frozen=True)
class SampleStub:
    """What the views need of a sample."""

    row_index: int
    id: str
    refinement: Refinement


def edit(before: str, after: str, text: str = QUESTION) -> EditRecord:
    start = text.index(before)
    return EditRecord(start=start, end=start + len(before), before=before, after=after, kind="typo")


def span(word: str, surprisal: float, reason: str) -> SuspiciousSpan:
    start = QUESTION.index(word)
    return SuspiciousSpan(start=start, end=start + len(word), text=word, surprisal=surprisal, reason=reason)


def called(
    agent: str, *, tokens: tuple[int, int], ms: float, turn: int = 1, prompt: str = "P", reply: str = "R"
):
    return Called(
        agent=agent,
        round=turn,
        operation="generate" if tokens[1] else "score",
        backend="default",
        prompt=prompt,
        reply=reply,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        milliseconds=ms,
    )


def assessed(
    role: str, change: EditRecord, gain: float, margin: float, verdict: str, **more: object
) -> Assessed:
    fields = {"agent": "adjudicator", "round": 1, "role": role, "edit": change, "slip_cost": 5.0}
    return Assessed.model_validate(fields | {"gain": gain, "margin": margin, "verdict": verdict} | more)


SAFE = edit("hypodensty", "hypodensity")
OPPOSITE = edit("hypodensty", "hyperdensity")
ALSO_RANS = [edit("lfet", word) for word in ("felt", "let", "leet", "lift", "loft", "fleet", "lyft")]
INSTRUCTIONS = "Restore stems such as -density; never swap the prefix that gives the finding its direction."

EVENTS: list[Event] = [
    called("perceiver", tokens=(16, 0), ms=9.2),
    Perceived(
        agent="perceiver",
        round=1,
        text=QUESTION,
        clean=False,
        noise={"ocr": 0.11, "typo": 0.92},
        severity=3,
        mean_surprisal=7.1,
        spans=(
            span("evidnce", 18.2, "not a known word"),
            span("hypodensty", 17.1, "not a known word; one slip from hypodensity"),
            span("teh", 11.4, "not a known word"),
            span("lfet", 14.9, "not a known word"),
        ),
    ),
    called("supervisor", tokens=(210, 38), ms=412.0),
    Instantiated(
        agent="supervisor",
        round=1,
        role="spelling",
        source="catalogue",
        reason="typo 0.92: four unknown words",
    ),
    Instantiated(
        agent="supervisor", round=1, role="ocr", source="catalogue", reason="ocr 0.11 above the floor"
    ),
    Instantiated(
        agent="supervisor",
        round=1,
        role="radiology-terms",
        source="generated",
        reason="no role handles damaged radiology stems",
        instructions=INSTRUCTIONS,
    ),
    Proposed(
        agent="spelling",
        round=1,
        text=QUESTION,
        edits=(
            edit("evidnce", "evidence"),
            SAFE,
            OPPOSITE,
            edit("teh", "the"),
            edit("lfet", "left"),
            *ALSO_RANS,
        ),
    ),
    Proposed(agent="ocr", round=1, text=QUESTION, edits=()),
    called(
        "radiology-terms",
        tokens=(312, 44),
        ms=980.0,
        prompt="You restore radiology stems.\n\tQuestion: " + QUESTION,
        reply='{"edits": [{"from": "hypodensty", "to": "hypodensity"}]}',
    ),
    Proposed(agent="radiology-terms", round=1, text=QUESTION, edits=(SAFE,)),
    called("adjudicator", tokens=(388, 0), ms=61.0),
    assessed("spelling", edit("evidnce", "evidence"), 14.9, 9.9, "accepted"),
    assessed("spelling", OPPOSITE, 12.2, 3.2, "accepted"),
    assessed("spelling", SAFE, 11.9, 2.9, "ambiguous"),
    assessed("spelling", edit("teh", "the"), 9.7, 4.7, "accepted"),
    assessed("spelling", edit("lfet", "left"), 12.0, 3.3, "accepted"),
    *(assessed("spelling", change, 4.0 - at, -1.0 - at, "rejected") for at, change in enumerate(ALSO_RANS)),
    assessed("radiology-terms", SAFE, 11.9, 2.9, "ambiguous", meaning=0.91),
    Vetoed(
        agent="guard",
        round=1,
        role="spelling",
        edit=OPPOSITE,
        scope="edit",
        invariant="opposite_prefix",
        detail="hypo to hyper would turn the finding into its opposite",
    ),
    Flagged(
        agent="guard", round=1, flag=FLAG, detail="'hypodensty' was left as it is: both readings are likely"
    ),
    Merged(agent="adjudicator", round=1, before=QUESTION, after=REFINED, accepted=3),
    called("critic", tokens=(17, 0), ms=8.0),
    Critiqued(agent="critic", round=1, again=True, reason="'hypodensty' is still not a known word"),
    called("perceiver", tokens=(16, 0), ms=9.0, turn=2),
    Perceived(agent="perceiver", round=2, text=REFINED, clean=True, mean_surprisal=4.2),
    Critiqued(agent="critic", round=2, again=False, reason="nothing left that the likelihood supports"),
]

REFINEMENT = Refinement(QUESTION, REFINED, "ok", (FLAG,), 0.93, 2, 7, 959, 82, 1479.2)
SAMPLE = SampleStub(41, "vqarad-0042", REFINEMENT)


def shown(view: RenderableType, width: int = 100, *, colour: bool = False, encoding: str = "utf-8") -> str:
    """What a console prints for the view, escape sequences of colours and all."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    console = Console(
        file=file,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        legacy_windows=False,
        no_color=False,
        highlight=False,
    )
    console.print(view)
    file.seek(0)
    return file.read()


def words(text: str) -> str:
    """The text without its layout: guides and line breaks become single blanks."""
    return " ".join(text.replace("│", " ").replace("├──", " ").replace("└──", " ").split())
