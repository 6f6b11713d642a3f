"""The operators on synthetic tokens whose right correction is known."""

from __future__ import annotations

import pytest
import torch

from imc_agents.errors import UsageError
from imc_agents.vision.calibration import nearest_clean
from imc_agents.vision.moments import Moments, moments_of
from imc_agents.vision.operators import Affine, Known, get_operator

AXES = 6


def tokens(count: int = 4000) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    scale = torch.linspace(2.0, 0.5, AXES)
    return torch.randn(count, AXES, generator=random) * scale + torch.arange(AXES)


def moments(noisy: torch.Tensor, clean: torch.Tensor, means: torch.Tensor | None = None) -> Moments:
    beside = torch.zeros_like(noisy) if means is None else means  # each token an image of its own
    return moments_of(noisy, clean, beside, torch.arange(len(noisy)))


def known(noisy: torch.Tensor, clean: torch.Tensor, means: torch.Tensor | None = None) -> Known:
    found = moments(noisy, clean, means)
    return Known(found, moments(clean, clean), found)


def corrected(
    name: str, noisy: torch.Tensor, clean: torch.Tensor, means: torch.Tensor | None = None
) -> torch.Tensor:
    solve = get_operator(name).solve
    assert solve is not None
    found: Affine = solve(known(noisy, clean, means))
    beside = torch.zeros_like(noisy) if means is None else means
    return noisy + torch.cat([noisy, beside], 1) @ found.weight + found.bias


def left(name: str, noisy: torch.Tensor, clean: torch.Tensor, means: torch.Tensor | None = None) -> float:
    """Share of the squared distance that is left."""
    after = corrected(name, noisy, clean, means) - clean
    return float(after.square().mean() / (noisy - clean).square().mean())


def test_shift_undoes_an_offset() -> None:
    clean = tokens()
    assert left("shift", clean + torch.linspace(-1, 2, AXES), clean) < 1e-9


def test_diagonal_undoes_a_change_of_scale_but_for_its_shrinkage() -> None:
    clean = tokens()
    assert left("diagonal", 0.5 * clean + 1, clean) < 1e-3


def test_coral_undoes_any_symmetric_change_of_scale() -> None:
    clean = tokens()
    random = torch.randn(AXES, AXES, generator=torch.Generator().manual_seed(1))
    squeeze = random @ random.T / AXES + 0.3 * torch.eye(AXES)
    noisy = clean @ squeeze + 1
    after = corrected("coral", noisy, clean)
    assert torch.allclose(after.mean(0), clean.mean(0), atol=1e-3)
    assert torch.allclose(torch.cov(after.T), torch.cov(clean.T), atol=0.25)


def test_ridge_undoes_a_linear_map() -> None:
    clean = tokens()
    mixed = torch.eye(AXES) + 0.3 * torch.randn(AXES, AXES, generator=torch.Generator().manual_seed(2))
    assert left("ridge", clean @ mixed - 2, clean) < 0.05


def test_context_uses_the_mean_token_of_the_image() -> None:
    clean = tokens()
    means = torch.randn(len(clean) // 40, AXES, generator=torch.Generator().manual_seed(3)).repeat_interleave(
        40, 0
    )
    noisy = clean + 1.5 * means
    assert left("context", noisy, clean, means) < 0.05
    assert left("ridge", noisy, clean, means) > 0.2


def test_project_removes_what_the_noise_adds() -> None:
    clean = torch.cat([tokens(), tokens().flip(1), tokens()], 1)
    noisy = clean.clone()
    noisy[:, :2] += 30 * torch.randn(len(clean), 2, generator=torch.Generator().manual_seed(4))
    solve = get_operator("project").solve
    assert solve is not None
    found = solve(known(noisy, clean))
    after = noisy + torch.cat([noisy, torch.zeros_like(noisy)], 1) @ found.weight + found.bias
    assert float((after - clean).square().mean()) < 0.05 * float((noisy - clean).square().mean())


def test_knn_finds_the_clean_token_of_the_nearest_noisy_one() -> None:
    noisy = 5 * torch.eye(AXES)
    clean = torch.arange(AXES * AXES).float().reshape(AXES, AXES)
    found = nearest_clean(torch.stack([noisy, clean], 1), 3 * noisy[2:3])
    assert torch.allclose(found, clean[2:3], atol=0.05)


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'shift'"):
        get_operator("shfit")


def test_few_tokens_are_trusted_less() -> None:
    clean = tokens()
    noisy = 0.3 * clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    solve = get_operator("ridge").solve
    assert solve is not None
    few, many = (solve(known(noisy[:n], clean[:n])).weight for n in (100, 4000))
    assert few.norm() < many.norm()


@pytest.mark.parametrize("name", ["ridge", "context"])
def test_what_a_small_group_cannot_tell_is_taken_from_all_groups(name: str) -> None:
    """Both groups are mixed alike but for an offset of their own: twelve tokens are too few to learn how."""
    solve = get_operator(name).solve
    assert solve is not None
    clean = tokens()
    mixed = torch.eye(AXES) + 0.3 * torch.randn(AXES, AXES, generator=torch.Generator().manual_seed(6))
    large = moments(clean @ mixed, clean)
    of_group = clean[:12]
    few = moments(of_group @ mixed + 5, of_group)
    unseen = clean[100:]
    wanted = unseen - (unseen @ mixed + 5)

    def error(found: Affine) -> float:
        given = torch.cat([unseen @ mixed + 5, torch.zeros_like(unseen)], 1)
        return float((given @ found.weight + found.bias - wanted).square().mean())

    alone = error(solve(Known(few, moments(of_group, of_group), few)))
    assert error(solve(Known(few, moments(of_group, of_group), few + large))) < 0.5 * alone
