"""From which distance an image is unknown, or left alone: by what is usual among images of its kind."""

from __future__ import annotations

import torch

from imc_agents.vision.outlying import find_reach
from imc_agents.vision.perception import Prototype


def prototypes(groups: int) -> list[Prototype]:
    noises = (("clean", 0), ("jpeg", 1), ("jpeg", 5))
    return [Prototype(group, noise, "", level, noise) for group in range(groups) for noise, level in noises]


def spread(count: int, scale: float) -> torch.Tensor:
    return scale * (1 + torch.linspace(0, 1, count, dtype=torch.float64))


def test_odd_images_of_one_group_do_not_widen_another() -> None:
    alike, mixed = spread(600, 1), spread(600, 1)
    mixed[::100] = 500
    likeliest = torch.cat([torch.arange(600) % 3, 3 + torch.arange(600) % 3])
    reach = find_reach(torch.cat([alike, mixed]), likeliest, prototypes(2), 0.998)
    assert reach[:3].max() <= 2
    assert reach[3:].max() > 100


def test_clean_images_and_those_with_noise_are_judged_by_their_own_kind() -> None:
    likeliest = torch.arange(900) % 3
    distances = torch.where(likeliest == 0, spread(900, 1), spread(900, 10))
    clean, mild, harsh = find_reach(distances, likeliest, prototypes(1), 0.99).tolist()
    assert clean <= 2
    assert mild == harsh
    assert 19 < harsh < 20


def test_a_kind_without_images_takes_what_is_usual_for_all() -> None:
    reach = find_reach(spread(100, 1), torch.zeros(100, dtype=torch.int64), prototypes(2), 0.99)
    assert reach.tolist() == [reach[0].item()] * 6
