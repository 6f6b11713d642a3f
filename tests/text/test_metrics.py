from __future__ import annotations

import math

import pytest

from imc_agents.text.metrics import Paired, bootstrap_ratio, paired, wilson, word_errors


@pytest.mark.parametrize(
    ("reference", "text", "errors", "words"),
    [
        ("Is there a mass?", "Is there a mass?", 0, 4),
        ("Is there a mass?", "Is there a mass", 0, 4),  # punctuation is no word
        ("Is there a mass?", "is ther a mass?", 2, 4),  # case counts
        ("in the lung", "inthe lung", 2, 3),
        ("in the lung", "in the lu ng", 2, 3),
        ("in the lung", "", 3, 3),
        ("", "", 0, 0),
        ("the T2-weighted image", "the T2 weighted image", 2, 3),
    ],
)
def test_word_errors(reference: str, text: str, errors: int, words: int):
    found = word_errors(reference, text)
    assert (found.errors, found.words) == (errors, words)


def test_word_error_rate_of_empty_texts():
    assert word_errors("", "").rate == 0
    assert word_errors("", "noise").rate == math.inf
    assert word_errors("a b", "a c").rate == 0.5


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_the_published_table(successes: int, total: int, low: float, high: float):
    interval = wilson(successes, total)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_at_the_edges():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)
    assert wilson(10, 10).high == 1
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_paired_counts_and_exact_mcnemar():
    counts = paired([True, True, True, False], [True, False, False, True])
    assert (counts.both, counts.first, counts.second, counts.neither) == (1, 2, 1, 0)
    assert counts.difference == 0.25
    assert Paired(50, 10, 1, 0).p_value == pytest.approx(2 * (1 + 11) / 2**11)
    assert Paired(5, 0, 0, 5).p_value == 1.0
    assert Paired(5, 4, 4, 5).p_value == 1.0


def test_bootstrap_interval_holds_the_ratio_and_is_the_same_each_time():
    errors, words = [0, 1, 0, 2, 0, 0, 1, 0] * 20, [5, 6, 7, 8, 5, 6, 7, 8] * 20
    interval = bootstrap_ratio(errors, words, seed=3)
    assert interval == bootstrap_ratio(errors, words, seed=3)
    assert interval.low < sum(errors) / sum(words) < interval.high
    assert interval.high - interval.low < 0.06
    assert bootstrap_ratio([0, 0], [4, 5]).high == 0
