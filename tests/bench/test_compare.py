"""Two runs beside each other: pairs, wins and losses by hand, answers that turned, and what cannot be compared."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from imc_agents.bench.outcomes import Outcome
from imc_agents.bench.report.answers import METRICS, score
from imc_agents.bench.report.compare import compare_runs
from imc_agents.bench.report.compare_sheets import (
    COMPARED_FIELDS,
    comparison_document,
    comparison_record,
    comparison_rows,
)
from imc_agents.bench.report.records import csv_text, json_text
from imc_agents.bench.report.stats import mcnemar
from imc_agents.errors import UsageError
from tests.bench.made_runs import made_run, part_of

FIRST = made_run(50, severities=(3,), name="before")
SECOND = made_run(50, severities=(3,), name="after", seed=1, failures=0.05)


def key(outcome: Outcome) -> tuple[str, str, int, str]:
    return outcome.method, outcome.noise, outcome.severity, outcome.sample


def test_wins_losses_and_p_by_hand() -> None:
    found = compare_runs(FIRST, SECOND)
    second = {key(outcome): outcome for outcome in SECOND.outcomes}
    counted: Counter[tuple[str, str, str]] = Counter()
    for outcome in FIRST.outcomes:
        one, other = (score(o, METRICS["accuracy"]) for o in (outcome, second[key(outcome)]))
        if one is not None and other is not None and one != other:
            counted[outcome.method, outcome.noise, "win" if other > one else "loss"] += 1
    rows = [row for row in found.rows if row.metric == "accuracy"]
    assert {row.noise for row in rows} == {"clean", "typo", "ocr", "gaussian", "mean"}
    for row in rows:
        if row.noise != "mean":
            wins, losses = (counted[row.method, row.noise, what] for what in ("win", "loss"))
            assert (row.test.wins, row.test.losses) == (wins, losses)
            assert row.test.p == pytest.approx(mcnemar(wins, losses))
            assert row.second - row.first == pytest.approx(row.test.difference)
        assert row.p >= row.test.p
    assert any(row.test.left_out for row in rows)
    recall = METRICS["recall"]
    scores = [(score(outcome, recall), score(second[key(outcome)], recall)) for outcome in FIRST.outcomes]
    turned = sum(one != other for one, other in scores if one is not None and other is not None)
    assert found.flipped == sum(counted.values()) + turned


def test_a_run_equals_itself() -> None:
    found = compare_runs(FIRST, replace(FIRST, name="again"))
    assert found.flipped == 0
    assert all(row.test.p == 1 and row.test.difference == 0 for row in found.rows)
    assert "No answer turned." in comparison_document(found).remarks


def test_what_only_one_run_holds_is_left_out_and_said() -> None:
    fewer = part_of(SECOND, [outcome for outcome in SECOND.outcomes if outcome.noise != "ocr"])
    found = compare_runs(FIRST, fewer)
    lost = sum(outcome.noise == "ocr" for outcome in FIRST.outcomes)
    assert found.only == {"first": lost, "second": 0}
    assert "ocr" not in {row.noise for row in found.rows}
    remarks = comparison_document(found).remarks
    assert f"Left out: {lost:,} outcomes that only before holds." in remarks
    assert any(remark.startswith("Incomplete: after") for remark in remarks)


def test_answers_that_turned_are_quoted_in_turns_and_bounded() -> None:
    found = compare_runs(FIRST, SECOND, "imc", flips=4)
    assert {row.method for row in found.rows} == {"imc"}
    changes = [flip.second_score - flip.first_score for flip in found.flips]
    assert [change < 0 for change in changes] == [True, False, True, False]
    document = comparison_document(found)
    assert len(document.items) == 4
    for item, flip in zip(document.items, found.flips, strict=True):
        fields = dict(item.fields)
        assert fields["question"] == flip.first.question
        assert fields["gold"] == flip.first.answer
        assert fields["reply A"] == flip.first.reply
        assert fields["reply B"] == (flip.second.reply or f"({flip.second.status})")
        assert ("noisy" in fields) == (flip.first.modality == "text")
    assert compare_runs(FIRST, SECOND, "imc", flips=0).flips == ()


def test_two_models_are_compared_where_each_run_holds_one() -> None:
    other = replace(SECOND, outcomes=tuple(replace(o, model="tuned") for o in SECOND.outcomes))
    found = compare_runs(FIRST, other)
    assert found.pairs == len(FIRST.outcomes)
    assert {row.model for row in found.rows} == {"made against tuned"}


def test_runs_of_one_name_are_told_apart_by_their_folders() -> None:
    again = replace(SECOND, name="before", folder=SECOND.folder)
    found = compare_runs(FIRST, again)
    assert (found.first, found.second) == ("before", "after")


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(UsageError, match=r"before has no method 'imcs'; did you mean 'imc'\?"):
        compare_runs(FIRST, SECOND, "imcs")
    elsewhere = replace(SECOND, outcomes=tuple(replace(o, dataset="other_set") for o in SECOND.outcomes))
    with pytest.raises(UsageError, match=r"no outcome in common: before holds made; made_set; .*other_set"):
        compare_runs(FIRST, elsewhere)
    changed = replace(SECOND, outcomes=tuple(replace(o, question="Other?") for o in SECOND.outcomes))
    with pytest.raises(UsageError, match="'q0' of made_set is not the same question in both"):
        compare_runs(FIRST, changed)


def test_a_run_that_has_not_begun_is_named() -> None:
    with pytest.raises(UsageError, match="late: no outcome yet; look again"):
        compare_runs(made_run(3), part_of(made_run(3, name="late"), []))


def test_data_formats_hold_all_rows() -> None:
    found = compare_runs(FIRST, SECOND, flips=2)
    lines = csv_text(list(comparison_rows(found)), COMPARED_FIELDS).splitlines()
    assert len(lines) == 1 + len(found.rows)
    record = json.loads(json_text(comparison_record(found)))
    assert len(record["rows"]) == len(found.rows)
    assert len(record["flips"]) == 2
    assert record["flips"][0]["first"]["reply"] == found.flips[0].first.reply
