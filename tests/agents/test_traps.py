"""The trap list through the real refiner: no clinical meaning may change, by the guard and by plain string rules."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from imc_agents.text.invariants import check_text
from imc_agents.text.lexicon import Lexicon
from tests.conftest import Desk, Outcome

FILE = Path(__file__).parents[2] / "examples" / "trap_questions.jsonl"
NEGATIONS = {
    "no",
    "not",
    "without",
    "never",
    "none",
    "neither",
    "nor",
    "denies",
    "cannot",
    "absent",
    "absence",
}
OPPOSITES = {
    "sides": {"left", "right", "bilateral", "unilateral"},
    "prefixes": {
        "hypo",
        "hyper",
        "intra",
        "extra",
        "supra",
        "infra",
        "brady",
        "tachy",
        "pre",
        "post",
        "ante",
        "retro",
    },
}


@pytest.fixture(scope="module")
def refined(desk: Callable[..., Desk]) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    outcomes = desk().crowd([(row["id"], row["question"]) for row in rows])
    failed = [
        (row["id"], outcome)
        for row, outcome in zip(rows, outcomes, strict=True)
        if isinstance(outcome, Exception)
    ]
    assert not failed
    return [(o.refinement.original, o.refinement.refined) for o in outcomes if isinstance(o, Outcome)]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", re.sub(r"n['\u2019]t\b", " not", text.lower()))


def counts(text: str, wanted: set[str]) -> Counter[str]:
    return Counter(word for word in words(text) if word in wanted)


def prefixed(text: str) -> Counter[str]:
    return Counter(
        prefix
        for word in words(text)
        for prefix in OPPOSITES["prefixes"]
        if word.startswith(prefix) and len(word) > 6
    )


def may_restore(before: str, word: str, lexicon: Lexicon) -> bool:
    """Whether a non-word of the original is a slip of the word: close to it, or run together with it."""
    from rapidfuzz.distance import OSA

    tokens = [t for t in re.findall(r"[^\s,.?!;:]+", before.lower()) if not lexicon.is_known(t)]
    return any(OSA.distance(token, word) <= 2 or word in token for token in tokens)


def test_there_are_enough_traps(refined: list[tuple[str, str]]) -> None:
    assert len(refined) >= 60


def test_no_invariant_is_broken(refined: list[tuple[str, str]], lexicon: Lexicon) -> None:
    for before, after in refined:
        found = check_text(before, after, is_known=lexicon.is_known, is_medical=lexicon.is_medical)
        assert not found, (before, after)


def test_digits_stay_or_were_letters_of_a_misread_word(refined: list[tuple[str, str]]) -> None:
    for before, after in refined:
        kept = re.findall(r"\d+", after)
        chunks = re.findall(r"\S*\d\S*", before)
        numbers = [run for chunk in chunks for run in re.findall(r"\d+", chunk)]
        # Digits may go only with a token that mixes letters and digits, and none may come.
        mixed = [
            run for chunk in chunks if re.search(r"[A-Za-z]", chunk) for run in re.findall(r"\d+", chunk)
        ]
        assert not Counter(kept) - Counter(numbers), (before, after)
        assert not Counter(numbers) - Counter(kept) - Counter(mixed), (before, after)


@pytest.mark.parametrize("wanted", [NEGATIONS, OPPOSITES["sides"]], ids=["negations", "sides"])
def test_negations_and_sides_stay_or_were_slips(
    refined: list[tuple[str, str]], lexicon: Lexicon, wanted: set[str]
) -> None:
    for before, after in refined:
        lost = counts(before, wanted) - counts(after, wanted)
        gained = counts(after, wanted) - counts(before, wanted)
        assert not lost, (before, after)
        for word in gained:
            assert may_restore(before, word, lexicon), (before, after, word)


def test_opposite_prefixes_stay_or_were_slips(refined: list[tuple[str, str]], lexicon: Lexicon) -> None:
    for before, after in refined:
        assert not prefixed(before) - prefixed(after), (before, after)
        for prefix in prefixed(after) - prefixed(before):
            restored = [word for word in words(after) if word.startswith(prefix)]
            assert any(may_restore(before, word, lexicon) for word in restored), (before, after)


def test_what_must_not_come_did_not_come(refined: list[tuple[str, str]]) -> None:
    """The notes of the list name the result that each trap lures into."""
    notes = [json.loads(line)["note"] for line in FILE.read_text(encoding="utf-8").splitlines()]
    seen = 0
    for (before, after), note in zip(refined, notes, strict=True):
        _, mark, lures = note.partition("must not become ")
        if not mark:
            continue
        for source, targets in re.findall(r"'([^']+)' -> ([^;]+)", lures):
            for target in targets.split(" or "):
                target = target.split(" -> ")[-1].strip(" '")
                if source in before and target != "(nothing)":
                    seen += 1
                    assert before.replace(source, target) != after, note
    assert seen >= 60


def test_most_traps_are_left_as_they_are_and_plain_slips_are_repaired(refined: list[tuple[str, str]]) -> None:
    notes = [json.loads(line)["note"] for line in FILE.read_text(encoding="utf-8").splitlines()]
    slips = [pair for pair, note in zip(refined, notes, strict=True) if note.startswith("slips only")]
    assert len(slips) >= 5
    assert sum(before != after for before, after in slips) >= 0.7 * len(slips)
    traps = [pair for pair, note in zip(refined, notes, strict=True) if not note.startswith("slips only")]
    assert sum(before == after for before, after in traps) > len(traps) / 2
