"""The tree of one question: a reader can tell who did what, why, at what cost, and what became of each edit."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_agents.refinement import STATUSES, Refinement
from imc_agents.trace.events import Called, Event, Flagged, Perceived, Proposed, SuspiciousSpan, Vetoed
from imc_agents.trace.views import sample_tree
from tests.trace.scene import (
    ALSO_RANS,
    EVENTS,
    FLAG,
    INSTRUCTIONS,
    QUESTION,
    REFINED,
    REFINEMENT,
    SAMPLE,
    SampleStub,
    assessed,
    called,
    edit,
    shown,
    words,
)

WIDTHS = [80, 100, 160]


def lines(width: int = 100) -> list[str]:
    return shown(sample_tree(SAMPLE, EVENTS), width).splitlines()


def line_with(*parts: str, width: int = 100) -> str:
    (found,) = [line for line in lines(width) if all(part in line for part in parts)]
    return " ".join(found.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_who_was_instantiated_and_why(width: int) -> None:
    text = words("\n".join(lines(width)))
    assert "supervisor instantiates 3 specialists, 1 generated" in re.sub(r" 1 call .*? ms", "", text)
    for told in (
        "catalogue · typo 0.92: four unknown words",
        "catalogue · ocr 0.11 above the floor",
        "generated · no role handles damaged radiology stems",
        f"instructions: {INSTRUCTIONS}",
    ):
        assert told in text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_decisive_parts_are_never_cut(width: int) -> None:
    text = words("\n".join(lines(width)))
    for told in (
        QUESTION,
        "noisy: typo 0.92, ocr 0.11",
        "severity ●●●○○ 3/5 · mean surprisal 7.1",
        "[-evidnce-]{+evidence+}",
        "[-hypodensty-]{+hyperdensity+}",
        "[-hypodensty-]{+hypodensity+}",
        "[-lfet-]{+left+}",
        "└ opposite_prefix: hypo to hyper would turn the finding into its opposite",
        "'hypodensty' is still not a known word",
        "✓ done · nothing left that the likelihood supports",
        f"refined {REFINED}",
        f"{FLAG} 'hypodensty' was left as it is: both readings are likely",
        "outcome ok · confidence 0.93",
        "2 rounds, 7 calls, 959+82 tok, 1.5 s",
    ):
        assert told in text
    assert all(len(line) <= width for line in lines(width))


def test_each_edit_has_its_scores_and_its_fate_in_words() -> None:
    assert line_with("evidence+}", "+14.9").endswith("+14.9 5.0 +9.9")
    assert "✓ accepted" in line_with("evidence+}", "+14.9")
    assert "⊘ vetoed" in line_with("{+hyperdensity+}"), "a veto outranks the verdict of the adjudicator"
    assert "? ambiguous" in line_with("{+hypodensity+}", "0.91")
    assert "✗ rejected" in line_with("{+felt+}")
    assert line_with("gain", "meaning").endswith("gain slip margin meaning")


def test_scores_stand_below_each_other() -> None:
    ends = {line.index("5.0") for line in lines() if re.search(r" 5\.0 +[+-]\d", line) and "0.91" not in line}
    assert len(ends) == 1


def test_the_veto_stands_below_its_edit() -> None:
    all_lines = lines()
    (at,) = [number for number, line in enumerate(all_lines) if "{+hyperdensity+}" in line]
    assert "opposite_prefix" in all_lines[at + 1]


def test_also_rans_are_counted_not_listed() -> None:
    text = "\n".join(lines())
    assert [word.after for word in ALSO_RANS if f"{{+{word.after}+}}" in text] == ["felt", "let", "leet"]
    assert "+4 more, best -4.0" in text


def test_suspicious_words_have_bars_as_long_as_their_surprisal() -> None:
    bars = {word: line_with(word, "known word", width=160).count("━") for word in ("evidnce", "teh", "lfet")}
    assert bars["evidnce"] == 10
    assert bars["evidnce"] > bars["lfet"] > bars["teh"] > 0


def test_costs_stand_at_the_right_of_the_agent() -> None:
    assert line_with("supervisor").endswith("1 call 210+38 tok 412 ms")
    assert line_with("radiology-terms").endswith("1 call 312+44 tok 980 ms")
    assert "tok" not in line_with("ocr", "no proposal")


def test_a_call_without_another_event_is_not_lost() -> None:
    text = shown(sample_tree(SAMPLE, [called("stray", tokens=(5, 0), ms=1.0)]))
    assert "stray" in text
    assert "5 tok" in text


def test_a_failed_call_is_shown_without_asking() -> None:
    failed = called("critic", tokens=(5, 0), ms=1.0).model_copy(update={"error": "connection refused"})
    assert "✗ call failed: connection refused" in shown(sample_tree(SAMPLE, [failed]))


def test_prompts_and_replies_only_on_demand() -> None:
    prompt, reply = "You restore radiology stems.", '{"edits": [{"from": "hypodensty"'
    without = shown(sample_tree(SAMPLE, EVENTS))
    assert prompt not in without
    assert reply not in without
    with_prompts = shown(sample_tree(SAMPLE, EVENTS, prompts=True))
    assert prompt in with_prompts
    assert reply in with_prompts
    below = with_prompts[with_prompts.index("radiology-terms") :]
    assert below.index("call 1 of 1: generate on default") < below.index(prompt) < below.index("adjudicator")


def test_scoring_requests_are_shown_as_texts_with_their_scores() -> None:
    request = json.dumps({"context": "Questions:\n-", "texts": [" teh\x1b liver", " the liver"]})
    calls: list[Event] = [
        called("adjudicator", tokens=(9, 0), ms=1.0, turn=turn, prompt=request, reply="[-42.25, -30.0]")
        for turn in (1, 2)
    ]
    text = words(shown(sample_tree(SAMPLE, calls, prompts=True)))
    assert text.count(r"-42.2 teh\x1b liver -30.0 the liver") == 2
    assert text.count("context Questions: -") == 1, "a context is written out once"
    assert "context as above" in text


def test_chats_are_shown_message_by_message() -> None:
    chat = json.dumps(
        [{"role": "system", "content": "You are\nthe critic."}, {"role": "user", "content": "Done?"}]
    )
    call = called("critic", tokens=(9, 2), ms=1.0, prompt=chat, reply='{"again": false}')
    text = words(shown(sample_tree(SAMPLE, [call], prompts=True)))
    assert 'system You are the critic. user Done? reply {"again": false}' in text


def test_a_call_whose_prompt_was_not_kept_says_why() -> None:
    call = called("critic", tokens=(9, 2), ms=1.0, prompt="", reply="")
    assert "not kept: run.keep_prompts was false" in shown(sample_tree(SAMPLE, [call], prompts=True))


def test_a_change_that_two_specialists_propose_points_to_where_it_was_judged() -> None:
    change = edit("teh", "the")
    events: list[Event] = [
        *(Proposed(agent=agent, round=1, text=QUESTION, edits=(change,)) for agent in ("spelling", "ocr")),
        assessed("ocr", change.model_copy(update={"kind": "ocr"}), 9.0, 4.0, "accepted"),
    ]
    sample = SampleStub(0, "a", Refinement(QUESTION, QUESTION, "unchanged"))
    first, second = [line for line in shown(sample_tree(sample, events)).splitlines() if "{+the+}" in line]
    assert "= shared" in first
    assert first.endswith("see ocr")
    assert "✓ accepted" in second


def test_a_question_that_cannot_be_judged_says_so() -> None:
    events: list[Event] = [
        Flagged(agent="perceiver", round=1, flag="unsupported_language", detail="Chinese"),
        Perceived(agent="perceiver", round=1, text="清楚吗?", clean=False),
    ]
    assert "perceiver not judged: unsupported_language" in words(shown(sample_tree(SAMPLE, events)))


def test_a_clean_question_is_a_short_tree() -> None:
    sample = SampleStub(0, "a", Refinement("Is it?", "Is it?", "unchanged", calls=1, prompt_tokens=4))
    events: list[Event] = [Perceived(agent="perceiver", round=1, text="Is it?", clean=True)]
    text = words(shown(sample_tree(sample, events)))
    assert "perceiver ✓ clean: left alone" in text
    assert "refined the original, byte for byte" in text


def test_a_text_reverted_as_a_whole_says_so() -> None:
    veto = Vetoed(
        agent="guard",
        round=1,
        role="guard",
        edit=None,
        scope="text",
        invariant="numbers",
        detail="5 mg became 50 mg",
    )
    sample = SampleStub(0, "a", Refinement("5 mg?", "5 mg?", "reverted"))
    text = words(shown(sample_tree(sample, [veto])))
    assert "guard 1 veto: numbers" in text
    assert "whole text reverted: numbers: 5 mg became 50 mg" in text
    assert "outcome reverted" in text


def test_an_error_without_events_is_told() -> None:
    failed = Refinement("?", "?", "infra_error", confidence=0, error="http://127.0.0.1: connection refused")
    assert "http://127.0.0.1: connection refused" in shown(sample_tree(SampleStub(0, "a", failed), []))


def test_a_proposal_that_nobody_assessed_is_marked() -> None:
    proposed = Proposed(agent="spelling", round=1, text=QUESTION, edits=(edit("teh", "the"),))
    text = shown(sample_tree(SAMPLE, [proposed]))
    assert "- unjudged" in text
    assert "not instantiated on record" in text


def test_more_suspicious_words_than_fit_keep_the_worst_in_text_order() -> None:
    spans = tuple(
        SuspiciousSpan(start=i, end=i + 1, text=f"w{i:02}", surprisal=float(i), reason="rare")
        for i in range(30)
    )
    event = Perceived(agent="p", round=1, text=QUESTION, clean=False, spans=spans)
    listed = re.findall(r"w\d\d", shown(sample_tree(SAMPLE, [event])))
    assert listed == [f"w{i}" for i in range(20, 30)]
    assert "+20 more" in shown(sample_tree(SAMPLE, [event]))


@pytest.mark.parametrize("width", WIDTHS)
def test_ascii_consoles_get_the_whole_tree_in_ascii(width: int) -> None:
    text = shown(sample_tree(SAMPLE, EVENTS, prompts=True), width, encoding="ascii")
    assert "+-- perceiver" in text
    assert "! vetoed" in text
    assert "`-- critic" in text


def test_with_colour_the_veto_is_red_and_the_diff_needs_no_marks() -> None:
    text = shown(sample_tree(SAMPLE, EVENTS), colour=True)
    assert re.search(r"\x1b\[1;31m⊘ vetoed", text)
    assert re.search(r"\x1b\[9;31mevidnce\x1b\[0m.*?→.*?\x1b\[1;32mevidence", text)
    assert "[-" not in text


HOSTILE = "[bold]x[/] \x1b[2J\x1b]0;t\x07 \u202eevil\u2066 \x9b31m \x00\r\n👩🏽\u200d⚕️ שלום 清楚 \ud800"


def hostile_events(text: str) -> list[Event]:
    change = edit("teh", "the").model_copy(update={"before": text, "after": text[::-1], "kind": text})
    spot = SuspiciousSpan(start=0, end=9**9, text=text, surprisal=float("nan"), reason=text)
    swapped: dict[str, object] = {
        **dict.fromkeys(("agent", "role", "reason", "instructions", "text", "before", "after"), text),
        **dict.fromkeys(("detail", "invariant", "flag", "prompt", "reply", "backend", "error"), text),
        "edit": change,
        "edits": (change,),
        "spans": (spot,),
        "noise": {text: float("inf")},
    }
    return [
        event.model_copy(
            update={name: value for name, value in swapped.items() if name in type(event).model_fields}
        )
        for event in EVENTS
    ]


def hostile_sample(text: str) -> SampleStub:
    refinement = replace(REFINEMENT, original=text, refined=text + "!", flags=(text,), error=text)
    return SampleStub(0, text, refinement)


def test_hostile_text_is_inert_everywhere() -> None:
    view = sample_tree(hostile_sample(HOSTILE), hostile_events(HOSTILE), prompts=True)
    text = shown(view, 160)
    assert not set("\x1b\x9b\u202e\u2066\x07\x00\r\u200d\ud800") & set(text)
    assert "[bold]x[/]" in text
    assert r"\x1b[2J\x1b]0;t\x07" in text
    assert r"\u202eevil\u2066" in text
    assert "清楚" in text
    assert "שלום" in text


SGR = re.compile(r"\x1b\[[0-9;]*m")


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(codec=None), max_size=60)
    | st.text("\x1b\x9b[0m\n\t ]/\u202e👩\u0301", max_size=30),
    st.sampled_from([20, 40, 80, 160]),
    st.booleans(),
)
def test_any_text_at_any_width_never_crashes_and_never_acts(text: str, width: int, colour: bool) -> None:
    view = sample_tree(hostile_sample(text), hostile_events(text), prompts=True)
    screen = shown(view, width, colour=colour)
    if colour:
        screen = SGR.sub("", screen)
    assert not set("\x1b\x9b\u202e\r\x07") & set(screen)


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_shown(status: str) -> None:
    sample = SampleStub(0, "a", replace(REFINEMENT, status=status))
    assert f"outcome {status} · confidence" in words(shown(sample_tree(sample, [])))


def test_flags_of_events_and_sample_are_shown_once() -> None:
    events: list[Event] = [Flagged(agent="g", round=turn, flag=FLAG, detail=f"d{turn}") for turn in (1, 2)]
    assert shown(sample_tree(SAMPLE, events)).count(FLAG) == 1


def test_meaning_is_a_column_only_where_a_judge_was_asked() -> None:
    change = edit("teh", "the")
    plain = [assessed("spelling", change, 9.0, 4.0, "accepted")]
    assert "meaning" not in shown(sample_tree(SAMPLE, plain))
    judged = [assessed("spelling", change, 9.0, 4.0, "accepted", meaning=0.5)]
    assert "0.50" in shown(sample_tree(SAMPLE, judged))


def test_a_huge_prompt_is_cropped_and_says_where_the_rest_is() -> None:
    long = Called.model_validate(
        called("critic", tokens=(9, 0), ms=1.0).model_dump() | {"prompt": "liver " * 50_000}
    )
    text = shown(sample_tree(SAMPLE, [long], prompts=True))
    assert len(text) < 20_000
    assert "more characters; --json has them all" in words(text)
