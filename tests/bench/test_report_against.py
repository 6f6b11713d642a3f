"""Errors of a run in per cent of another run's: by hand, why there are none, and runs that do not go together."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from imc_agents.bench.outcomes import BenchRun
from imc_agents.bench.report.against import Against, errors_against
from imc_agents.bench.report.html import html
from imc_agents.bench.report.markup import latex, markdown
from imc_agents.bench.report.records import csv_text, json_text, nested, tidy_rows
from imc_agents.bench.report.robustness import Robustness
from imc_agents.bench.report.sheets import report_document
from imc_agents.bench.report.summary import summarise_run
from imc_agents.errors import UsageError
from tests.bench.made_images import CLASSES, made_images
from tests.bench.made_runs import made_run

RUN = made_images(40, methods=("none", "both"), name="tuned")
OTHER = made_images(40, methods=("none", "adapt"), model="openai", seed=3, name="openai")


def right(run: BenchRun, method: str, noise: str, severity: int, *, balanced: bool) -> float:
    outcomes = [o for o in run.outcomes if (o.method, o.noise, o.severity) == (method, noise, severity)]
    groups = [[o for o in outcomes if o.answer == one] for one in CLASSES] if balanced else [outcomes]
    shares = [sum(o.reply == o.answer for o in group) / len(group) for group in groups]
    return sum(shares) / len(shares)


def row_of(found: Against, metric: str, method: str) -> Robustness:
    return next(row for row in found.rows if (row.metric, row.method) == (metric, method)).errors


@pytest.mark.parametrize(("metric", "balanced"), [("ce", False), ("be", True)])
def test_errors_by_hand(metric: str, balanced: bool) -> None:
    def error(run: BenchRun, method: str, noise: str) -> float:
        steps = (0,) if noise == "clean" else (1, 5)
        return sum(1 - right(run, method, noise, step, balanced=balanced) for step in steps) / len(steps)

    found = row_of(errors_against(RUN, OTHER, "adapt"), metric, "both")
    each = [100 * error(RUN, "both", n) / error(OTHER, "adapt", n) for n in ("blur", "fog")]
    added = [
        100
        * (error(RUN, "both", n) - error(RUN, "both", "clean"))
        / (error(OTHER, "adapt", n) - error(OTHER, "adapt", "clean"))
        for n in ("blur", "fog")
    ]
    assert [found.absolute[noise].value for noise in ("blur", "fog")] == pytest.approx(each)
    assert [found.relative[noise].value for noise in ("blur", "fog")] == pytest.approx(added)
    assert found.mean.value == pytest.approx(sum(each) / 2)
    assert found.relative_mean.value == pytest.approx(sum(added) / 2)
    assert found.clean.value == pytest.approx(
        100 * error(RUN, "both", "clean") / error(OTHER, "adapt", "clean")
    )


def test_a_run_against_itself_is_a_hundred() -> None:
    found = errors_against(RUN, RUN)
    for metric in ("ce", "be"):
        errors = row_of(found, metric, "none")
        assert errors.mean.value == errors.relative_mean.value == pytest.approx(100)
    assert found.run == "tuned"
    assert found.remarks == ()


def test_what_does_not_exist_has_a_reason() -> None:
    fewer = replace(
        OTHER,
        complete=False,
        outcomes=tuple(o for o in OTHER.outcomes if not (o.noise == "fog" and o.severity == 5)),
    )
    easy = replace(
        fewer,
        outcomes=tuple(replace(o, reply=o.answer) if o.noise == "blur" else o for o in fewer.outcomes),
    )
    found = errors_against(RUN, easy)
    errors = row_of(found, "ce", "both")
    assert errors.absolute["fog"].reason == "no baseline at severity 5"
    assert "the baseline's error is 0, not positive" in (errors.absolute["blur"].reason or "")
    assert errors.mean.value is None
    report = replace(summarise_run(RUN, ["accuracy"]), against=found)
    text = markdown(report_document(report))
    assert "fog: no baseline at severity 5." in text
    assert "mean: without blur, fog." in text
    assert "openai is not finished" in text


def test_questions_have_corruption_errors_only() -> None:
    run, other = made_run(30, severities=(1, 5)), made_run(30, severities=(1, 5), seed=1, name="other")
    found = errors_against(run, other, "sms")
    assert {row.metric for row in found.rows} == {"ce"}
    assert set(found.rows[0].errors.absolute) == {"typo", "ocr", "gaussian"}
    assert "CE from accuracy: " in markdown(
        report_document(replace(summarise_run(run, ["ce"]), against=found))
    )


def test_every_format_shows_it() -> None:
    found = errors_against(RUN, OTHER)
    report = replace(summarise_run(RUN, ["accuracy"]), against=found)
    document = report_document(report)
    title = "Errors in % of those of openai, none (run openai) · clip · made_images"
    (sheet,) = [sheet for sheet in document.sheets if sheet.title == title]
    assert [name for name, _ in sheet.rows] == [
        f"{method} {figure}" for figure in ("CE", "rCE", "BE", "rBE") for method in ("none", "both")
    ]
    assert [head.name for head in sheet.columns] == ["blur", "fog", "mean", "clean"]
    shown = f"{row_of(found, 'be', 'both').mean.value:.1f}"
    for text in (markdown(document), latex(document), html(document)):
        assert "both rBE" in text
        assert shown in text
    rows = list(csv.DictReader(io.StringIO(csv_text(list(tidy_rows(report))))))
    (row,) = [r for r in rows if (r["metric"], r["noise"], r["method"]) == ("be_against", "mean", "both")]
    assert float(row["value"]) == pytest.approx(row_of(found, "be", "both").mean.value, abs=1e-6)
    assert row["baseline"] == "openai/openai/none"
    assert {r["metric"] for r in rows} >= {"ce_against", "rce_against", "be_against", "rbe_against"}
    record = json.loads(json_text(nested(report)))["against"]
    assert record["run"] == "openai"
    assert {row["metric"] for row in record["rows"]} == {"ce", "be"}


def test_runs_that_do_not_go_together_are_named() -> None:
    with pytest.raises(UsageError, match=r"openai has no method 'adpt'; did you mean 'adapt'\?; it has none"):
        errors_against(RUN, OTHER, "adpt")
    with pytest.raises(UsageError, match="--against: made holds made_set, and tuned holds made_images; name"):
        errors_against(RUN, made_run(5))
    with pytest.raises(UsageError, match="openai: no outcome yet"):
        errors_against(RUN, replace(OTHER, outcomes=()))
    two = replace(OTHER, outcomes=OTHER.outcomes + RUN.outcomes)
    with pytest.raises(UsageError, match="--against: openai holds several models, clip, openai; name"):
        errors_against(RUN, two)
    swapped = {"no tumour": "yes", "yes": "no tumour"}
    changed = replace(
        OTHER,
        outcomes=tuple(replace(o, answer=swapped.get(o.answer, o.answer)) for o in OTHER.outcomes),
    )
    with pytest.raises(UsageError, match="of made_images has another answer in openai than in tuned"):
        errors_against(RUN, changed)
    apart = replace(OTHER, outcomes=tuple(replace(o, sample=f"x{o.sample}") for o in OTHER.outcomes))
    with pytest.raises(UsageError, match="tuned and openai have no sample of made_images in common"):
        errors_against(RUN, apart)


def test_samples_and_data_sets_that_only_one_holds_are_said() -> None:
    more = tuple(replace(o, dataset="other_set") for o in RUN.outcomes)
    found = errors_against(
        replace(RUN, outcomes=RUN.outcomes + more), made_images(44, model="openai", seed=3)
    )
    assert found.remarks == (
        "The samples of made_images are not the same: 40 and 44, 40 of them in both.",
        "images does not hold other_set.",
    )
    assert {row.dataset for row in found.rows} == {"made_images"}
