"""Word diffs: what changed is seen with and without colour, and nothing in a text acts on the terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from imc_agents.text.edits import Edit
from imc_agents.trace.diff import edit_in_context, word_diff
from imc_agents.trace.look import Look, inert
from tests.trace.scene import QUESTION, REFINED

PLAIN = Look(colour=False)
MARKED = re.compile(r"\[-(.*?)-\]|\{\+(.*?)\+\}", re.DOTALL)


def styled(text: Text, style: str) -> list[str]:
    return [text.plain[part.start : part.end] for part in text.spans if part.style == style]


def test_without_colour_marks_say_what_changed() -> None:
    assert word_diff(QUESTION, REFINED, PLAIN).plain == (
        "Is there [-evidnce-]{+evidence+} of hypodensty in [-teh-]{+the+} [-lfet-]{+left+} lung?"
    )


def test_with_colour_removed_words_are_struck_and_added_ones_green() -> None:
    diff = word_diff(QUESTION, REFINED)
    assert styled(diff, "red strike") == ["evidnce", "teh", "lfet"]
    assert styled(diff, "bold green") == ["evidence", "the", "left"]
    assert "[-" not in diff.plain


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("same", "same", "same"),
        ("", "", ""),
        ("", "new", "{+new+}"),
        ("old", "", "[-old-]"),
        ("5  mg", "5 mg", "5[-␣␣-]{+␣+}mg"),
        ("left lung", "left\u00a0lung", r"left[-␣-]{+\xa0+}lung"),
        ("a\nb", "a b", r"a[-\n-]{+␣+}b"),
        ("[bold]x[/]", "[bold]y[/]", "[bold][-x-]{+y+}[/]"),
        ("clear \x1b[31mlung", "clear lung", r"clear [-\x1b[31mlung-]{+lung+}"),
        ("dose \u202e01 mg", "dose 10 mg", r"dose [-\u202e01-]{+10+} mg"),
        ("tic\u200btac", "tictac", r"[-tic\u200btac-]{+tictac+}"),
    ],
)
def test_invisible_changes_are_made_visible(before: str, after: str, expected: str) -> None:
    assert word_diff(before, after, PLAIN).plain == expected


def test_a_long_text_is_cropped_around_its_changes() -> None:
    filler = "no acute finding " * 200
    before = f"{filler}teh liver {filler}is lfet {filler}"
    diff = word_diff(before, before.replace("teh", "the").replace("lfet", "left"), PLAIN).plain
    assert "[-teh-]{+the+} liver" in diff
    assert "is [-lfet-]{+left+}" in diff
    assert len(diff) < 500
    assert diff.count("…") == 3


def test_a_text_replaced_as_a_whole_is_quick_and_short() -> None:
    diff = word_diff("teh liver " * 20_000, "the spleen " * 20_000, PLAIN).plain
    assert diff.startswith("[-teh liver")
    assert "the spleen" in diff
    assert len(diff) < 1000
    assert "characters" in diff


def test_uncropped_text_is_complete() -> None:
    before = "clear lungs " * 300 + "teh end"
    diff = word_diff(before, before.replace("teh", "the"), PLAIN, crop=False).plain
    assert diff == "clear lungs " * 300 + "[-teh-]{+the+} end"


@pytest.mark.parametrize("width", [5, 24, 30, 40, 50, 60, 200])
def test_an_edit_shows_the_words_around_it_that_fit(width: int) -> None:
    start = QUESTION.index("hypodensty")
    text, column = edit_in_context(QUESTION, Edit(start, start + 10, "hypodensity"), width, PLAIN)
    change = "[-hypodensty-]{+hypodensity+}"
    assert text.plain[column:].startswith(change)
    assert len(text.plain) <= max(width, len(change))
    around = text.plain.replace(change, "hypodensty").strip("…")
    assert around in QUESTION
    if width == 200:
        assert around == QUESTION


def test_ascii_consoles_get_ascii() -> None:
    assert inert("µg 清\x07", Look(ascii_only=True)) == r"\xb5g \u6e05\x07"
    assert word_diff("a " * 300 + "x", "a " * 300 + "y", Look(False, True)).plain.isascii()


texts = st.text(st.characters(codec=None), max_size=60) | st.text(
    "ab \t\n\x1b\x9b[]{}+-\u202e\u2066\u200d\ufe0f\ud800é清👩🏽\u0301", max_size=40
)


@settings(max_examples=200, deadline=None)
@given(texts, texts, st.booleans(), st.booleans())
def test_no_text_reaches_the_terminal_unescaped(
    before: str, after: str, colour: bool, ascii_only: bool
) -> None:
    look = Look(colour, ascii_only)
    shown = word_diff(before, after, look).plain
    assert shown == inert(shown, look), "nothing is left to escape"
    assert not set("\x1b\x9b\u202e\n") & set(shown)
    if not colour and not ascii_only and not set("[]{}+-␣…") & set(before + after):
        old = MARKED.sub(lambda m: m[1] or "", shown)
        new = MARKED.sub(lambda m: m[2] or "", shown)
        assert (old.replace("␣", " "), new.replace("␣", " ")) == (inert(before, look), inert(after, look))


@settings(max_examples=200, deadline=None)
@given(texts, st.data())
def test_any_edit_can_be_shown_at_any_width(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    width = data.draw(st.integers(-5, 120))
    shown, column = edit_in_context(text, Edit(start, end, data.draw(texts)), width, PLAIN)
    assert 0 <= column <= max(width, 0) + 1
    assert shown.plain == inert(shown.plain, PLAIN)
