"""CE, BE and their relatives by hand, where they do not exist, balanced accuracy and ROC-AUC."""

from __future__ import annotations

import numpy as np
import pytest

from imc_agents.bench.report.robustness import (
    Errors,
    balanced_accuracy,
    balanced_errors,
    corruption_errors,
    roc_auc,
)

OURS = Errors(0.2, {"fog": {1: 0.3, 2: 0.5}, "snow": {1: 0.2, 2: 0.4}})
BASE = Errors(0.4, {"fog": {1: 0.5, 2: 0.5}, "snow": {1: 0.6, 2: 0.9}})


def test_corruption_errors_by_hand() -> None:
    found = corruption_errors(OURS, BASE)
    assert found.clean.value == pytest.approx(50)
    assert found.absolute["fog"].value == pytest.approx(100 * 0.8 / 1.0)
    assert found.absolute["snow"].value == pytest.approx(100 * 0.6 / 1.5)
    assert found.mean.value == pytest.approx((80 + 40) / 2)
    assert found.relative["fog"].value == pytest.approx(100 * (0.1 + 0.3) / (0.1 + 0.1))
    assert found.relative["snow"].value == pytest.approx(100 * (0.0 + 0.2) / (0.2 + 0.5))
    assert found.relative_mean.value == pytest.approx((200 + 100 * 0.2 / 0.7) / 2)
    own = corruption_errors(BASE, BASE)
    assert own.mean.value == pytest.approx(100)
    assert own.relative_mean.value == pytest.approx(100)


def test_balanced_errors_by_hand() -> None:
    found = balanced_errors(OURS, BASE)
    assert found.absolute["fog"].value == pytest.approx(0.4 / 0.5)
    assert found.relative["snow"].value == pytest.approx((0.3 - 0.2) / (0.75 - 0.4))
    assert found.mean.value == pytest.approx((0.8 + 0.4) / 2)


def test_denominators_that_are_not_positive_are_said() -> None:
    kind = Errors(0.5, {"fog": {1: 0.5}, "snow": {1: 0.4}, "rain": {1: 0.7}})
    found = corruption_errors(Errors(0.2, {name: {1: 0.3} for name in kind.corrupted}), kind)
    assert found.relative["fog"].value is None
    assert found.relative["snow"].value is None
    assert "not positive" in (found.relative["snow"].reason or "")
    assert found.relative_mean.value == pytest.approx(100 * 0.1 / 0.2)
    assert found.relative_mean.reason == "without fog, snow"
    perfect = corruption_errors(OURS, Errors(0.0, {"fog": {1: 0.0, 2: 0.0}}))
    assert perfect.clean.value is None
    assert perfect.absolute["fog"].value is None
    assert perfect.absolute["snow"].reason == "no baseline at severity 1, 2"
    assert perfect.mean.value is None


def test_balanced_accuracy_by_hand() -> None:
    truth, predicted = np.array([0, 0, 0, 2, 2, 1]), np.array([0, 0, 1, 2, 0, 1])
    assert balanced_accuracy(truth, predicted) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    labels = np.array([[0, 1], [0, 1], [1, 0], [1, 1]])
    guessed = np.array([[0, 1], [1, 1], [1, 1], [1, 1]])
    assert balanced_accuracy(labels, guessed) == pytest.approx(((0.5 + 1) / 2 + (0 + 1) / 2) / 2)
    with pytest.raises(ValueError, match="cannot be compared"):
        balanced_accuracy(truth, predicted[:3])


def test_roc_auc_counts_pairs() -> None:
    truth, scores = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.4, 0.4, 0.35, 0.8])
    pairs = [(high > low) + (high == low) / 2 for high in scores[2:] for low in scores[:2]]
    assert roc_auc(truth, scores).value == pytest.approx(np.mean(pairs))
    assert roc_auc(truth, -scores).value == pytest.approx(1 - np.mean(pairs))
    assert roc_auc(np.ones(3, dtype=int), scores[:3]).value is None


def test_roc_auc_of_classes_and_labels() -> None:
    truth = np.array([0, 1, 2, 0])
    scores = np.eye(4)[truth]
    found = roc_auc(truth, scores)
    assert found.value == 1
    assert found.reason == "without class 3"
    labels = np.array([[1, 0], [0, 1], [1, 1]])
    assert roc_auc(labels, np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.05]])).value == pytest.approx(
        (0.5 + 0.5) / 2
    )
