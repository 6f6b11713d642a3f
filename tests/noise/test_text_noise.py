from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_agents.errors import UsageError
from imc_agents.noise.registry import noises
from imc_agents.noise.text import apply_text_noise
from imc_agents.noise.text.wording import IRRELEVANT
from imc_agents.text.edits import Edit, apply_edits
from imc_agents.text.invariants import protected_spans
from imc_agents.text.tables import QWERTY
from tests.noise.questions import QUESTIONS, vqa_rad_questions

KINDS = [spec.name for spec in noises("text")]

WORDS = """
is the mass without left no 5 mg kidney MRI pneumothorax evidence of right there T2 image bone in scene two
"""
words = st.sampled_from(WORDS.split())
sentences = st.lists(words, min_size=1, max_size=12).map(" ".join)
any_text = st.one_of(sentences, st.text(max_size=60))


def test_the_eight_kinds_are_registered():
    assert set(KINDS) == {
        "typo",
        "ocr",
        "asr",
        "drop_shuffle",
        "shorthand",
        "spacing",
        "casing",
        "irrelevant",
    }
    assert all(
        len(spec.strengths) == 5 and list(spec.strengths) == sorted(spec.strengths) for spec in noises("text")
    )


@pytest.mark.parametrize(
    ("kind", "noisy"),
    [
        ("typo", "Is the ileum dilated with fre air in the ptaient's abddmoen?"),
        ("ocr", "Is the ileurn clilated witb tree air 1n the patient's abdornen?"),
        ("asr", "Is the ileum dilated with free heir in the patient's abdomen?"),
        ("drop_shuffle", "Is the ileum with dilated air free the patient's abdomen?"),
        ("shorthand", "Is the ileum dilated with free air in the pt's abd?"),
        ("spacing", "Is the il eum dilated with free air inthe patient's abdomen?"),
        ("casing", "iS THe ileum DIlaTeD with free aiR In the patient's AbDoMen?"),
        (
            "irrelevant",
            "The coffee machine in the hallway is broken again. Please excuse the short note. I hope you had a good"
            " weekend. My colleague asked me to pass this along. Is the ileum dilated with free air in the patient's"
            " abdomen?",
        ),
    ],
)
def test_golden(kind: str, noisy: str):
    assert apply_text_noise(QUESTIONS[2], kind, 4, seed=7, sample_id="golden").text == noisy


