"""The guard's word lists: every listed word is kept from its counterpart, and every list names its source."""

from __future__ import annotations

import random
from itertools import permutations
from pathlib import Path

import pytest

from imc_agents.errors import ConfigError
from imc_agents.text import clinical
from imc_agents.text.clinical.vocabulary import look_alikes, opposites
from imc_agents.text.invariants import clinical_pair, is_clinical
from tests.text.guarding import broken


def groups(name: str) -> list[list[list[str]]]:
    return [[side.split() for side in line.split("|")] for line in clinical.load(name)["pairs"]]


@pytest.mark.parametrize(("name", "fewest"), [("opposites", 150), ("look_alikes", 120), ("drugs", 80)])
def test_no_listed_word_becomes_its_counterpart(name: str, fewest: int) -> None:
    lines = groups(name)
    assert len(lines) >= fewest
    passed = [
        (first, second)
        for line in lines
        for side in line
        for other in line
        if other is not side
        for first in side
        for second in other
        if first != second and not broken(f"What about the {first} here?", f"What about the {second} here?")
    ]
    assert passed == []


@pytest.mark.parametrize(
    ("meant", "other"),
    [
        ("hypodensity", "hyperdensity"),
        ("hyperintense", "hypointense"),
        ("abduction", "adduction"),
        ("intracranial", "extracranial"),
        ("supratentorial", "infratentorial"),
        ("bradycardia", "tachycardia"),
        ("ileum", "ilium"),
        ("dysphagia", "dysphasia"),
        ("ureter", "urethra"),
        ("vincristine", "vinblastine"),
        ("hydralazine", "hydroxyzine"),
        ("inferior", "superior"),
        ("anterior", "posterior"),
        ("unilateral", "bilateral"),
        ("symptomatic", "asymptomatic"),
        ("affected", "unaffected"),
    ],
)
def test_no_single_slip_turns_a_word_into_its_counterpart(meant: str, other: str) -> None:
    for was, wrong in ((meant, other), (other, meant)):
        for slip in one_slip_from(was):
            if slip != wrong:
                assert broken(f"Is the {slip} seen?", f"Is the {wrong} seen?"), (was, slip, wrong)


@pytest.mark.parametrize("name", ["opposites", "look_alikes", "drugs"])
def test_no_slip_in_any_listed_word_leads_to_its_counterpart(name: str) -> None:
    rng = random.Random(name)
    passed: list[tuple[str, str, str]] = []
    for line in groups(name):
        for side, other in permutations(line, 2):
            meant, wrong = side[0], other[0]
            for slip in rng.sample(sorted(one_slip_from(meant) - {wrong, ""}), 3):
                if not broken(f"Is the {slip} seen?", f"Is the {wrong} seen?"):
                    passed.append((meant, slip, wrong))
    assert passed == []


@pytest.mark.parametrize("name", ["opposites", "look_alikes", "drugs"])
def test_no_word_stands_on_two_sides_of_a_line(name: str) -> None:
    for line in groups(name):
        words = [word for side in line for word in side]
        assert len(words) == len(set(words)), line


def one_slip_from(word: str) -> set[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    found = {word[:at] + word[at + 1 :] for at in range(len(word))}
    found |= {word[:at] + letter + word[at:] for at in range(len(word) + 1) for letter in letters}
    found |= {word[:at] + letter + word[at + 1 :] for at in range(len(word)) for letter in letters}
    found |= {word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(len(word) - 1)}
    return found - {word}


def test_opposites_and_look_alikes_for_other_modules() -> None:
    assert {"hyperdense", "isodense"} <= opposites("hypodense")
    assert "right" in opposites("left")
    assert "asymptomatic" in opposites("symptomatic")
    assert "ilium" in look_alikes("ileum")
    assert "vinblastine" in look_alikes("vincristine")
    assert look_alikes("table") == frozenset()


@pytest.mark.parametrize(
    ("first", "second", "invariant"),
    [
        ("left", "right", "laterality"),
        ("not", "knot", "negation"),
        ("two", "to", "number"),
        ("hypodense", "hyperdense", "opposite_prefix"),
        ("ileum", "ilium", "look_alike_term"),
        ("vincristine", "vinblastine", "look_alike_drug"),
        ("lung", "long", "known_medical_term"),
        ("their", "there", None),
        ("lung", "lung", None),
    ],
)
def test_which_invariant_a_swap_breaks(first: str, second: str, invariant: str | None) -> None:
    assert clinical_pair(first, second) == invariant


def test_clinical_words_are_told_from_everyday_ones() -> None:
    assert all(
        map(is_clinical, ["lung", "pneumoperitoneum", "cholecystolithotomy", "leftward", "tonsillitis"])
    )
    assert not any(map(is_clinical, ["table", "period", "diagram", "photography", "with", "the"]))


@pytest.mark.parametrize(
    "name",
    [
        "numbers",
        "negation",
        "laterality",
        "case_bound",
        "opposites",
        "look_alikes",
        "drugs",
        "terms",
        "shorthand",
    ],
)
def test_every_list_names_its_source_and_licence(name: str) -> None:
    data = clinical.load(name)
    assert data["source"]
    assert data["licence"]


def test_a_list_without_a_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rumours.yaml").write_text("pairs: [a | b]\n", encoding="utf-8")
    monkeypatch.setattr(clinical, "files", lambda _package: tmp_path)
    with pytest.raises(ConfigError, match=r"rumours\.yaml: no 'source'"):
        clinical.load("rumours")
