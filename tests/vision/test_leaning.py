"""How much noise must stand out: clean images stay clean, and only where they look noisy does noise pay for it."""

from __future__ import annotations

import torch

from imc_agents.vision.leaning import leans_of


def samples(
    clean: list[list[float]], noisy: list[list[float]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Margins, families and severities of one group: clean images, then images of the first family."""
    margins = torch.tensor([*clean, *noisy], dtype=torch.float64)
    family = torch.tensor([-1] * len(clean) + [0] * len(noisy))
    return margins, family, torch.where(family < 0, 0.0, 3.0).double()


def test_noise_that_no_clean_image_looks_like_needs_no_lean() -> None:
    margins, family, severities = samples([[-4.0, -5.0]] * 100, [[6.0, -1.0]] * 100)
    leans = leans_of(margins, torch.zeros(200, dtype=torch.int64), 1, family, severities)
    assert leans.tolist() == [[0.0, 0.0]]


def test_clean_images_that_look_noisy_stay_clean_and_cost_only_their_group() -> None:
    looks_noisy = [[2.0, -5.0]] * 10 + [[-4.0, -5.0]] * 90
    here, there = (
        samples(looks_noisy, [[8.0, -1.0]] * 100),
        samples([[-4.0, -5.0]] * 100, [[1.0, -1.0]] * 100),
    )
    margins, family, severities = (torch.cat(pair) for pair in zip(here, there, strict=True))
    groups = torch.tensor([0] * 200 + [1] * 200)
    leans = leans_of(margins, groups, 2, family, severities)
    assert 2 <= leans[0, 0] < 8
    assert leans[1].tolist() == [0.0, 0.0]


def test_noise_is_given_up_where_it_cannot_be_told_from_clean() -> None:
    margins, family, severities = samples([[2.0, -5.0]] * 50 + [[-4.0, -5.0]] * 50, [[1.5, -1.0]] * 100)
    leans = leans_of(margins, torch.zeros(200, dtype=torch.int64), 1, family, severities)
    assert float((margins[:100] <= leans[0]).all(1).double().mean()) >= 0.98


def test_a_bank_without_clean_images_or_noise_has_no_lean() -> None:
    nobody = torch.zeros(0, dtype=torch.int64)
    assert leans_of(torch.zeros(0, 2), nobody, 1, nobody, torch.zeros(0)).tolist() == [[0.0, 0.0]]
    clean = torch.full((4,), -1)
    assert leans_of(torch.zeros(4, 0), torch.zeros(4).long(), 1, clean, torch.zeros(4)).shape == (1, 0)
