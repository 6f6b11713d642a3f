"""What a trace shows of an image and of answers: the noise, what was done, and who said what on which grounds."""

from __future__ import annotations

from imc_agents.trace.events import Answered, Calibrated, Called, Event, Perceived
from imc_agents.trace.tree import sample_tree
from tests.trace.scene import SAMPLE, shown

PERCEIVED = Perceived(agent="perceive", round=1, text="Is it?", clean=True)


def calibrated(noise: str, severity: int, operator: str, **shares: float) -> Calibrated:
    return Calibrated(
        agent="pdc",
        round=1,
        image="scan\x1b[2J.png",
        noise=noise,
        severity=severity,
        probabilities=shares,
        operator=operator,
        gate=1.0,
        change=0.244,
    )


def screen(*events: Event, prompts: bool = False) -> str:
    return " ".join(shown(sample_tree(SAMPLE, [PERCEIVED, *events], prompts=prompts)).split())


def test_a_noisy_image_and_what_was_done() -> None:
    text = screen(calibrated("motion", 4, "ridge", motion=0.9, jpeg=0.096, clean=0.004))
    assert "motion 4 (motion 90 %, jpeg 10 %) ridge, features changed by 24 %" in text
    assert "\x1b[2J" not in text
    assert "scan\\x1b[2J.png" in text


def test_an_image_that_was_left_alone() -> None:
    text = screen(calibrated("clean", 0, "identity", clean=0.98, shot=0.02))
    assert "clean (clean 98 %, shot 2 %) left as it is" in text


def test_answers_with_what_they_stand_on() -> None:
    said = [
        Answered(agent="answer", round=1, way=way, question="Is it?", answer=f"the {way} one")
        for way in ("raw", "full")
    ]
    text = screen(*said)
    assert "answer (raw) the raw one" in text
    assert "answer the full one" in text


def test_a_prompt_names_the_image_that_went_with_it() -> None:
    prompt = '[{"role": "user", "content": "Is it?", "images": ["features 0123abcd"]}]'
    call = Called(
        agent="answer",
        round=1,
        operation="generate",
        backend="default",
        prompt=prompt,
        reply="yes",
        prompt_tokens=9,
        completion_tokens=1,
        milliseconds=5.0,
    )
    assert "image features 0123abcd user Is it? reply yes" in screen(call, prompts=True)
