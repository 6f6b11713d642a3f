"""How a bank is built: what is read, encoded and summed up, on an encoder that costs nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from PIL import Image

from imc_agents.noise.registry import get_noise
from imc_agents.vision import variants
from imc_agents.vision.bank import Bank
from imc_agents.vision.build import Sample, build_bank
from imc_agents.vision.gathering import Gathering
from imc_agents.vision.grouping import Groups
from tests.vision.test_class_tokens import drawn, encoder

NOISES = [get_noise("gaussian", "image")]
IMAGES = 40


def counted(reads: Counter[int]) -> list[Sample]:
    def load(index: int) -> Any:
        reads[index] += 1
        return drawn(index)

    return [Sample(str(i), lambda i=i: load(i)) for i in range(IMAGES)]


def correction(bank: Bank) -> torch.Tensor:
    return torch.stack([moments.d / moments.count for moments in bank.patches.moments])


def test_images_are_read_once_as_long_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[int] = Counter()
    bank = build_bank(encoder(), counted(reads), NOISES)
    assert reads == dict.fromkeys(range(IMAGES), 1)
    monkeypatch.setattr(variants, "_MOST_REMEMBERED", 10 * 3 * 64 * 64)
    again = build_bank(encoder(), counted(reads), NOISES)
    assert sum(count > 2 for count in reads.values()) == IMAGES - 10
    assert torch.equal(correction(again), correction(bank))


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_how_many_images_are_encoded_at_once_changes_nothing_but_rounding(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = build_bank(encoder(), counted(Counter()), NOISES)
    monkeypatch.setattr(variants, "_AT_ONCE", at_once)
    other = build_bank(encoder(), counted(Counter()), NOISES, batch=11)
    assert torch.allclose(correction(other), correction(usual), atol=1e-5)
    assert other.facts["held_out"] == usual.facts["held_out"]


def test_large_images_are_brought_to_the_size_of_the_encoder_once() -> None:
    large = [
        Sample(str(i), lambda i=i: drawn(i).resize((640, 480), Image.Resampling.BICUBIC)) for i in range(3)
    ]
    kept = variants.remembered(large, 64)
    assert [sample.load().size for sample in kept] == [(85, 64)] * 3
    assert kept[0].load() is kept[0].load()
    assert [sample.name for sample in kept] == ["0", "1", "2"]


def test_batches_are_of_one_group_where_they_can_be_and_sums_are_those_of_its_images() -> None:
    members = torch.tensor([0, 1] * 10)
    gathering = Gathering.empty(1, Groups(members, (10, 10)), axes=2)
    order = gathering.order()
    assert sorted(order.tolist()) == list(range(20))
    assert members[order].tolist() == [0] * 10 + [1] * 10
    noisy = order[:, None] * torch.tensor([[1.0, -1.0]])
    # One token an image, ten images of each group, in batches that straddle the groups.
    for first in (0, 6, 12, 18):
        some = slice(first, first + 6)
        images = order[some]
        gathering.add(0, images, (1,) * len(images), noisy[some], noisy[some], noisy[some] + 1)
    for group, sums in enumerate(gathering.moments()):
        own = torch.arange(20.0)[members == group].double()
        assert sums.count == 10
        assert sums.d.tolist() == [10.0, 10.0]
        assert sums.f.tolist() == [own.sum(), -own.sum()] * 2
        assert float(sums.ff[0, 0]) == float(own.square().sum()) == float(sums.ff[2, 2])
        assert float(sums.ff[0, 3]) == -float(own.square().sum())
        assert sums.fd[:, 0].tolist() == [own.sum(), -own.sum()] * 2
    held = [int(moments.count) for moments in gathering.held]
    assert held == [2, 2]
