"""The vocabulary: which words exist, and which look like one another."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from imc_agents.errors import ConfigError
from imc_agents.text.lexicon import Lexicon, load_lexicon
from imc_agents.text.shapes import ocr_skeleton
from imc_agents.text.tables import ocr_confusions


@pytest.mark.parametrize(
    "word",
    [
        "hyperdense",
        "gyriform",
        "periappendiceal",
        "Pneumothorax",
        "subdiaphragmatic",
        "patient's",
        "patients\u2019",
        "liver",
    ],
)
def test_words_of_medicine_and_of_every_day_are_known(lexicon: Lexicon, word: str) -> None:
    assert lexicon.is_known(word)


@pytest.mark.parametrize(
    "word", ["teh", "saggital", "ofthe", "pnemothorax", "hypkdensity", "1iver", "isthe", ""]
)
def test_slips_are_not_known(lexicon: Lexicon, word: str) -> None:
    assert not lexicon.is_known(word)


def test_slips_of_the_web_are_seen_and_typed_ones_are_not(lexicon: Lexicon) -> None:
    assert lexicon.is_seen("teh")
    assert not lexicon.is_seen("hypkdensity")


def test_words_of_medicine_are_told_from_common_ones(lexicon: Lexicon) -> None:
    assert all(map(lexicon.is_medical, ("pneumothorax", "gyriform", "Atelectasis")))
    assert not any(map(lexicon.is_medical, ("house", "the", "zzzz")))
    assert lexicon.domain_frequency("pulmonary") > lexicon.frequency("pulmonary") > 0
    assert lexicon.frequency("zzzzq") == lexicon.domain_frequency("zzzzq") == 0


@pytest.mark.parametrize(
    ("slip", "word", "distance"),
    [
        ("pnemothorax", "pneumothorax", 1),
        ("lfet", "left", 1),
        ("liverr", "liver", 1),
        ("kidhey", "kidney", 1),
        ("abnromalty", "abnormality", 2),
        ("Lesoin", "lesion", 1),
    ],
)
def test_near_words_are_found_with_their_distance(
    lexicon: Lexicon, slip: str, word: str, distance: int
) -> None:
    found = lexicon.near(slip, 2)
    assert (word, distance) in found
    assert found == sorted(found)
    assert ((word, distance) in lexicon.near(slip, 1)) == (distance == 1)


def test_near_leaves_out_the_word_itself(lexicon: Lexicon) -> None:
    assert "liver" not in dict(lexicon.near("Liver", 2))
    assert lexicon.near("qqqqqqqqqqqq", 1) == []


def test_near_is_what_comparing_with_every_word_gives(lexicon: Lexicon) -> None:
    """The quick tests on letters and lengths drop nothing."""
    from rapidfuzz.distance import OSA
    from rapidfuzz.process import cdist

    for slip in ("rnass", "effussion", "teh"):
        distances = cdist([slip], lexicon.words, scorer=OSA.distance)[0]
        every = [(word, int(d)) for word, d in zip(lexicon.words, distances, strict=True) if 0 < d <= 2]
        assert lexicon.near(slip, 2) == every


@pytest.mark.parametrize(
    ("slip", "word"),
    [
        ("rnass", "mass"),
        ("1iver", "liver"),
        ("cliaphragm", "diaphragm"),
        ("sku11", "skull"),
        ("0paque", "opaque"),
        ("vvall", "wall"),
        ("c1ot", "clot"),
    ],
)
def test_shapes_that_recognition_confuses_are_found(lexicon: Lexicon, slip: str, word: str) -> None:
    found = lexicon.same_shape(slip)
    assert word in found
    assert slip.lower() not in found


def slips_of(word: str) -> list[str]:
    """The word with any one confusion of the table in one place."""
    return [
        word[:at] + read + word[at + len(printed) :]
        for printed, ways in ocr_confusions()
        for read in ways
        for at in range(len(word))
        if word.startswith(printed, at)
    ]


def test_any_one_confusion_of_the_table_can_be_undone(lexicon: Lexicon) -> None:
    listed = (files("imc_agents.text") / "data" / "radiology.txt").read_text(encoding="utf-8").splitlines()
    words = [word for word in listed if word.isalpha() and len(word) > 4 and lexicon.is_known(word)][::20]
    assert len(words) > 10
    slips = [(word, slip) for word in words for slip in slips_of(word)]
    by_shape = sum(word in lexicon.same_shape(slip) for word, slip in slips)
    assert by_shape >= 0.97 * len(slips)  # the rest are confusions whose ends meet another one's
    for word, slip in slips:
        assert word in lexicon.same_shape(slip) or word in dict(lexicon.near(slip, 2)), slip


def test_lower_case_confusions_keep_the_skeleton() -> None:
    for printed, ways in ocr_confusions():
        for read in ways:
            if printed.islower():
                assert ocr_skeleton(f"a{printed}a") == ocr_skeleton(f"a{read}a"), (printed, read)


def test_lists_of_the_user_are_known_words(tmp_path: Path) -> None:
    (tmp_path / "ward.txt").write_text("# our scanner\nmagnetomvida\nZygoquest\nnot a word\n")
    (tmp_path / "medical.dic").write_text("\ufeff3\nfluoroglucid/SM\nTeh/X\nx9/Y\n", encoding="utf-8")
    lists = (str(tmp_path / "ward.txt"), str(tmp_path / "medical.dic"))
    lexicon = load_lexicon(3.5, lists, tmp_path / "cache")
    for word in ("magnetomvida", "zygoquest", "Fluoroglucid", "teh"):
        assert lexicon.is_known(word)
        assert lexicon.is_medical(word)
    assert not lexicon.is_seen("3")
    assert not lexicon.is_seen("x9")
    again = load_lexicon(3.5, lists, tmp_path / "cache")
    assert (again.digest, again.words) == (lexicon.digest, lexicon.words)
    assert np.array_equal(again.zipf, lexicon.zipf)
    assert len(list((tmp_path / "cache").iterdir())) == 1

    (tmp_path / "ward.txt").write_text("aciculoid\n")  # an edited list is read again
    edited = load_lexicon(3.5, lists, tmp_path / "cache")
    assert edited.digest != lexicon.digest
    assert edited.is_known("aciculoid")
    assert not edited.is_known("magnetomvida")


def test_a_list_that_is_missing_and_a_cache_that_is_read_only_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lexicon\.extra_lists: .*gone\.txt is no file"):
        load_lexicon(3.5, (str(tmp_path / "gone.txt"),), tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="IMC_CACHE"):
        load_lexicon(3.5, (), tmp_path / "file" / "cache")
