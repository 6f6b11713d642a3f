"""Few-shot draws: shares of each class that depend on digests alone, and nest."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imc_agents.adapt.labelled import LabelledImages, open_labelled
from imc_agents.adapt.shots import few_shots, hold_out
from imc_agents.errors import UsageError
from tests.data.copies import SHARED, need_medmnist


def made(*counts: int, name: str = "made") -> LabelledImages:
    """Images of as many classes as there are counts, one class behind the other."""
    labels = np.repeat(np.arange(len(counts)), counts)
    classes = tuple(f"class {number}" for number in range(len(counts)))
    ids = tuple(f"train/{row}" for row in range(len(labels)))
    return LabelledImages(name, "train", classes, labels, ids, lambda row: Image.new("RGB", (row + 1, 1)))


def drawn(images: LabelledImages, *options) -> set[str]:
    return {images.ids[row] for row in few_shots(images, *options)}


@pytest.mark.parametrize(
    ("fraction", "counts", "expected"),
    [
        (0.01, (1214, 3494), (12, 35)),
        (0.01, (50, 49 + 1), (1, 1)),  # 0.5 is rounded up
        (0.29, (50, 10), (15, 3)),  # 14.5 as it is written, though not in binary
        (0.07, (50, 150), (4, 11)),  # 3.5 and 10.5
        (1, (7, 3), (7, 3)),
    ],
)
def test_each_class_gets_its_share_rounded_half_up(fraction, counts, expected):
    images = made(*counts)
    rows = few_shots(images, fraction, 0)
    assert rows.dtype == np.int64
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert tuple(np.bincount(images.labels[rows])) == expected


@need_medmnist
def test_smaller_shares_of_real_data_are_part_of_larger_ones():
    images = open_labelled(SHARED / "pneumoniamnist", "train")
    shares = [drawn(images, fraction, 42) for fraction in (0.01, 0.03, 0.07, 0.1, 1)]
    for small, large in pairwise(shares):
        assert small < large
    assert len(shares[-1]) == len(images)
    assert drawn(images, 0.01, 43) != shares[0]


def test_another_name_or_seed_draws_others():
    assert drawn(made(100, 100), 0.1, 0) != drawn(made(100, 100), 0.1, 1)
    assert drawn(made(100, 100), 0.1, 0) != drawn(made(100, 100, name="other"), 0.1, 0)


def test_the_draw_stays_as_it_is():
    assert few_shots(made(20, 20), 0.15, 42).tolist() == [0, 2, 7, 26, 34, 37]


@given(st.permutations(range(40)), st.sampled_from([0.1, 0.25, 0.5]), st.integers(0, 3))
def test_the_order_of_the_images_does_not_matter(order, fraction, seed):
    images = made(15, 25)
    assert drawn(images.subset(order), fraction, seed) == drawn(images, fraction, seed)
    held = {images.ids[row] for row in hold_out(images, fraction, seed)[1]}
    mixed = images.subset(order)
    assert {mixed.ids[row] for row in hold_out(mixed, fraction, seed)[1]} == held


def test_what_is_held_out_and_the_rest_are_all_images_and_share_none():
    images = made(30, 70)
    rest, held = hold_out(images, 0.2, 5)
    assert sorted([*rest, *held]) == list(range(100))
    assert np.bincount(images.labels[held]).tolist() == [6, 14]
    assert set(held.tolist()) != set(few_shots(images, 0.2, 5).tolist()), "held out by another draw"


@pytest.mark.parametrize(
    ("fraction", "counts", "problem"),
    [
        (
            0.1,
            (30, 4),
            "0.1 draws none of the class 'class 1', which has 4 images; the smallest that does is 0.125",
        ),
        (0.1, (30, 3), "the smallest that does is 0.167"),
        (0.1, (30, 1), "which has 1 image; the smallest that does is 0.5"),
        (1e-6, (3000, 3000), "the smallest that does is 0.000167"),
        (0.1, (30, 0, 30), "made, split train: no image of the class 'class 1'; add some"),
        (0.5, (30,), "there is one class only, 'class 0'"),
        (0, (30, 30), "a fraction of 0 of the images cannot be drawn; give one above 0, up to 1"),
        (1.01, (30, 30), "cannot be drawn"),
        (float("nan"), (30, 30), "a fraction of nan"),
    ],
)
def test_draws_that_leave_a_class_out_are_refused(fraction, counts, problem):
    with pytest.raises(UsageError, match=problem):
        few_shots(made(*counts), fraction, 0)


@pytest.mark.parametrize("count", [1, 3, 7, 33, 777, 9_999])
def test_the_fraction_that_an_error_names_does(count):
    images = made(count, count)
    with pytest.raises(UsageError) as caught:
        few_shots(images, 0.000003, 0)
    enough = float(str(caught.value).rpartition(" ")[2])
    assert (images.labels[few_shots(images, enough, 0)] == 0).sum() == 1


@pytest.mark.parametrize(
    ("fraction", "counts", "problem"),
    [
        (
            0.9,
            (30, 3),
            "holding 0.9 out leaves none of the class 'class 1', which has 3 images, to train on; take a smaller",
        ),
        (
            0.5,
            (30, 1),
            "leaves none of the class 'class 1', which has 1 image, to train on; add images of it",
        ),
        (0.1, (30, 4), "the smallest that does is 0.125"),
        (0.1, (30,), "there is one class only"),
        (1, (30, 30), "a fraction of 1 of the images cannot be held out; give one between 0 and 1"),
    ],
)
def test_a_class_must_be_on_both_sides(fraction, counts, problem):
    with pytest.raises(UsageError, match=problem):
        hold_out(made(*counts), fraction, 0)
