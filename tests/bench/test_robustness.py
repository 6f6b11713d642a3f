"""CE, BE and their relatives by hand, and where they do not exist."""

from __future__ import annotations

import pytest

from imc_agents.bench.report.robustness import Errors, corruption_errors

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


def test_a_clean_error_that_is_not_known_leaves_the_errors_under_noise() -> None:
    found = corruption_errors(Errors(None, OURS.corrupted), BASE)
    assert found.mean.value == pytest.approx((80 + 40) / 2)
    assert (found.clean.value, found.clean.reason) == (None, "not scored on clean data")
    assert found.relative["fog"].reason == "not scored on clean data"
    assert (found.relative_mean.value, found.relative_mean.reason) == (None, "without fog, snow")
    found = corruption_errors(Errors(0.2, OURS.corrupted | {"rain": {}}), Errors(None, BASE.corrupted))
    assert found.relative["snow"].reason == "no baseline on clean data"
    assert found.absolute["rain"].reason == "not scored"
    assert found.mean.reason == "without rain"
