"""What is looked at: words that are no words at any surprisal, known words only where the model is surprised."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from imc_agents.agents.perceive import lexicon_costs
from imc_agents.config.load import resolve
from imc_agents.models.protocol import TokenScore
from imc_agents.text.channels import word_spans
from imc_agents.text.lexicon import Lexicon
from imc_agents.text.suspicion import Suspicion, Thresholds, find_suspicions, span_surprisal
from tests.noise.questions import QUESTIONS, vqa_rad_questions

CONFIG = resolve().config
SETTINGS = CONFIG.sms.perceive
THRESHOLDS = Thresholds(
    SETTINGS.web_word_nats,
    SETTINGS.known_word_nats,
    SETTINGS.alike_nats,
    SETTINGS.noisy_discount_nats,
    lexicon_costs(CONFIG),
)
FLAT = 2.0  # nats a word: what a model gives to a word that it expects


def look(
    text: str, lexicon: Lexicon, surprising: Iterable[str] = (), protected: Iterable[str] = ()
) -> list[Suspicion]:
    """Suspicions where every word is expected but the surprising ones, which take 30 nats."""
    return find_suspicions(
        text,
        lambda start, end: sum(
            30.0 if text[a:b] in surprising else FLAT for a, b in word_spans(text) if a < end and start < b
        ),
        lexicon,
        THRESHOLDS,
        covers(text, protected),
    )


def covers(text: str, words: Iterable[str]) -> Callable[[int, int], bool]:
    spans = [(text.index(word), text.index(word) + len(word)) for word in words]
    return lambda start, end: any(start < stop and begin < end for begin, stop in spans)


def words_of(text: str, found: list[Suspicion]) -> list[str]:
    return [text[s.start : s.end].strip() for s in found]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_clean_question_that_the_model_expects_holds_nothing(lexicon: Lexicon, question: str) -> None:
    assert look(question, lexicon) == []


def test_published_questions_that_the_model_expects_hold_next_to_nothing(lexicon: Lexicon) -> None:
    questions = vqa_rad_questions()
    marked = [q for q in questions if any(s.misspelt for s in look(q, lexicon))]
    assert len(marked) <= 0.03 * len(questions)  # the data set has slips of its own


@pytest.mark.parametrize(
    ("text", "span", "kind"),
    [
        ("Is there a pnemothorax?", "pnemothorax", "typo"),
        ("Is there a rnass in it?", "rnass", "ocr"),
        ("Is the 1iver big?", "1iver", "ocr"),
        ("Is it inthelung?", "inthelung", "spacing"),
        ("Is a ma ss seen?", "ma ss", "spacing"),
        ("Does the pt have pain?", "pt", "shorthand"),
        ("Have a nice day everyone. Where is the fracture?", "Have a nice day everyone.", "irrelevant"),
    ],
)
def test_slips_that_leave_no_word_are_seen_whatever_the_model_says(
    lexicon: Lexicon, text: str, span: str, kind: str
) -> None:
    found = look(text, lexicon)
    assert words_of(text, found) == [span]
    assert kind in found[0].kinds
    assert found[0].reason


@pytest.mark.parametrize(
    ("text", "word", "kind"),
    [
        ("Is it form the left side?", "form", "typo"),
        ("Is their a mass in it?", "their", "asr"),
    ],
)
def test_known_words_are_looked_at_only_where_they_surprise(
    lexicon: Lexicon, text: str, word: str, kind: str
) -> None:
    assert look(text, lexicon) == []
    (found,) = look(text, lexicon, surprising=[word])
    assert text[found.start : found.end] == word
    assert kind in found.kinds
    assert not found.misspelt


def test_a_known_word_is_trusted_less_beside_a_misspelt_one(lexicon: Lexicon) -> None:
    def seen(text: str) -> set[float]:
        """From which surprisal of "form" on it is looked at."""
        at = text.index("form")
        return {
            nats
            for nats in range(5, 30)
            for s in find_suspicions(
                text,
                lambda start, end, nats=nats: nats if start == at else FLAT,
                lexicon,
                THRESHOLDS,
                lambda *_: False,
            )
            if s.start == at
        }

    assert min(seen("Is it form teh left lnug?")) < min(seen("Is it form the left lung?"))


@pytest.mark.parametrize(
    "text",
    [
        "Is the L4 disc normal on T2?",
        "Was 5 mg given at 120/80 after 3h?",
        "Is the 2nd rib broken?",
        "Is the MRI better than the CT?",
        "Où est-ce naïve 左肺?",
    ],
)
def test_codes_numbers_acronyms_and_other_scripts_are_no_slips(lexicon: Lexicon, text: str) -> None:
    assert not any(s.misspelt and text[s.start : s.end].isascii() for s in look(text, lexicon))


def test_protected_spans_are_never_looked_at(lexicon: Lexicon) -> None:
    text = "Is the zyqqor near the pnemothorax?"
    assert words_of(text, look(text, lexicon)) == ["zyqqor", "pnemothorax"]
    assert words_of(text, look(text, lexicon, protected=["zyqqor"])) == ["pnemothorax"]


def test_sentences_with_anything_clinical_stay(lexicon: Lexicon) -> None:
    for said in (
        "The patient has cancer.",
        "He denies pain.",
        "It is 5 cm wide.",
        "There is no fever today.",
    ):
        assert look(f"{said} Where is the fracture?", lexicon) == []


def test_spans_are_in_order_and_apart(lexicon: Lexicon) -> None:
    text = "Whta is inthe ma ss of teh pt pnemothorax? Have a nice day everyone."
    found = look(text, lexicon, surprising=["is", "of"])
    assert len(found) >= 6
    for left, right in pairwise(found):
        assert left.end <= right.start


def test_a_kind_without_a_specialist_is_not_looked_for(lexicon: Lexicon) -> None:
    text = "Does the pt have pain inthe chest?"
    thresholds = Thresholds(3.0, 2.0, 9.0, 4.0, {"typo": 6.0})
    found = find_suspicions(text, lambda *_: FLAT, lexicon, thresholds, lambda *_: False)
    assert {kind for s in found for kind in s.kinds} <= {"typo"}
    assert "pt" not in words_of(text, found)


def test_the_surprisal_of_a_span_is_that_of_the_tokens_that_touch_it() -> None:
    tokens = (TokenScore(0, 3, -1.0), TokenScore(3, 7, -2.0), TokenScore(7, 9, -4.0))  # of " Is the lu"
    assert span_surprisal(tokens, 3, 6, 1) == 2.0
    assert span_surprisal(tokens, 3, 7, 1) == 6.0
    assert span_surprisal(tokens, 0, 2, 1) == 1.0
