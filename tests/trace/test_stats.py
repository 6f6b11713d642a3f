"""Statistics over a run: the numbers add up, agree with the trees, and need one question in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_agents.refinement import Refinement
from imc_agents.trace.events import Called, Event, Vetoed
from imc_agents.trace.lines import event_record, json_line, sample_record, stats_records
from imc_agents.trace.stats import collect_stats
from imc_agents.trace.views import samples_table, stats_table
from tests.trace.scene import ALSO_RANS, EVENTS, FLAG, SAMPLE, SampleStub, called, shown, words
from tests.trace.test_tree import HOSTILE


def many(questions: int) -> Iterator[tuple[int, Event]]:
    return ((row, event) for row in range(questions) for event in EVENTS)


def test_what_became_of_each_specialist_s_proposals() -> None:
    spelling = collect_stats(many(1)).agents["spelling"]
    assert spelling.instantiated == 1
    assert spelling.proposals == 5 + len(ALSO_RANS)
    assert spelling.fates == {"accepted": 3, "vetoed": 1, "ambiguous": 1, "rejected": len(ALSO_RANS)}
    assert collect_stats(many(1)).agents["ocr"].proposals == 0


def test_costs_add_up_to_the_calls_that_were_made() -> None:
    stats = collect_stats(many(30))
    calls = [event for event in EVENTS if isinstance(event, Called)]
    total = stats.total()
    assert stats.questions == 30
    assert total.cost.calls == 30 * len(calls)
    assert total.cost.prompt_tokens == 30 * sum(call.prompt_tokens for call in calls)
    assert total.cost.completion_tokens == 30 * sum(call.completion_tokens for call in calls)
    assert total.cost.milliseconds == pytest.approx(30 * sum(call.milliseconds for call in calls))
    each = [stats.milliseconds_per_question(agent) for agent in stats.agents.values()]
    assert sum(each) == pytest.approx(stats.milliseconds_per_question(total))
    assert total.proposals == sum(agent.proposals for agent in stats.agents.values())
    assert sum(total.fates.values()) == total.proposals


def test_vetoes_are_counted_by_the_invariant_they_defend() -> None:
    text_veto = Vetoed(
        agent="guard", round=1, role="guard", edit=None, scope="text", invariant="numbers", detail=""
    )
    stats = collect_stats([*many(3), (3, text_veto)])
    assert stats.vetoed_edits == {"opposite_prefix": 3}
    assert stats.vetoed_texts == {"numbers": 1}
    assert stats.questions == 4


def test_nothing_recorded_gives_nothing() -> None:
    stats = collect_stats([])
    assert stats.questions == 0
    assert stats.milliseconds_per_question(stats.total()) == 0
    assert "0 questions" in shown(stats_table(stats))


@pytest.mark.parametrize("width", [80, 160])
def test_the_tables_show_the_numbers(width: int) -> None:
    text = words(shown(stats_table(collect_stats(many(300))), width))
    assert "300 questions with a trace" in text
    assert "specialist instantiated proposals accepted ambiguous vetoed" in text
    assert "spelling 300 3,600 900 300 300" in text
    assert "all 900 3,900 900 600 300" in text
    assert "opposite_prefix 300 0" in text
    assert "supervisor 300 63,000 11,400 2.1 min 412.0" in text
    assert "…" not in text


def test_the_records_say_the_same() -> None:
    records = [json.loads(json_line(record)) for record in stats_records(collect_stats(many(2)))]
    agents = {record["agent"]: record for record in records if record["type"] == "agent"}
    (total,) = [record for record in records if record["type"] == "total"]
    assert agents["spelling"]["accepted"] == 6
    assert agents["spelling"]["vetoed"] == 2
    for name in ("instantiated", "proposals", "accepted", "calls", "prompt_tokens", "completion_tokens"):
        assert total[name] == sum(agent[name] for agent in agents.values())
    assert total["questions"] == 2
    assert records[-1] == {
        "type": "invariant",
        "invariant": "opposite_prefix",
        "vetoed_edits": 2,
        "vetoed_texts": 0,
    }


def test_the_list_shows_each_question_as_a_diff_with_flags_and_errors() -> None:
    failed = SampleStub(
        6, "q[7]", Refinement("a\x1b[2Jb", "a\x1b[2Jb", "timeout", error="no result in 300 s")
    )
    text = words(shown(samples_table([SAMPLE, failed]), 80))
    assert "42 vqarad-0042 ok Is there [-evidnce-]{+evidence+} of" in text
    assert FLAG[:20] in text
    assert r"7 q[7] timeout a\x1b[2Jb" in text
    assert "no result in 300 s" in text


def test_an_event_record_has_prompts_only_on_demand() -> None:
    call = called("critic", tokens=(5, 1), ms=2.0, prompt="secret", reply="reply")
    without = event_record(SAMPLE, call, prompts=False)
    assert "prompt" not in without
    assert "reply" not in without
    assert without | {"prompt": "secret", "reply": "reply"} == event_record(SAMPLE, call, prompts=True)
    assert without["row_index"] == 41
    assert without["id"] == "vqarad-0042"


def test_json_lines_are_valid_lossless_and_inert() -> None:
    sample = SampleStub(0, HOSTILE, Refinement(HOSTILE, HOSTILE + "!", "ok", (HOSTILE,), float("nan")))
    line = json_line(sample_record(sample))
    assert not set("\x1b\x9b\u202e\u2066\x07\x00\r\n\u200d\ud800\x7f") & set(line)
    assert "清楚" in line, "letters of other scripts stay readable"
    read = json.loads(line)
    assert read["original"] == HOSTILE
    assert read["flags"] == [HOSTILE]
    assert read["changed"] is True
    assert read["confidence"] is None, "JSON knows no NaN"
    assert json_line(sample_record(sample), ascii_only=True).isascii()


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec=None)) | st.text("\x7f\x1b\x9b\u202e\U000e0041\ud800\udc00é"))
def test_any_text_survives_a_json_line(text: str) -> None:
    line = json_line({"text": text})
    assert line.isprintable()
    # Two halves of a surrogate pair beside each other are one character to JSON.
    assert json.loads(line)["text"].encode("utf-16", "surrogatepass") == text.encode(
        "utf-16", "surrogatepass"
    )