@pytest.mark.parametrize("kind", KINDS)
@given(text=any_text, seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_severities_nest(kind: str, text: str, seed: int):
    slips = [set(apply_text_noise(text, kind, severity, seed=seed).slips) for severity in (1, 2, 3, 4, 5)]
    assert all(mild <= harsh for mild, harsh in pairwise(slips))


@pytest.mark.parametrize("kind", KINDS)
@given(text=any_text, severity=st.integers(1, 5), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_slips_rebuild_the_noisy_text(kind: str, text: str, severity: int, seed: int):
    noised = apply_text_noise(text, kind, severity, seed=seed)
    assert all(text[slip.start : slip.end] == slip.before for slip in noised.slips)
    assert apply_edits(text, [Edit(slip.start, slip.end, slip.after) for slip in noised.slips]) == noised.text
    assert bool(noised.slips) == (noised.text != text)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_eligible_gets_a_slip_at_the_mildest_severity(kind: str):
    assert apply_text_noise(QUESTIONS[3], kind, 1).slips


@pytest.mark.parametrize("kind", KINDS)
def test_neither_order_nor_company_changes_a_sample(kind: str):
    samples = list(enumerate(QUESTIONS * 3))
    alone = {i: apply_text_noise(text, kind, 3, sample_id=str(i)).text for i, text in samples}
    random.Random(1).shuffle(samples)
    assert {i: apply_text_noise(text, kind, 3, sample_id=str(i)).text for i, text in samples} == alone


def test_sample_dataset_and_seed_each_change_the_draws():
    def noisy(**key: object) -> str:
        return apply_text_noise(" ".join(QUESTIONS), "typo", 3, **key).text  # pyright: ignore[reportArgumentType]

    assert len({noisy(), noisy(sample_id="1"), noisy(dataset="slake"), noisy(seed=1)}) == 4
    assert noisy(sample_id="ab", dataset="c") != noisy(sample_id="a", dataset="bc")


def protected(text: str) -> list[str]:
    """Negations, sides, number words and plain numbers, in order; letters and digits mixed are what OCR makes."""
    spans = [(text[span.start : span.end].casefold(), span.invariant) for span in protected_spans(text)]
    return [part for part, invariant in spans if invariant != "acronym" and not is_mixed(part)]


def is_mixed(part: str) -> bool:
    return bool(re.search(r"\d", part) and re.search(r"[^\W\d_]", part))


@pytest.mark.parametrize("kind", KINDS)
@given(text=any_text, seed=st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_protected_words_stand_unaltered_and_none_is_made(kind: str, text: str, seed: int):
    assert protected(apply_text_noise(text, kind, 5, seed=seed).text) == protected(text)


@pytest.mark.parametrize("kind", KINDS)
def test_protected_words_of_published_questions_stand(kind: str):
    for number, text in enumerate(vqa_rad_questions()):
        noised = apply_text_noise(text, kind, 5, sample_id=str(number), dataset="vqa-rad")
        assert protected(noised.text) == protected(text)
        for span in protected_spans(text):
            touched = [slip for slip in noised.slips if slip.start < span.end and span.start < slip.end]
            assert not touched, f"{kind}: {text!r} -> {noised.text!r} alters {text[span.start : span.end]!r}"


@pytest.mark.parametrize("kind", KINDS)
def test_acronyms_stand_unaltered(kind: str):
    text = "Does the MRI or the CXR show a GI bleed on the T2 weighted image of the brain?"
    noisy = apply_text_noise(text, kind, 5, seed=3).text
    assert all(re.search(rf"\b{acronym}\b", noisy) for acronym in ("MRI", "CXR", "GI", "T2"))


def test_typo_rate_is_near_the_table_and_slips_are_mostly_one_a_word():
    texts = vqa_rad_questions()
    for severity, rate in ((1, 0.02), (2, 0.04), (3, 0.08)):
        letters = slips = doubled = hit = 0
        for number, text in enumerate(texts):
            noised = apply_text_noise(text, "typo", severity, sample_id=str(number))
            forced = noised.slips and min(slip.draw for slip in noised.slips) >= rate
            slips += 0 if forced else len(noised.slips)
            spans = protected_spans(text)
            free = [
                match
                for match in re.finditer(r"\b[^\W\d_]{4,}(?:['’]\w+)?\b", text)
                if not any(match.start() < span.end and span.start < match.end() for span in spans)
            ]
            letters += sum(len(match.group()) for match in free)
            per_word = [
                sum(match.start() <= slip.start < match.end() for slip in noised.slips) for match in free
            ]
            assert max(per_word, default=0) <= 2
            hit += sum(count > 0 for count in per_word)
            doubled += sum(count == 2 for count in per_word)
        assert 0.75 * rate < slips / letters < 1.1 * rate
        assert doubled < 0.2 * hit


@pytest.mark.parametrize(
    ("kind", "severity", "rate"), [("spacing", 3, 0.15), ("asr", 4, 0.2), ("casing", 2, 0.4)]
)
def test_word_rates_follow_the_table(kind: str, severity: int, rate: float):
    text = "which scene shows a lesion where the plane of the heart is plain to see in their main vein"
    harshest = [apply_text_noise(text, kind, 5, seed=seed) for seed in range(300)]
    counted = [apply_text_noise(text, kind, severity, seed=seed) for seed in range(300)]
    ratio = sum(len(n.slips) for n in counted) / sum(len(n.slips) for n in harshest)
    top = next(spec.strengths[4] for spec in noises() if spec.name == kind)
    assert ratio == pytest.approx(rate / top, rel=0.2)


def test_min_letters_decides_which_words_get_typos():
    text = "is it an old scan"
    assert {slip.start >= 13 for slip in apply_text_noise(text, "typo", 5).slips} == {True}
    assert any(
        slip.start < 13
        for seed in range(20)
        for slip in apply_text_noise(text, "typo", 5, seed=seed, min_letters=2).slips
    )


def test_typos_touch_neighbouring_keys_and_keep_capitals():
    for seed in range(200):
        for slip in apply_text_noise("PnEumothorax There", "typo", 5, seed=seed, min_letters=2).slips:
            if slip.operation == "substitute":
                assert slip.before.isupper() == slip.after.isupper()
                assert slip.after.lower() in QWERTY[slip.before.lower()]


def test_shorthand_takes_the_longest_phrase_and_spares_words_that_hold_it():
    noised = apply_text_noise("Does the patient have shortness of breath within the image?", "shorthand", 5)
    assert noised.text == "Does the pt have SOB within the img?"


def test_drop_shuffle_keeps_every_content_word():
    text = QUESTIONS[5]
    for seed in range(50):
        noisy = apply_text_noise(text, "drop_shuffle", 5, seed=seed).text.lower()
        assert all(word in noisy for word in ("lesion", "located", "part", "brain", "fracture"))


def test_irrelevant_sentences_hold_nothing_protected():
    assert not [sentence for sentence in IRRELEVANT if protected_spans(sentence)]


def test_irrelevant_sentences_go_between_sentences_as_many_as_the_severity():
    text = "There is a mass. Where is it?"
    for severity in (1, 2, 3, 4, 5):
        noised = apply_text_noise(text, "irrelevant", severity, seed=2)
        assert len(noised.slips) == severity
        assert "There is a mass." in noised.text
        assert "Where is it?" in noised.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["", " ", "?", "\x00", "腹部有肿块吗?", "هل هناك كتلة؟", "🫁🫁 mass 🫁", "a" * 5000, "\ud800"]
)
def test_odd_text_neither_fails_nor_breaks(kind: str, text: str):
    noised = apply_text_noise(text, kind, 5)
    assert sorted(c for c in noised.text if ord(c) > 127) == sorted(c for c in text if ord(c) > 127)


def test_what_is_protected_moves_no_slip_of_other_words():
    # Which words are protected decides which slips happen, never which draws the other words get.
    free = apply_text_noise("Is the lefz lung clear of effusion?", "typo", 3, seed=1)
    bound = apply_text_noise("Is the left lung clear of effusion?", "typo", 3, seed=1)
    later = {slip.draw for slip in free.slips if slip.start > 12}
    assert later
    assert later <= {slip.draw for slip in bound.slips}


def test_errors_name_the_cure():
    with pytest.raises(UsageError, match="did you mean 'typo'"):
        apply_text_noise("x", "typos", 1)
    with pytest.raises(UsageError, match=r"outside 1\.\.5"):
        apply_text_noise("x", "typo", 6)
    with pytest.raises(UsageError, match="negative"):
        apply_text_noise("x", "typo", 1, seed=-1)
