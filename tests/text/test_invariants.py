"""The guard: what it stops, what it lets pass, and that no path goes around it."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_agents.text.clinical.vocabulary import look_alikes, opposites
from imc_agents.text.edits import Edit, apply_edits
from imc_agents.text.invariants import (
    INVARIANTS,
    check_text,
    protected_spans,
)
from tests.text.guarding import broken, known, vocabulary

HERE = Path(__file__).parent
CASES: dict[str, list[dict[str, Any]]] = yaml.safe_load((HERE / "trap_questions.yaml").read_text("utf-8"))
QUESTIONS = (
    "Is there a mass in the left lung?",
    "Are the lateral ventricles dilated on this T2 image?",
    "Is there no evidence of a 5 mm stone in the right ureter?",
    "Where is the hyperdense lesion located in the anterior mediastinum?",
    "Which is bigger in this image, the spleen or the left kidney?",
    "Was 0.5 mg of it given w/o contrast at 120/80 mmHg?",
)
NEGATIONS = ("no", "not", "without", "never", "denies", "isn't")


def changed(question: str, edits: list[list[Any]]) -> str:
    for old, new in edits:
        assert str(old) in question
        question = question.replace(str(old), str(new), 1)
    return question


def named(case: dict[str, Any]) -> str:
    return "; ".join(f"{old}->{new}" for old, new in case["edits"])


@pytest.mark.parametrize("case", CASES["traps"], ids=named)
def test_a_tempting_edit_is_stopped(case: dict[str, Any]) -> None:
    expected = case["invariant"] if isinstance(case["invariant"], list) else [case["invariant"]]
    assert broken(case["question"], changed(case["question"], case["edits"])) & set(expected)


@pytest.mark.parametrize("case", CASES["repairs"], ids=named)
def test_a_clear_repair_passes(case: dict[str, Any]) -> None:
    assert broken(case["question"], changed(case["question"], case["edits"])) == set()


def test_there_are_enough_cases() -> None:
    assert len(CASES["traps"]) >= 100
    assert len(CASES["repairs"]) >= 60
    reached = {name for case in CASES["traps"] for name in _as_list(case["invariant"])}
    assert reached == set(INVARIANTS) - {"protected_term"}


def _as_list(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def test_the_example_file_holds_every_trap() -> None:
    path = HERE.parents[1] / "examples" / "trap_questions.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) >= 60
    assert all(row["question"] and row["note"] for row in rows)
    assert {case["question"] for case in CASES["traps"]} <= {row["question"] for row in rows}


PIECES = [
    "is",
    "the",
    "a",
    "lung",
    "mass",
    "of",
    "seen",
    "large",
    "upper",
    "left",
    "right",
    "with",
    "5",
    "mg",
    "T2",
]
SENTENCES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12)


@given(SENTENCES, st.data())
def test_a_side_is_never_swapped(words: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(words)))
    pair = data.draw(st.permutations(["left", "right"]))
    before, after = ([*words[:at], side, *words[at:]] for side in pair)
    assert "laterality" in broken(" ".join(before), " ".join(after))


@given(SENTENCES, st.data())
def test_a_cue_is_never_dropped_or_added(words: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(words)))
    cue = data.draw(st.sampled_from([*NEGATIONS, "left", "posterior", "bilateral", "7", "two"]))
    longer, shorter = " ".join([*words[:at], cue, *words[at:]]), " ".join(words)
    assert broken(longer, shorter)
    assert broken(shorter, longer)


@given(
    st.sampled_from(
        [
            "{} mg",
            "{}mg",
            "{} x {} cm",
            "L{}-L{}",
            "{}%",
            ">{}",
            "T{}",
            "{}/{}",
            "{}.{} ml",
            "{}th rib",
            "{}-{} mm",
            "{} lesions",
        ]
    ),
    st.sampled_from(QUESTIONS),
    st.data(),
)
def test_a_digit_never_changes(pattern: str, question: str, data: st.DataObject) -> None:
    number = st.integers(1, 999).map(str)
    filled = pattern
    while "{}" in filled:
        filled = filled.replace("{}", data.draw(number), 1)
    places = [at for at, char in enumerate(filled) if char.isdigit()]
    at = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != filled[at]]))
    other = filled[:at] + digit + filled[at + 1 :]
    found = broken(f"{question} Is {filled} right?", f"{question} Is {other} right?")
    assert found & {"number", "unit"}


@given(st.text(max_size=80) | st.sampled_from(QUESTIONS))
def test_a_text_left_alone_breaks_nothing(text: str) -> None:
    assert check_text(text, text, is_known=known) == []


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=60)
def test_any_two_texts_can_be_compared(before: str, after: str) -> None:
    for violation in check_text(before, after, is_known=known, protected_terms=("a", "1", "0 0")):
        assert violation.invariant in INVARIANTS
        assert 0 <= violation.start <= violation.end <= len(before)


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            "5 mg",
            "2.5x3 cm",
            ">12",
            "T2",
            "L4-L5",
            "not",
            "isn't",
            "w/o",
            "left",
            "CT",
            "A) yes",
            "B) no",
            "lung",
            "10-20%",
            "?",
            "non-contrast",
            "yes or no",
        ]
    )
    | st.text(max_size=6),
    max_size=10,
)


@given(FRAGMENTS)
def test_protected_spans_are_sorted_and_apart(fragments: list[str]) -> None:
    text = " ".join(fragments)
    spans = protected_spans(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(first.end <= second.start for first, second in pairwise(spans))
    assert {span.invariant for span in spans} <= set(INVARIANTS)


@pytest.mark.parametrize(
    ("text", "protected"),
    [
        ("Give 5 mg, then 10-20% of it", ["5 mg", "10-20%"]),
        ("a 2.5x3 cm mass, > 12 HU, at T2 and L4-L5", ["2.5x3 cm", "> 12 HU", "T2", "L4-L5"]),
        ("the 12th rib, power 3/5", ["12th", "3/5"]),
        (
            "No, it isn't free of disease w/o non-contrast CT",
            ["No", "isn't", "free of", "w/o", "non-contrast", "CT"],
        ),
        ("Rule out a left posterior lesion", ["Rule out", "left", "posterior"]),
        ("Is it a cyst? A) yes B) no", ["A) yes B) no"]),
        ("Is it clear, yes or no?", ["yes or no"]),
        ("WHAT IS IN THE LUNG ON CT", ["CT"]),
        ("Is the liver large?", []),
    ],
)
def test_what_noise_must_leave_alone(text: str, protected: list[str]) -> None:
    assert [text[span.start : span.end] for span in protected_spans(text)] == protected


@pytest.mark.parametrize("question", QUESTIONS)
def test_many_slips_at_once_may_be_repaired(question: str) -> None:
    rng = random.Random(question)
    free = [
        span
        for span in _words(question)
        if not any(s.start < span[1] and span[0] < s.end for s in protected_spans(question))
    ]
    edits: list[Edit] = []
    for start, end in free:
        word = question[start:end]
        if len(word) > 4 and not look_alikes(word.lower()) and not opposites(word.lower()) & vocabulary():
            at = rng.randrange(1, len(word) - 2)
            edits.append(Edit(start, end, word[:at] + word[at + 1] + word[at] + word[at + 2 :]))
    noisy = apply_edits(question, edits)
    assert noisy != question
    assert check_text(noisy, question, is_known=known) == []


def _words(text: str) -> list[tuple[int, int]]:
    import re

    return [match.span() for match in re.finditer(r"[A-Za-z]+", text)]


def test_case_of_ordinary_words_is_free() -> None:
    for question in QUESTIONS:
        plain = question.replace("mmHg", "mmhg")
        assert "laterality" not in broken(plain.upper(), plain)
        assert broken(question[0].lower() + question[1:], question) == set()


def test_a_word_that_only_moves_is_no_loss_but_a_moved_cue_is() -> None:
    assert broken("Is visible the mass in liver?", "Is the mass visible in liver?") == set()
    assert broken("Is left the lung mass beside kidney?", "Is the lung mass beside left kidney?")
    assert broken("no lung mass in kidney", "lung mass in no kidney")


def test_a_protected_term_stays() -> None:
    options = {"protected_terms": ("Zephyrol", "ring sign")}
    assert broken("Was zephyrol given?", "Was zephyr given?", **options) == {"protected_term"}
    assert broken("Is a ring sign here?", "Is a rising sign here?", **options) == {"protected_term"}
    assert broken("Was Zephyrol giben?", "Was Zephyrol given?", **options) == set()


def test_medical_words_of_the_callers_lexicon_are_kept() -> None:
    assert broken("Is the frobnic node seen?", "Is the frantic node seen?") == set()
    found = check_text(
        "Is the frobnic node seen?",
        "Is the frantic node seen?",
        is_known=lambda word: word == "frobnic" or known(word),
        is_medical=lambda word: word == "frobnic",
    )
    assert [violation.invariant for violation in found] == ["known_medical_term"]


def test_a_violation_names_the_place_in_the_text_before() -> None:
    text = "Is the left lung clear?"
    (violation,) = check_text(text, text.replace("left", "right"), is_known=known)
    assert text[violation.start : violation.end] == "left"
    assert "'left' became 'right'" in violation.detail


def test_a_changed_term_of_the_user_is_found_where_it_stands() -> None:
    text = "The aptly named pt is here"
    (violation,) = check_text(text, text.replace(" pt ", " one "), is_known=known, protected_terms=("pt",))[
        -1:
    ]
    assert (violation.invariant, text[violation.start : violation.end]) == ("protected_term", "pt")


def test_a_long_text_is_checked_in_bounded_time() -> None:
    import time

    before = " ".join(["Is teh mass in the lnug of teh patient larger than before?"] * 60)
    after = before.replace("teh", "the").replace("lnug", "lung")
    started = time.perf_counter()
    assert check_text(before, after, is_known=known) == []
    assert time.perf_counter() - started < 5


def test_numbers_are_not_blurred_by_spacing() -> None:
    assert "number" in broken("Give 1 2 mg", "Give 12 mg")
    assert "number" in broken("Give 12 mg", "Give 1 2 mg")
    assert broken("Give 12mg", "Give 12 mg") == set()
