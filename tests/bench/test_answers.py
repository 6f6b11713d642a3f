"""How replies are judged: normalisation, closed accuracy, token overlap, and what is not scored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from imc_agents.bench.outcomes import Outcome
from imc_agents.bench.report.answers import (
    METRICS,
    answer_tokens,
    closed_accuracy,
    exact_match,
    said,
    score,
    token_f1,
    token_recall,
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The left lower lobe.", "left lower lobe"),
        ("Two masses, both 1,200 mm or 2.5 cm", "2 masses both 1200 mm or 2.5 cm"),
        ("dont know; couldnt've", "don't know couldn't've"),
        ("It’s an X-ray (chest)/CT", "it's x ray chest ct"),
        ("none", "0"),
        ("右肺，CT。", "右 肺 ct"),
        ("１２ ｍｍ", "12 mm"),
        ("...", ""),
    ],
)
def test_answers_are_normalised(text: str, tokens: str) -> None:
    assert " ".join(answer_tokens(text)) == tokens


@pytest.mark.parametrize(
    ("answer", "word"),
    [("Yes.", "yes"), ("no", "no"), ("  No, there is not", "no"), ("normal", "normal"), ("...", "")],
)
def test_the_first_word_counts(answer: str, word: str) -> None:
    assert said(answer) == word


@pytest.mark.parametrize(
    ("answer", "reply", "question", "right"),
    [
        ("yes", "Yes, there is a mass.", "", True),
        ("Yes", "There is a mass.", "", False),
        ("no", "None", "", False),
        ("是", "是的，有。", "", True),
        ("没有", "没有病变", "", True),
        ("没有", "有病变", "", False),
        ("没有", "无法判断", "", False),
        ("CT", "ct", "Is this a CT or an MRI?", True),
        ("CT", "This is a CT scan", "Is this a CT or an MRI?", True),
        ("CT", "A CT or an MRI", "Is this a CT or an MRI?", False),
        ("CT", "Not CT", "Is this a CT or an MRI?", False),
        ("CT", "MRI", "Is this a CT or an MRI?", False),
        ("T1", "A T1 weighted image", "Is this T1 weighted or T2 weighted?", True),
        ("左肺", "在左肺", "异常在左肺还是右肺?", True),
        ("左肺", "左肺和右肺", "异常在左肺还是右肺?", False),
        ("no contrast", "No contrast", "", True),
    ],
)
def test_closed_answers(answer: str, reply: str, question: str, right: bool) -> None:
    assert closed_accuracy(answer, reply, question) == float(right)


def test_open_answers_by_hand() -> None:
    gold, reply = "left lower lobe", "The lobe on the left, left side"
    assert token_recall(gold, reply) == pytest.approx(2 / 3)
    assert token_f1(gold, reply) == pytest.approx(2 * 2 / (3 + 5))  # lobe on left left side
    assert exact_match(gold, reply) == 0
    assert exact_match(gold, "the LEFT lower-lobe.") == 1
    assert token_recall("左肺", "右肺") == 0.5
    assert token_f1(gold, "") == token_recall(gold, "") == 0


def outcome(**changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "model": "m",
        "dataset": "d",
        "noise": "clean",
        "severity": 0,
        "modality": "none",
        "method": "none",
        "sample": "1",
        "kind": "closed",
        "question": "Is it?",
        "noisy": "Is it?",
        "refined": "Is it?",
        "answer": "yes",
        "reply": "yes",
        "status": "ok",
    }
    return Outcome(**(fields | changes))


def test_failures_are_not_scored_but_unusable_replies_are_wrong() -> None:
    accuracy = METRICS["accuracy"]
    assert score(outcome(), accuracy) == 1
    assert score(outcome(status="reverted"), accuracy) == 1
    for status in ("infra_error", "timeout", "data_error"):
        assert score(outcome(status=status), accuracy) is None
    assert score(outcome(status="model_error", reply=None), accuracy) == 0
    assert score(outcome(status="model_error"), accuracy) == 0
    assert score(outcome(reply=None), accuracy) is None
    assert score(outcome(), METRICS["recall"]) is None
    assert score(outcome(kind="open"), accuracy) is None


def test_every_published_answer_is_right_by_its_own_measure() -> None:
    """A gold answer as the reply must score 1, whatever its language and however it is written."""
    data = Path(os.environ.get("IMC_SHARED", "../shared")) / "data"
    files = [*data.glob("vqa_rad/*set.json"), *data.glob("slake/*.json")]
    if not files:
        pytest.skip("no VQA-RAD or SLAKE under IMC_SHARED")
    rows: list[dict[str, Any]] = [row for file in files for row in json.loads(file.read_text("utf-8"))]
    answers = [(str(row["answer"]), row["question"]) for row in rows if "answer" in row]
    assert len(answers) > 1000
    for answer, question in answers:
        assert closed_accuracy(answer, answer, question) == 1, (answer, question)
        assert token_recall(answer, answer) == token_f1(answer, answer) == exact_match(answer, answer) == 1
