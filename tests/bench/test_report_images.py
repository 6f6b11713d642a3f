"""Reports of image classification: balanced accuracy, area under the ROC curve and balanced errors, by brute force."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from imc_agents.bench.outcomes import BenchRun, Outcome
from imc_agents.bench.report.answers import METRICS, score
from imc_agents.bench.report.areas import area_gaps, areas
from imc_agents.bench.report.bootstrap import bootstrap_means, column_means, divided, draws
from imc_agents.bench.report.compare import compare_runs
from imc_agents.bench.report.compare_sheets import COMPARED_FIELDS, comparison_document, comparison_rows
from imc_agents.bench.report.html import html
from imc_agents.bench.report.markup import latex, markdown
from imc_agents.bench.report.measures import DEFAULT, REPORTED
from imc_agents.bench.report.panels import Panel, Row, make_panel
from imc_agents.bench.report.plots import pictures
from imc_agents.bench.report.records import FIELDS, csv_text, json_text, nested, tidy_rows
from imc_agents.bench.report.sheets import report_document
from imc_agents.bench.report.stats import gap_tests
from imc_agents.bench.report.summary import Report, summarise_run
from imc_agents.errors import UsageError
from tests.bench.made_images import CLASSES, made_images
from tests.bench.made_runs import made_run

METHODS = ("none", "adapt", "calibrate", "both")
Counts = Mapping[str, float]
"""How often each sample was drawn."""
Figure = Callable[[Sequence[Outcome]], float]


@pytest.fixture(scope="module")
def run() -> BenchRun:
    return made_images(failures=0.03)


@pytest.fixture(scope="module")
def report(run: BenchRun) -> Report:
    return summarise_run(run, [*DEFAULT, "be"])


def panel_of(report: Report, metric: str) -> Panel:
    return next(panel for panel in report.panels if panel.metric == metric)


def row_of(panel: Panel, method: str) -> Row:
    return next(row for row in panel.rows if row.method == method)


def cell(run: BenchRun, method: str, noise: str, severity: int) -> list[Outcome]:
    """The outcomes of a cell that have a reply."""
    return [
        outcome
        for outcome in run.outcomes
        if (outcome.method, outcome.noise, outcome.severity) == (method, noise, severity)
        and outcome.reply is not None
    ]


def recalls(outcomes: Sequence[Outcome], drawn: Counts | None = None) -> float:
    """Balanced accuracy, class by class and sample by sample."""
    found: list[float] = []
    for one in CLASSES:
        of_class = [outcome for outcome in outcomes if outcome.answer == one]
        weights = [1.0 if drawn is None else drawn[outcome.sample] for outcome in of_class]
        right = [w for w, outcome in zip(weights, of_class, strict=True) if outcome.reply == one]
        found.append(sum(right) / sum(weights) if sum(weights) else float("nan"))
    return sum(found) / len(found)


def pairs_won(outcomes: Sequence[Outcome], drawn: Counts | None = None) -> float:
    """The area of each class against the rest, pair by pair, and the mean."""
    found: list[float] = []
    for one in CLASSES:
        won = total = 0.0
        for hit in (outcome for outcome in outcomes if outcome.answer == one):
            for rest in (outcome for outcome in outcomes if outcome.answer != one):
                weight = 1.0 if drawn is None else drawn[hit.sample] * drawn[rest.sample]
                high, low = (o.scores[o.options.index(one)] for o in (hit, rest))
                won += weight * ((high > low) + (high == low) / 2)
                total += weight
        found.append(won / total if total else float("nan"))
    return sum(found) / len(found)


def shared(first: Sequence[Outcome], second: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """The outcomes of both on samples that both have."""
    one, other = ({outcome.sample for outcome in outcomes} for outcomes in (first, second))
    both = one & other
    return [o for o in first if o.sample in both], [o for o in second if o.sample in both]


@pytest.mark.parametrize(("metric", "figure"), [("balanced_accuracy", recalls), ("auroc", pairs_won)])
def test_figures_are_those_of_brute_force(run: BenchRun, report: Report, metric: str, figure: Figure) -> None:
    panel = panel_of(report, metric)
    assert panel.classes == CLASSES
    for row in panel.rows:
        noisy = [figure(cell(run, row.method, "fog", step)) for step in (1, 5)]
        assert row.entries["fog"].estimate.value == pytest.approx(sum(noisy) / 2)
        assert row.severities["fog", 5].value == pytest.approx(noisy[1])
        clean = cell(run, row.method, "clean", 0)
        assert row.entries["clean"].estimate.value == pytest.approx(figure(clean))
        costs: list[float] = []
        for step in (1, 5):
            as_clean, noised = shared(clean, cell(run, row.method, "fog", step))
            costs.append(figure(as_clean) - figure(noised))
        assert row.drops["fog"].value == pytest.approx(sum(costs) / 2)


def test_balanced_errors_are_those_of_the_formulas(run: BenchRun, report: Report) -> None:
    def errors(method: str, noise: str) -> float:
        return sum(1 - recalls(cell(run, method, noise, step)) for step in (1, 5)) / 2

    def added(method: str, noise: str) -> float:
        costs: list[float] = []
        for step in (1, 5):
            clean, noisy = shared(cell(run, method, "clean", 0), cell(run, method, noise, step))
            costs.append(recalls(clean) - recalls(noisy))
        return sum(costs) / 2

    entries = row_of(panel_of(report, "be"), "both").entries
    parts = [100 * errors("both", noise) / errors("none", noise) for noise in ("fog", "blur")]
    assert entries["fog"].estimate.value == pytest.approx(parts[0])
    assert entries["mean image"].estimate.value == pytest.approx(sum(parts) / 2)
    assert entries["rBE"].estimate.value == pytest.approx(
        sum(100 * added("both", noise) / added("none", noise) for noise in ("fog", "blur")) / 2
    )
    assert row_of(panel_of(report, "be"), "none").entries["mean image"].estimate.value == pytest.approx(100)
    assert "rCE" not in entries


def test_resampled_figures_are_those_of_the_drawn_samples() -> None:
    run = made_images(25, noises=("fog",), severities=(5,), methods=("none",), failures=0.1)
    outcomes = cell(run, "none", "fog", 5)
    panel = make_panel("clip", "made_images", "auroc", "none", run.outcomes)
    assert panel is not None
    samples = sorted({outcome.sample for outcome in run.outcomes})
    (weights,) = draws(len(samples), 0, 6)
    by_sample = {outcome.sample: outcome for outcome in outcomes}
    chances = np.array(
        [by_sample[s].scores if s in by_sample else (np.nan,) * len(CLASSES) for s in samples]
    )[:, None]
    right = np.array(
        [float(by_sample[s].reply == by_sample[s].answer) if s in by_sample else np.nan for s in samples]
    )[:, None]
    gold = {outcome.sample: outcome.answer for outcome in run.outcomes}
    classes = np.array([CLASSES.index(gold[sample]) for sample in samples])
    drawn = [dict(zip(samples, row, strict=True)) for row in weights.tolist()]
    found = areas(chances, classes, resamples=6)[:, 0]
    assert found.tolist() == pytest.approx(
        [pairs_won(outcomes), *(pairs_won(outcomes, counts) for counts in drawn)], nan_ok=True
    )
    means = bootstrap_means(right, classes, resamples=6)[:, 0]
    assert means.tolist() == pytest.approx([recalls(outcomes, counts) for counts in drawn], nan_ok=True)
    assert column_means(right, classes)[0] == pytest.approx(recalls(outcomes))


def test_by_hand() -> None:
    classes, right = np.array([0, 0, 0, 2, 2, 1]), np.array([1, 1, 0, 1, 0, 1.0])[:, None]
    assert column_means(right, classes).tolist() == pytest.approx([(2 / 3 + 1 / 2 + 1) / 3])
    drawn = bootstrap_means(right, classes, resamples=4000)[:, 0]
    # One sample of six is the only one of its class, which one resample in three goes without.
    assert np.isnan(drawn).mean() == pytest.approx(1 - (1 - (5 / 6) ** 6) * (1 - (4 / 6) ** 6), abs=0.05)
    likely = np.array([0.1, 0.4, 0.4, 0.35, 0.8])
    truth = np.array([0, 0, 1, 1, 1])
    binary = np.stack([1 - likely, likely], axis=1)[:, None]
    pairs = [(high > low) + (high == low) / 2 for high in likely[2:] for low in likely[:2]]
    assert areas(binary, truth, resamples=1)[0, 0] == pytest.approx(np.mean(pairs))
    assert areas(1 - binary, truth, resamples=1)[0, 0] == pytest.approx(1 - np.mean(pairs))
    assert np.isnan(areas(binary[:, :, :1], np.zeros(5, dtype=np.intp), resamples=1)).all()
    assert np.isnan(divided(np.ones(1), np.zeros(1))).all()


def test_gaps_are_of_the_samples_known_in_both() -> None:
    generator = np.random.default_rng(0)
    chances, classes = generator.random((30, 3, 2)), np.arange(30) % 2
    chances[:7, 1] = np.nan
    figures = areas(chances, classes, resamples=5)
    found = area_gaps(chances, classes, figures, [(0, 1), None, (2, 0)])
    known = np.arange(30) >= 7
    apart = areas(chances, classes, [(0, known), (1, known)], resamples=5)
    assert found[:, 0].tolist() == pytest.approx((apart[:, 0] - apart[:, 1]).tolist())
    assert np.isnan(found[:, 1]).all()
    assert found[:, 2].tolist() == (figures[:, 2] - figures[:, 0]).tolist()


def test_names_of_classes_are_not_read_as_text() -> None:
    outcome = made_images(1).outcomes[0]
    accuracy = METRICS["accuracy"]
    for answer, reply in [
        ("yes", "yes, it is"),
        ("no tumour", "no"),
        ("benign or malignant", "benign"),
        ("no tumour", "No tumour"),
    ]:
        assert score(replace(outcome, answer=answer, reply=reply), accuracy) == 0
        assert score(replace(outcome, answer=answer, reply=answer), accuracy) == 1
    assert score(replace(outcome, status="model_error", reply=None), accuracy) == 0


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc"])
def test_a_better_method_is_significant_and_chance_is_not(report: Report, metric: str) -> None:
    panel = panel_of(report, metric)
    test = row_of(panel, "both").entries["fog"].test
    assert test is not None
    assert test.test == "bootstrap"
    assert test.p < 0.002
    assert (test.wins is None) == (metric == "auroc")
    clean = row_of(panel, "both").entries["clean"]
    assert clean.test is not None
    assert clean.test.test == "bootstrap"
    assert clean.test.p > 0.05
    assert row_of(panel, "both").entries["fog"].best
    interval = row_of(panel, "both").entries["fog"].estimate.interval
    value = row_of(panel, "both").entries["fog"].estimate.value
    assert interval is not None
    assert value is not None
    assert interval.low < value < interval.high


def test_wins_and_losses_are_of_right_and_wrong(report: Report) -> None:
    plain, balanced = (
        row_of(panel_of(report, metric), "both").entries["fog"].test
        for metric in ("accuracy", "balanced_accuracy")
    )
    assert plain is not None
    assert balanced is not None
    assert (plain.wins, plain.losses, plain.left_out) == (balanced.wins, balanced.losses, balanced.left_out)
    assert plain.difference != balanced.difference


def test_a_method_that_changes_nothing_has_p_one() -> None:
    run = made_images(40, methods=("none",))
    copies = tuple(replace(outcome, method="adapt") for outcome in run.outcomes)
    report = summarise_run(replace(run, outcomes=run.outcomes + copies), ["balanced_accuracy", "auroc"])
    for panel in report.panels:
        for entry in row_of(panel, "adapt").entries.values():
            assert entry.test is None or (entry.test.p, entry.test.difference) == (1.0, 0.0)


def test_the_test_of_an_area_holds_its_level() -> None:
    """Where the methods are alike p is about uniform, although the severities of an image move together."""
    generator = np.random.default_rng(4)
    classes = np.arange(40) % 2
    found: list[float] = []
    for _ in range(120):
        shared_part = classes[:, None] + generator.normal(0, 1, (40, 1))
        chances = np.stack([shared_part + generator.normal(0, 1, (40, 4)) for _ in range(2)], axis=2)
        chances[
            :, :, 0
        ] *= -1  # the chance of the other class; not the complement, so that two areas are averaged
        values = np.zeros((40, 4))
        figures = areas(chances, classes, resamples=200)
        gaps = area_gaps(chances, classes, figures, [(0, 2), (1, 3)])
        found += [test.p for test in gap_tests(gaps, values[:, :2], values[:, 2:], [[0, 1]], turns=False)]
    assert 0.01 <= np.mean(np.array(found) < 0.1) <= 0.2


def test_a_class_that_a_cell_or_the_data_lacks() -> None:
    run = made_images(40, methods=("none", "both"), noises=("fog",), severities=(5,))
    kept = [o for o in run.outcomes if not (o.method == "both" and o.noise == "fog" and o.answer == "yes")]
    report = summarise_run(replace(run, complete=False, outcomes=tuple(kept)), ["balanced_accuracy", "auroc"])
    for panel in report.panels:
        found = row_of(panel, "both").entries["fog"].estimate
        assert found.value is None
        assert found.reason == "both was not scored on every class under all of fog"
        assert row_of(panel, "none").entries["fog"].estimate.value is not None
    kept = [o for o in run.outcomes if o.answer != "yes"]
    report = summarise_run(replace(run, outcomes=tuple(kept)), ["balanced_accuracy", "auroc"])
    assert report.panels[0].classes == CLASSES[:2]
    assert "there is none of yes." in markdown(report_document(report))
    kept = [o for o in run.outcomes if o.answer == "yes"]
    report = summarise_run(replace(run, outcomes=tuple(kept)), ["balanced_accuracy", "auroc"])
    assert row_of(report.panels[0], "none").entries["fog"].estimate.value is not None
    assert "all images are yes, so there is no rest" in markdown(report_document(report))


def test_tables_say_images_and_methods_have_their_order(report: Report) -> None:
    titles = [sheet.title for sheet in report_document(report).sheets]
    assert "Accuracy, % · clip · made_images · 60 images" in titles
    assert "Balanced accuracy, % · clip · made_images · 60 images" in titles
    assert [panel.metric for panel in report.panels] == ["accuracy", "balanced_accuracy", "auroc", "be"]
    assert [row.method for row in report.panels[0].rows] == list(METHODS)
    text = markdown(report_document(report))
    assert "question" not in text
    assert "mBE image" in text
    assert "rBE: the error that noise adds" in text
    for shown in (latex(report_document(report)), html(report_document(report))):
        assert "Balanced accuracy" in shown


def test_data_formats_have_every_measure_and_no_wins_of_an_area(run: BenchRun) -> None:
    report = summarise_run(run, REPORTED)
    rows = list(tidy_rows(report))
    metrics = {row["metric"] for row in rows}
    assert metrics >= {"accuracy", "balanced_accuracy", "auroc", "auroc_drop", "auroc_won_back", "ce", "rce"}
    assert metrics >= {"be", "rbe"}
    assert not metrics & {"recall", "f1", "exact", "be_drop"}
    assert all("wins" not in row for row in rows if row["metric"] == "auroc")
    assert any("wins" in row for row in rows if row["metric"] == "balanced_accuracy")
    table = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert tuple(table[0]) == FIELDS
    record = json.loads(json_text(nested(report)))
    assert record["panels"][0]["classes"] == list(CLASSES)


def test_questions_have_neither_classes_nor_their_measures() -> None:
    run = made_run(12, severities=(1,))
    report = summarise_run(run, REPORTED)
    assert [panel.metric for panel in report.panels] == ["accuracy", "recall", "f1", "exact", "ce"]
    assert "classes" not in nested(report)["panels"][0]
    assert "against" not in nested(report)
    with pytest.raises(
        UsageError, match=r"none of auroc is for the questions of made, which are closed, open$"
    ):
        summarise_run(run, ["auroc"])


def test_images_without_scores_have_no_area() -> None:
    run = made_images(12, noises=("fog",))
    bare = replace(run, outcomes=tuple(replace(outcome, scores=()) for outcome in run.outcomes))
    assert [panel.metric for panel in summarise_run(bare, DEFAULT).panels] == [
        "accuracy",
        "balanced_accuracy",
    ]
    with pytest.raises(UsageError, match="which are closed, of classes without scores"):
        summarise_run(bare, ["auroc"])


def test_the_order_of_outcomes_and_of_options_changes_no_figure(report: Report, run: BenchRun) -> None:
    shuffled = [
        replace(outcome, options=outcome.options[::-1], scores=outcome.scores[::-1]) if at % 2 else outcome
        for at, outcome in enumerate(run.outcomes)
    ]
    random.Random(0).shuffle(shuffled)
    again = summarise_run(replace(run, outcomes=tuple(shuffled)), ["auroc"])
    for name in row_of(panel_of(report, "auroc"), "both").entries:
        first, second = (row_of(panel_of(r, "auroc"), "both").entries[name] for r in (report, again))
        assert first.estimate.value == pytest.approx(second.estimate.value)
        assert first.p == second.p


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"answer": "other"},
            "its answer 'other' is none of the classes no tumour, benign or malignant, yes",
        ),
        ({"scores": (0.5, 0.5)}, "has 2 scores for 3 classes"),
        ({"options": ("no tumour", "other")}, "has other classes than the rest of its data set"),
    ],
)
def test_options_that_do_not_fit_are_named(changes: dict[str, tuple[str, ...]], words: str) -> None:
    run = made_images(6, noises=("fog",))
    outcomes = (replace(run.outcomes[0], **changes), *run.outcomes[1:])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"sample 'i.' of made_images: {words}"):
        summarise_run(replace(run, outcomes=outcomes), ["auroc"])


def test_pictures_name_the_measure(report: Report) -> None:
    small = [panel for panel in report.panels if panel.metric == "be"]
    assert [picture.name for picture in pictures(small)] == [
        "clip-made_images-be-severity",
        "clip-made_images-be-noises",
    ]


def test_runs_are_compared_by_balanced_accuracy_too(run: BenchRun) -> None:
    other = made_images(failures=0.03, seed=1, name="other")
    found = compare_runs(run, other, "adapt", flips=0)
    assert {row.metric for row in found.rows} == {"accuracy", "balanced_accuracy"}
    row = next(r for r in found.rows if (r.metric, r.noise) == ("balanced_accuracy", "clean"))
    plain = next(r for r in found.rows if (r.metric, r.noise) == ("accuracy", "clean"))
    first, second = shared(cell(run, "adapt", "clean", 0), cell(other, "adapt", "clean", 0))
    assert row.first == pytest.approx(recalls(first))
    assert row.second == pytest.approx(recalls(second))
    assert row.test.difference == pytest.approx(row.second - row.first)
    assert (row.test.test, plain.test.test) == ("bootstrap", "mcnemar")
    assert (row.test.wins, row.test.losses) == (plain.test.wins, plain.test.losses)
    text = markdown(comparison_document(found))
    assert "## Balanced accuracy, % · clip · made\\_images · adapt" in text
    assert "question" not in text
    assert csv_text(list(comparison_rows(found)), COMPARED_FIELDS).count("balanced_accuracy") == 4
    same = compare_runs(run, replace(run, name="again"), "adapt")
    assert same.flipped == 0
    assert all(row.test.p == 1 for row in same.rows)
