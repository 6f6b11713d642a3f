"""Intervals and tests: against values by hand, against theory, and the same on every run."""

from __future__ import annotations

import numpy as np
import pytest

from imc_agents.bench.report import bootstrap
from imc_agents.bench.report.bootstrap import (
    bootstrap_means,
    bootstrap_sums,
    column_means,
    divided,
    percentiles,
)
from imc_agents.bench.report.stats import holm, mcnemar, paired_tests


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    # By hand: 2 * sum of binomials over 2^n.
    [(0, 0, 1.0), (1, 1, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (8, 2, 112 / 1024), (3, 4, 1.0)],
)
def test_mcnemar_is_exact(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_intervals_agree_with_theory_and_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = (np.arange(400) % 4 == 0).astype(float)[:, None]
    means = bootstrap_means(scores, resamples=4000)
    spread = np.sqrt(0.25 * 0.75 / 400)
    assert means.std() == pytest.approx(spread, rel=0.05)
    interval = percentiles(means[:, 0])
    assert interval is not None
    assert interval.low == pytest.approx(0.25 - 1.96 * spread, abs=0.005)
    assert interval.high == pytest.approx(0.25 + 1.96 * spread, abs=0.005)
    monkeypatch.setattr(bootstrap, "_BLOCK", 1000)
    assert np.array_equal(means, bootstrap_means(scores, resamples=4000))
    assert not np.array_equal(means, bootstrap_means(scores, resamples=4000, seed=1))


def test_samples_that_were_not_scored_do_not_count() -> None:
    scores = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, np.nan], [np.nan, 1.0]])
    assert column_means(scores).tolist() == pytest.approx([2 / 3, 1.0])
    means = bootstrap_means(scores, resamples=2000)
    assert np.nanmax(means[:, 1]) == np.nanmin(means[:, 1]) == 1.0
    # Two of four samples are scored in the second cell: one draw in sixteen has neither.
    assert np.isnan(means[:, 1]).mean() == pytest.approx(1 / 16, abs=0.02)
    assert percentiles(means[:, 1]) is None


def test_cells_keep_their_pairing() -> None:
    generator = np.random.default_rng(0)
    first = generator.random(300)
    means = bootstrap_means(np.stack([first, first + 0.1], axis=1), resamples=500)
    assert (means[:, 1] - means[:, 0]) == pytest.approx(np.full(500, 0.1))


def test_sums_are_those_of_as_many_samples() -> None:
    sums = bootstrap_sums(np.stack([np.ones(50), np.arange(50.0)], axis=1), resamples=2000)
    assert (sums[:, 0] == 50).all()
    assert sums[:, 1].mean() == pytest.approx(np.arange(50).sum(), rel=0.01)
    assert np.isnan(divided(sums[:2, 0], np.array([0.0, -1.0]))).all()


def test_one_cell_of_right_and_wrong_is_mcnemar() -> None:
    first = np.array([0, 0, 0, 0, 0, 1, 1, 0, np.nan], dtype=float)[:, None]
    second = np.array([1, 1, 1, 1, 1, 0, 1, np.nan, 1], dtype=float)[:, None]
    (test,) = paired_tests(first, second, [[0]])
    assert (test.test, test.samples, test.left_out, test.wins, test.losses) == ("mcnemar", 7, 2, 5, 1)
    assert test.p == pytest.approx(mcnemar(5, 1))
    assert test.difference == pytest.approx(4 / 7)


def test_graded_scores_are_resampled() -> None:
    generator = np.random.default_rng(1)
    first = generator.random((200, 3))
    noise = generator.normal(0, 0.2, (200, 3))
    better, same = paired_tests(
        np.hstack([first, first]), np.hstack([first + 0.1 + noise, first + noise]), [[0, 1, 2], [3, 4, 5]]
    )
    assert (better.test, better.samples) == ("bootstrap", 200)
    assert better.p < 0.001
    assert same.p > 0.05
    assert paired_tests(first, first, [[0, 1, 2]])[0].p == 1
    one = paired_tests(first, first + 0.1 + noise, [[0, 1, 2]], seed=3)
    assert one == paired_tests(first, first + 0.1 + noise, [[0, 1, 2]], seed=3)


def test_the_resampled_test_holds_its_level() -> None:
    """Under no difference p is about uniform: severities of a sample move together and must not count as many."""
    generator = np.random.default_rng(2)
    found = []
    for _ in range(200):
        shared = generator.integers(-1, 2, (60, 1)).repeat(5, axis=1).astype(float)
        found.append(paired_tests(np.zeros((60, 5)), shared, [range(5)], resamples=400)[0].p)
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.11


def test_nothing_to_compare() -> None:
    (test,) = paired_tests(np.full((3, 1), np.nan), np.ones((3, 1)), [[0]])
    assert (test.samples, test.left_out, test.p) == (0, 3, 1.0)
