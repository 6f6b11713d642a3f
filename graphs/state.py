"""The state that travels through the graph of one question: small plain values, nothing heavy, nothing secret."""

from __future__ import annotations

import operator
from typing import Annotated, NotRequired, TypedDict

from imc_agents.agents.answer import Way
from imc_agents.agents.findings import Assignment, Perception, Proposal, Ruling
from imc_agents.vision.calibration import Treatment
from imc_agents.vision.perception import Finding

__all__ = ["ImcState", "PdcState", "SmsState", "SpecialistTask"]


class SmsState(TypedDict):
    """The state of the text branch. A node reads what the nodes before it wrote.

    Attributes:
        original: The question as it came.
        text: The working text.
        round: Rounds begun.
        noisy: Whether slips have been found, so that known words are trusted less.
        perception: What perceive found this round.
        assignments: The specialists of this round.
        proposals: All proposals of all rounds; those of a round carry its number.
        ruling: What the adjudicator and the guard left of this round.
        flags: Marks for a person, of all rounds.
        certainty: Product of the certainties of all rounds.
        again: Whether the critic wants another round.
        reverted: Whether the whole text was taken back.
    """

    original: str
    text: str
    round: int
    noisy: bool
    perception: Perception
    assignments: list[Assignment]
    proposals: Annotated[list[Proposal], operator.add]
    ruling: Ruling
    flags: Annotated[list[str], operator.add]
    certainty: NotRequired[float]
    again: bool
    reverted: NotRequired[bool]


class SpecialistTask(TypedDict):
    """What ``Send`` hands to one specialist."""

    text: str
    round: int
    perception: Perception
    assignment: Assignment


class PdcState(TypedDict):
    """The state of the image branch.

    Attributes:
        image: Path of the image within the folder of the images; what is held of it is in the context's store.
        finding: Which noise it has.
        treatment: What was done to its features.
    """

    image: str
    finding: Finding
    treatment: Treatment


class ImcState(TypedDict):
    """The state of the whole graph.

    Attributes:
        question: As it came.
        image: Path of the image within the folder of the images, where there is one.
        ways: In which ways to answer; none only refines and calibrates.
        text: What the text branch ended with; missing where no answer needs it.
        treatment: What was done to the image's features; missing where there is no image or no bank.
        answers: By way.
    """

    question: str
    image: NotRequired[str]
    ways: tuple[Way, ...]
    text: NotRequired[SmsState]
    treatment: NotRequired[Treatment]
    answers: NotRequired[dict[Way, str]]
