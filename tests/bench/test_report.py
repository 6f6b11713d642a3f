"""The report of a run: figures by hand, what is missing and why, and every format of it."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from imc_agents.bench.outcomes import BenchRun, Outcome
from imc_agents.bench.report.answers import METRICS, score
from imc_agents.bench.report.document import Cell, Document, Head, Sheet
from imc_agents.bench.report.html import html
from imc_agents.bench.report.markup import latex, markdown
from imc_agents.bench.report.panels import Panel, Row
from imc_agents.bench.report.plots import Picture, pictures, write_pictures
from imc_agents.bench.report.records import FIELDS, csv_text, json_text, nested, tidy_rows
from imc_agents.bench.report.robustness import Errors, corruption_errors
from imc_agents.bench.report.sheets import report_document
from imc_agents.bench.report.summary import Report, summarise_run
from imc_agents.bench.report.terminal import document_view
from imc_agents.errors import UsageError
from tests.bench.made_runs import made_run, part_of


@pytest.fixture(scope="module")
def run() -> BenchRun:
    return made_run(failures=0.03)


@pytest.fixture(scope="module")
def report(run: BenchRun) -> Report:
    return summarise_run(run, ["accuracy", "recall", "ce"], "none")


@pytest.fixture(scope="module")
def drawings(report: Report) -> list[Picture]:
    return list(pictures([panel_of(report, "accuracy")]))


def panel_of(report: Report, metric: str) -> Panel:
    return next(panel for panel in report.panels if panel.metric == metric)


def row_of(panel: Panel, method: str) -> Row:
    return next(row for row in panel.rows if row.method == method)


def mean(run: BenchRun, method: str, noise: str, severity: int, metric: str = "accuracy") -> float:
    values = [
        value
        for outcome in run.outcomes
        if (outcome.method, outcome.noise, outcome.severity) == (method, noise, severity)
        and (value := score(outcome, METRICS[metric])) is not None
    ]
    return sum(values) / len(values)


def cost(run: BenchRun, method: str, noise: str, severity: int) -> float:
    """What noise takes, over questions scored with and without it."""
    scores = {
        (o.noise, o.severity, o.sample): score(o, METRICS["accuracy"])
        for o in run.outcomes
        if o.method == method
    }
    pairs = [
        (clean, noisy)
        for (name, _, sample), clean in scores.items()
        if name == "clean" and clean is not None and (noisy := scores[noise, severity, sample]) is not None
    ]
    return sum(clean - noisy for clean, noisy in pairs) / len(pairs)


def over(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def test_figures_are_means_over_severities_then_noises(run: BenchRun, report: Report) -> None:
    noises, steps = ("typo", "ocr", "gaussian"), (1, 3, 5)
    baseline = over(mean(run, "none", noise, step) for noise in noises for step in steps)
    lost = over(cost(run, "none", noise, step) for noise in noises for step in steps)
    for row in panel_of(report, "accuracy").rows:
        entries = {name: entry.estimate.value for name, entry in row.entries.items()}
        everything = over(mean(run, row.method, noise, step) for noise in noises for step in steps)
        assert entries["typo"] == pytest.approx(over(mean(run, row.method, "typo", step) for step in steps))
        assert entries["mean text"] == pytest.approx(
            over(mean(run, row.method, noise, step) for noise in ("typo", "ocr") for step in steps)
        )
        assert entries["mean"] == pytest.approx(everything)
        assert entries["clean"] == pytest.approx(mean(run, row.method, "clean", 0))
        assert entries["drop"] == pytest.approx(
            over(cost(run, row.method, noise, step) for noise in noises for step in steps)
        )
        assert row.drops["typo"].value == pytest.approx(
            over(cost(run, row.method, "typo", step) for step in steps)
        )
        assert row.severities["mean", 5].value == pytest.approx(
            over(mean(run, row.method, n, 5) for n in noises)
        )
        if row.method != "none":
            assert entries["won back"] == pytest.approx((everything - baseline) / lost)
        interval = row.entries["mean"].estimate.interval
        assert interval is not None
        assert interval.low < everything < interval.high


def test_corruption_errors_are_those_of_the_formulas() -> None:
    def errors(method: str) -> Errors:
        corrupted = {
            noise: {step: 1 - mean(run, method, noise, step) for step in (1, 3, 5)}
            for noise in ("typo", "ocr", "gaussian")
        }
        return Errors(1 - mean(run, method, "clean", 0), corrupted)

    run = made_run(40, severities=(1, 3, 5))
    report = summarise_run(run, ["ce"])
    expected = corruption_errors(errors("imc"), errors("none"))
    entries = row_of(panel_of(report, "ce"), "imc").entries
    assert entries["typo"].estimate.value == pytest.approx(expected.absolute["typo"].value)
    assert entries["mean"].estimate.value == pytest.approx(expected.mean.value)
    assert entries["rCE"].estimate.value == pytest.approx(expected.relative_mean.value)
    assert entries["clean"].estimate.value == pytest.approx(expected.clean.value)
    assert row_of(panel_of(report, "ce"), "none").entries["mean"].estimate.value == pytest.approx(100)


def test_the_better_method_is_best_and_significant(report: Report) -> None:
    entries = row_of(panel_of(report, "accuracy"), "imc").entries
    assert entries["mean"].best
    assert entries["drop"].best
    assert entries["mean"].p is not None
    assert entries["mean"].p < 0.01
    assert entries["clean"].test is not None
    assert entries["clean"].test.test == "mcnemar"
    assert entries["mean"].test is not None
    assert entries["mean"].test.test == "bootstrap"
    assert entries["clean"].p is not None
    assert entries["clean"].p > 0.05
    assert entries["won back"].test is None
    assert not row_of(panel_of(report, "accuracy"), "none").entries["typo"].best
    assert entries["mean"].p > entries["mean"].test.p  # corrected for the other tests of the table


def test_failures_are_counted_and_left_out_of_tests(run: BenchRun, report: Report) -> None:
    counts = {row.method: row for row in report.counts}
    for method, row in counts.items():
        of_method = [outcome for outcome in run.outcomes if outcome.method == method]
        assert row.outcomes == len(of_method)
        assert row.model_errors == sum(outcome.status == "model_error" for outcome in of_method)
        assert row.not_scored["timeout"] == sum(outcome.status == "timeout" for outcome in of_method)
    by_key = {
        (o.method, o.sample, o.severity): score(o, METRICS["accuracy"])
        for o in run.outcomes
        if o.noise == "typo"
    }
    half = sum(
        (by_key["none", sample, step] is None) != (by_key["imc", sample, step] is None)
        for method, sample, step in by_key
        if method == "none"
    )
    test = row_of(panel_of(report, "accuracy"), "imc").entries["typo"].test
    assert half > 0
    assert test is not None
    assert test.left_out == half


def test_restored_texts(run: BenchRun, report: Report) -> None:
    (found,) = report.restorations
    # Of a row that failed no refined text is kept, whatever became of it.
    typo = [o for o in run.outcomes if (o.noise, o.method, o.status) == ("typo", "sms", "ok")]
    exact = sum(outcome.refined == outcome.question for outcome in typo)
    assert found.rows["sms"]["typo"].texts == len(typo)
    assert found.rows["sms"]["typo"].exact == pytest.approx(exact / len(typo))
    # One of eleven words is wrong in what was not restored.
    assert found.rows["sms"]["typo"].word_error_rate == pytest.approx((len(typo) - exact) / len(typo) / 11)
    assert found.rows["none"]["typo"].word_error_rate_before == pytest.approx(1 / 11)
    assert found.rows["sms"]["clean"].exact == 1
    assert "gaussian" not in found.noises


def test_what_is_not_there_is_said(run: BenchRun) -> None:
    # sms never saw the image noise, and half of imc's typos are still to come.
    kept = [
        outcome
        for outcome in run.outcomes
        if not (outcome.method == "sms" and outcome.modality == "image")
        and not (outcome.method == "imc" and outcome.noise == "typo" and outcome.sample > "q30")
    ]
    report = summarise_run(part_of(run, kept), ["accuracy"], "none")
    (panel,) = report.panels
    sms, imc = row_of(panel, "sms").entries, row_of(panel, "imc").entries
    assert sms["mean"].estimate.value is None
    assert "sms was not scored on all of typo, ocr, gaussian" in (sms["mean"].estimate.reason or "")
    assert sms["mean text"].estimate.value is not None
    assert sms["won back"].estimate.value is not None
    assert imc["typo"].estimate.partial
    assert not imc["ocr"].estimate.partial
    document = report_document(report)
    assert document.remarks[0].startswith(f"Incomplete: {len(kept):,} of {len(run.outcomes):,} outcomes")
    assert any("†" in line for line in drawn(document, 200).splitlines())


def test_questions_without_an_image_are_not_missed_under_noise_of_images(run: BenchRun) -> None:
    def has_image(outcome: Outcome) -> bool:
        return outcome.sample.endswith(("1", "3", "5", "7", "9"))

    kept = [outcome for outcome in run.outcomes if outcome.modality != "image" or has_image(outcome)]
    report = summarise_run(part_of(run, kept), ["accuracy"])
    entries = row_of(report.panels[0], "imc").entries
    assert not any(entry.estimate.partial for entry in entries.values())
    # What image noise costs is measured on questions that have an image.
    with_image = replace(run, outcomes=tuple(outcome for outcome in kept if has_image(outcome)))
    expected = over(cost(with_image, "imc", "gaussian", step) for step in (1, 3, 5))
    assert row_of(report.panels[0], "imc").drops["gaussian"].value == pytest.approx(expected)


def test_a_run_of_which_nothing_was_scored_is_reported_as_that() -> None:
    run = made_run(4, severities=(1,))
    lost = [replace(outcome, reply=None, status="data_error") for outcome in run.outcomes]
    document = report_document(summarise_run(replace(run, outcomes=tuple(lost)), ["accuracy"]))
    shown = drawn(document, 200)
    assert "none was not scored on all of typo" in shown
    assert "data_error" in shown


def test_a_noise_that_costs_nothing_leaves_nothing_to_win_back() -> None:
    run = made_run(40, methods=("none", "imc"), severities=(1,))
    easy = [replace(outcome, reply=outcome.answer) for outcome in run.outcomes]
    report = summarise_run(replace(run, outcomes=tuple(easy)), ["accuracy", "ce"], "none")
    entry = row_of(panel_of(report, "accuracy"), "imc").entries["won back"]
    assert entry.estimate.value is None
    assert entry.estimate.reason == "the noises cost none nothing"
    assert not any(found.best for row in report.panels[0].rows for found in row.entries.values())
    assert row_of(panel_of(report, "ce"), "imc").entries["typo"].estimate.value is None


def test_the_order_of_outcomes_changes_no_byte() -> None:
    run = made_run(20, severities=(1, 5), failures=0.03)
    shuffled = list(run.outcomes)
    random.Random(0).shuffle(shuffled)
    texts: list[list[str]] = []
    for outcomes in (run.outcomes, shuffled):
        report = summarise_run(replace(run, outcomes=tuple(outcomes)), ["accuracy", "recall"], "none")
        document = report_document(report, severities=True)
        texts.append(
            [
                markdown(document),
                latex(document),
                html(document),
                csv_text(list(tidy_rows(report))),
                json_text(nested(report)),
                drawn(document, 100),
            ]
        )
    assert texts[0] == texts[1]


def drawn(document: Document, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(document_view(document, width))
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 60, 100, 160])
def test_nothing_is_cut_on_any_terminal(report: Report, width: int) -> None:
    text = drawn(report_document(report), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    heads = re.findall(r"\S+", text)
    for name in ("typo", "ocr", "gaussian", "clean", "drop"):
        assert name in heads


def test_severities_give_a_table_for_each_noise(report: Report) -> None:
    titles = [sheet.title for sheet in report_document(report, severities=True).sheets]
    assert sum("by severity, gaussian" in title for title in titles) == len(report.panels)
    assert not any("by severity, gaussian" in sheet.title for sheet in report_document(report).sheets)
    assert any("by severity, mean over noises" in sheet.title for sheet in report_document(report).sheets)


HOSTILE = Document(
    "50% of <b>it</b>",
    (),
    (
        Sheet(
            "a_b & c|d",
            "method",
            (Head("x_1", "text"), Head("y", "")),
            (("m$1", (Cell("81.2", "78–84", "**", best=True), Cell("3", partial=True))),),
            ("p < 0.05 #1 \\ {x} ~ ^",),
        ),
    ),
)


def test_latex_is_booktabs_and_escaped() -> None:
    text = latex(HOSTILE)
    assert r"\toprule" in text
    assert r"\bottomrule" in text
    assert r"\multicolumn{1}{c}{text}" in text
    assert r"m\$1 & \textbf{81.2}$^{**}$ & 3$^{\dagger}$ \\" in text
    assert r"a\_b \& c\textbar{}d." in text
    assert r"\textless{} 0.05 \#1 \textbackslash{} \{x\} \textasciitilde{} \textasciicircum{}" in text
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    columns = re.search(r"\\begin\{tabular\}\{(l r*|lr*)\}", body)
    assert columns is not None
    rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns[1]) - 1}


def test_markdown_is_a_pipe_table() -> None:
    lines = markdown(HOSTILE).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert r"| m$1 | **81.2**\*\* (78–84) | 3† |" in rows
    assert r"\<b\>" in lines[0]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_html_stands_alone(report: Report, drawings: list[Picture]) -> None:
    text = html(report_document(report), [(picture.title, picture.svg) for picture in drawings])
    page = _Page()
    page.feed(text)
    assert page.open == []
    tags = [tag for tag, _ in page.seen]
    assert tags.count("svg") == 2
    assert "script" not in tags
    assert "link" not in tags
    for _, attributes in page.seen:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith("#")
    ids = [attributes["id"] for tag, attributes in page.seen if tag == "clippath"]
    assert len(ids) == len(set(ids))
    assert "50% of &lt;b&gt;it" in html(HOSTILE)


def test_csv_is_tidy_and_json_has_everything(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(list(tidy_rows(report))))))
    assert tuple(rows[0]) == FIELDS
    keys = [tuple(row[name] for name in FIELDS[:6]) for row in rows]
    assert len(keys) == len(set(keys))
    assert ("made", "made_set", "typo", "5", "imc", "accuracy") in keys
    assert ("made", "made_set", "typo", "all", "imc", "word_error_rate") in keys
    found = json.loads(json_text(nested(report)))
    panel = next(panel for panel in found["panels"] if panel["metric"] == "accuracy")
    imc = next(row for row in panel["rows"] if row["method"] == "imc")
    (csv_row,) = (
        row for row in rows if tuple(row[n] for n in FIELDS[2:6]) == ("typo", "all", "imc", "accuracy")
    )
    assert imc["entries"]["typo"]["estimate"]["value"] == float(csv_row["value"])
    assert imc["entries"]["typo"]["p"] == float(csv_row["p_holm"])
    assert set(imc["severities"]["typo"]) == {"1", "3", "5"}
    assert {row["method"] for row in found["counts"]} == {"none", "sms", "imc"}


def test_pictures_are_the_same_bytes_and_readable(
    report: Report, drawings: list[Picture], tmp_path: Path
) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "other"}):
        assert drawings == list(pictures([panel_of(report, "accuracy")]))
    assert [picture.name for picture in drawings] == [
        "made-made_set-accuracy-severity",
        "made-made_set-accuracy-noises",
    ]
    files = write_pictures(drawings, tmp_path)
    assert [file.suffix for file in files] == [".png", ".svg"] * 2
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as image:
                assert image.width > 600
                colours = image.convert("RGB").getcolors(1 << 20)
                assert colours is not None
                assert len(colours) > 20
        else:
            assert ET.parse(file).getroot().tag.endswith("svg")


def test_what_cannot_be_reported_is_said(run: BenchRun) -> None:
    with pytest.raises(UsageError, match=r"unknown 'acuracy'; did you mean 'accuracy'"):
        summarise_run(run, ["acuracy"], "none")
    with pytest.raises(UsageError, match=r"no method 'imcc'; did you mean 'imc'\?; it has none, sms, imc"):
        summarise_run(run, ["accuracy"], "imcc")
    with pytest.raises(UsageError, match="no outcome yet"):
        summarise_run(part_of(run, []), ["accuracy"], "none")
    closed = [outcome for outcome in run.outcomes if outcome.kind == "closed"]
    with pytest.raises(UsageError, match="none of recall is for the questions of made, which are closed"):
        summarise_run(part_of(run, closed), ["recall"], "none")


def test_a_run_without_the_usual_baseline_takes_its_first_method() -> None:
    run = made_run(20, methods=("sms", "imc"), severities=(3,))
    assert summarise_run(run, ["accuracy"]).baseline == "sms"
    assert summarise_run(made_run(20, severities=(3,)), ["accuracy"]).baseline == "none"


def test_models_and_data_sets_have_tables_of_their_own(run: BenchRun) -> None:
    def other(outcome: Outcome) -> Outcome:
        return replace(outcome, model="another")

    both = replace(run, outcomes=(*map(other, run.outcomes), *run.outcomes))
    report = summarise_run(both, ["accuracy"], "none")
    assert [panel.model for panel in report.panels] == ["another", "made"]
    assert replace(report.panels[0], model="made") == report.panels[1]
