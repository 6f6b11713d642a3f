"""Each channel undoes its own kind of slip, the likeliest repair first, in the case of what stood there."""

from __future__ import annotations

import pytest

from imc_agents.text.channels import CHANNELS, is_odd_case, like_case, plausibility, sentences, word_spans
from imc_agents.text.edits import Edit, apply_edits
from imc_agents.text.lexicon import Lexicon

KINDS = {
    "keyboard": "typo",
    "ocr": "ocr",
    "sound": "asr",
    "spacing": "spacing",
    "casing": "casing",
    "shorthand": "shorthand",
    "relevance": "irrelevant",
}


def edits_of(channel: str, text: str, span: str, lexicon: Lexicon) -> list[Edit]:
    start = text.index(span)
    return CHANNELS[channel](text, start, start + len(span), lexicon)


@pytest.mark.parametrize(
    ("channel", "text", "span", "repaired", "within"),
    [
        ("keyboard", "Is the livwr enlarged?", "livwr", "Is the liver enlarged?", 1),
        ("keyboard", "Is the lfet lung clear?", "lfet", "Is the left lung clear?", 3),
        ("keyboard", "Is there a pnemothorax?", "pnemothorax", "Is there a pneumothorax?", 1),
        ("keyboard", "Is the kidneyy big?", "kidneyy", "Is the kidney big?", 1),
        ("keyboard", "Whta is it?", "Whta", "What is it?", 2),
        ("keyboard", "qhat is it?", "qhat", "What is it?", 4),  # a question opens with a capital
        ("keyboard", "IS THE LIVWR BIG?", "LIVWR", "IS THE LIVER BIG?", 1),
        ("ocr", "Is there a rnass?", "rnass", "Is there a mass?", 1),
        ("ocr", "Is the 1iver big?", "1iver", "Is the liver big?", 3),
        ("ocr", "Is the Iiver big?", "Iiver", "Is the liver big?", 3),  # a misread l, no capital
        ("ocr", "1s it big?", "1s", "Is it big?", 1),
        ("ocr", "Is the sku11 intact?", "sku11", "Is the skull intact?", 1),
        ("ocr", "Is the cliaphragm flat?", "cliaphragm", "Is the diaphragm flat?", 1),
        ("sound", "Is their a mass?", "their", "Is there a mass?", 4),
        ("spacing", "Is it inthe lung?", "inthe", "Is it in the lung?", 1),
        ("spacing", "Isthere a mass?", "Isthere", "Is there a mass?", 1),
        ("spacing", "Is therea mass?", "therea", "Is there a mass?", 1),
        ("spacing", "Is a ma ss seen?", "ma ss", "Is a mass seen?", 1),
        ("spacing", "What isinthe lung?", "isinthe", "What is in the lung?", 1),
        ("casing", "Is the lIVEr big?", "lIVEr", "Is the liver big?", 1),
        ("casing", "wHAT is it?", "wHAT", "What is it?", 1),
        ("shorthand", "Does the pt have pain?", "pt", "Does the patient have pain?", 1),
        ("shorthand", "Pt with pain?", "Pt", "Patient with pain?", 1),
        ("relevance", "Thank you so much. Is it big?", "Thank you so much. ", "Is it big?", 1),
        ("relevance", "Is it big? Thank you so much.", "Thank you so much.", "Is it big?", 1),
    ],
)
def test_the_repair_is_among_the_first(
    lexicon: Lexicon, channel: str, text: str, span: str, repaired: str, within: int
) -> None:
    edits = edits_of(channel, text, span, lexicon)
    assert repaired in [apply_edits(text, [edit]) for edit in edits[:within]]
    assert {edit.kind for edit in edits} == {KINDS[channel]}
    assert all(edit.slips > 0 for edit in edits)


def test_no_channel_offers_what_stands_there_already(lexicon: Lexicon) -> None:
    text = "Is there a pnemothorax or rnass inthe lung?"
    for channel in ("keyboard", "ocr", "spacing"):
        for start, end in word_spans(text):
            edits = CHANNELS[channel](text, start, end, lexicon)
            assert all(edit.after != edit.before(text) for edit in edits)
            assert len({(edit.start, edit.end, edit.after) for edit in edits}) == len(edits)


def test_more_slips_cost_more(lexicon: Lexicon) -> None:
    slips = {edit.after: edit.slips for edit in edits_of("keyboard", "the livwr", "livwr", lexicon)}
    assert slips["liver"] == 1.0  # the key beside
    doubled = {edit.after: edit.slips for edit in edits_of("keyboard", "the liverr", "liverr", lexicon)}
    assert doubled["liver"] < 1.0  # a key hit twice is the commonest slip
    far = {edit.after: edit.slips for edit in edits_of("keyboard", "the lipev", "lipev", lexicon)}
    assert far["liver"] == 2.0


def test_short_words_are_repaired_by_one_slip_only(lexicon: Lexicon) -> None:
    assert all(edit.slips < 2 for edit in edits_of("keyboard", "in teh lung", "teh", lexicon))


def test_words_that_nothing_sounds_or_looks_like_get_no_edits(lexicon: Lexicon) -> None:
    assert edits_of("sound", "Is it gyriform?", "gyriform", lexicon) == []
    assert edits_of("spacing", "Is the pneumothorax big?", "pneumothorax", lexicon) == []
    assert edits_of("shorthand", "Is the pneumothorax big?", "pneumothorax", lexicon) == []
    assert edits_of("ocr", "Is xxzzqq big?", "xxzzqq", lexicon) == []


@pytest.mark.parametrize(
    ("word", "model", "cased"),
    [
        ("liver", "LIVWR", "LIVER"),
        ("liver", "Livwr", "Liver"),
        ("liver", "livwr", "liver"),
        ("liver", "1iver", "liver"),
        ("is", "1S", "is"),  # one letter does not shout
        ("liver", "lIVWR", "liver"),
        ("a", "A", "A"),
    ],
)
def test_a_repair_takes_the_case_of_the_slip(word: str, model: str, cased: str) -> None:
    assert like_case(word, model) == cased


@pytest.mark.parametrize("word", ["lIVEr", "ABDOMinal", "wHaT", "tHe"])
def test_odd_capitals_are_seen(word: str) -> None:
    assert is_odd_case(word)


@pytest.mark.parametrize(
    "word", ["liver", "Liver", "LIVER", "McBurney", "CTs", "MRI's", "DeBakey", "T2w", "2"]
)
def test_usual_capitals_are_left_alone(word: str) -> None:
    assert not is_odd_case(word)


def test_plausibility_prefers_common_words_and_few_slips(lexicon: Lexicon) -> None:
    assert plausibility("the", 1, lexicon) > plausibility("thew", 1, lexicon)
    assert plausibility("liver", 1, lexicon) > plausibility("liver", 2, lexicon)
    assert plausibility("zzzzq", 0, lexicon) == float("-inf")


def test_words_and_sentences_cover_what_they_should() -> None:
    text = "Isn't the T2-weighted scan clear? No. He's 5 y/o!"
    words = ["Isn't", "the", "T2", "weighted", "scan", "clear", "No", "He's", "5", "y", "o"]
    assert [text[a:b] for a, b in word_spans(text)] == words
    assert "".join(text[a:b] for a, b in sentences(text)) == text
    assert len(sentences(text)) == 3
