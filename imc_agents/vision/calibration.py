"""Calibration: perceive the noise of each image, then bring its tokens towards clean ones, or leave them alone.

An image is left alone, bit for bit, where it is found clean, where its noise is unknown, or where the noise is less
likely than not. Otherwise the corrections of the likeliest prototypes are added, each by its probability.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from imc_agents.errors import DataError
from imc_agents.vision.bank import Bank, Part
from imc_agents.vision.encoders.protocol import PATCHES, Encoded, Packed
from imc_agents.vision.operators import AUTO, IDENTITY, Affine, get_operator
from imc_agents.vision.perception import CLEAN, Finding
from imc_agents.vision.statistics import patch_statistics

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Calibration", "Treatment", "calibrate", "correct", "nearest_clean", "perceive"]

_DOUBT = 0.5
_SHARPNESS = 10.0


@dataclass(frozen=True, slots=True)
class Treatment:
    """What was done to the tokens of one image.

    Attributes:
        finding: Which noise it was found to have.
        operator: What corrected it; ``identity`` where it was left alone.
        gate: 1 - p(clean) where corrected, else 0.
        change: Length of the correction over that of the tokens' deviation from their mean.
    """

    finding: Finding
    operator: str
    gate: float
    change: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibrated tokens of a batch; shape and dtype as they were."""

    tokens: Packed
    treatments: tuple[Treatment, ...]


def perceive(bank: Bank, encoded: Encoded) -> list[Finding]:
    """Name the noise of each image of a batch.

    Raises:
        DataError: the encoder gave values that are not finite.
    """
    patches = encoded.layers[PATCHES]
    if not patches.finite or not encoded.tokens.finite:
        raise DataError(
            "the vision encoder gave features that are not finite; check the image and the weights"
        )
    return bank.perception.perceive(patch_statistics(patches, bank.perception.basis))


def calibrate(bank: Bank, encoded: Encoded, *, operator: str = AUTO, strength: float = 1.0) -> Calibration:
    """Calibrate the tokens of a batch.

    Args:
        bank: Made with the encoder that gave ``encoded``.
        encoded: With the layers that the bank names.
        operator: Name of an operator; ``auto`` takes the best for the noise, ``identity`` changes nothing.
        strength: Factor on every correction.

    Raises:
        UsageError: unknown operator.
        DataError: features that are not finite.
    """
    return correct(bank, encoded.tokens, perceive(bank, encoded), operator=operator, strength=strength)


def correct(
    bank: Bank, tokens: Packed, findings: Sequence[Finding], *, operator: str = AUTO, strength: float = 1.0
) -> Calibration:
    """Correct the tokens of a batch whose noise is known; see ``calibrate``.

    Args:
        bank: The bank.
        tokens: (sum of counts, width).
        findings: One per image.
        operator: As in ``calibrate``.
        strength: As in ``calibrate``.
    """
    import torch

    if operator not in (AUTO, IDENTITY):
        get_operator(operator)
    treated = [i for i, finding in enumerate(findings) if operator != IDENTITY and _certain(finding)]
    done = [Treatment(finding, IDENTITY, 0.0, 0.0) for finding in findings]
    if not treated:
        return Calibration(tokens, tuple(done))
    result = tokens.rows.clone()
    first = bank.encoder.prefix_tokens
    starts = [0, *accumulate(tokens.counts)]
    # Images with equally many tokens are corrected together.
    for batch in _batches(treated, tokens.counts):
        kept = [findings[i] for i in batch]
        at = torch.tensor([starts[i] for i in batch])[:, None] + torch.arange(tokens.counts[batch[0]])
        gates = torch.tensor([1 - finding.probabilities.get(CLEAN, 0.0) for finding in kept])
        noisy = tokens.rows[at[:, first:]]
        patches = bank.patches.basis.project(noisy)
        means = patches.mean(1, keepdim=True)
        factor = strength * gates[:, None, None]
        change = factor * _change(bank, bank.patches, kept, operator, patches, means)
        result[at[:, first:]] = bank.patches.basis.moved(noisy, change)
        if first and bank.classes is not None:
            heads = tokens.rows[at[:, :first]]
            turned = _change(bank, bank.classes, kept, operator, bank.classes.basis.project(heads), means)
            result[at[:, :first]] = bank.classes.basis.moved(heads, factor * turned)
        spread = (patches - means).square().sum((1, 2)).clamp_min(1e-18)
        lengths = (change.square().sum((1, 2)) / spread).sqrt().tolist()
        for i, gate, length in zip(batch, gates.tolist(), lengths, strict=True):
            name = bank.patches.best(findings[i].noise) if operator == AUTO else operator
            done[i] = Treatment(findings[i], name, gate, length)
    return Calibration(replace(tokens, rows=result), tuple(done))


def _certain(finding: Finding) -> bool:
    return finding.noisy and finding.probabilities[finding.noise] > _DOUBT


def _batches(treated: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    batches: dict[int, list[int]] = {}
    for i in treated:
        batches.setdefault(counts[i], []).append(i)
    return list(batches.values())


def _change(
    bank: Bank, part: Part, findings: Sequence[Finding], operator: str, tokens: Tensor, means: Tensor
) -> Tensor:
    """The corrections of projected tokens (images, tokens, axes); ``means`` are the mean patches, (images, 1, axes)."""
    import torch

    names = [part.best(finding.noise) if operator == AUTO else operator for finding in findings]
    axes = tokens.shape[2]
    change = torch.empty_like(tokens)
    linear = [i for i, name in enumerate(names) if not get_operator(name).neighbours]
    if linear:
        weight, bias = _mixtures(bank, part, [(findings[i], names[i]) for i in linear])
        of_image = means[linear] @ weight[:, axes:] + bias[:, None]
        change[linear] = torch.baddbmm(of_image, tokens[linear], weight[:, :axes])
    for i, name in enumerate(names):
        if get_operator(name).neighbours:
            change[i] = _by_neighbours(bank, part, findings[i], name, tokens[i])
    return change


def _shares(bank: Bank, finding: Finding) -> list[tuple[int, float]]:
    """The likeliest prototypes with noise and their shares, which sum to one."""
    noisy = [(index, value) for index, value in finding.prototypes if bank.prototypes[index].severity]
    total = sum(value for _, value in noisy)
    return [(index, value / total) for index, value in noisy if value > 0.05 * total]


def _mixtures(bank: Bank, part: Part, images: Sequence[tuple[Finding, str]]) -> tuple[Tensor, Tensor]:
    """The corrections of images, each of its prototypes by their shares: (images, 2 axes, axes), (images, axes)."""
    import torch

    axes = part.basis.axes.shape[1]
    weight, bias = torch.zeros(len(images), 2 * axes, axes), torch.zeros(len(images), axes)
    for i, (finding, operator) in enumerate(images):
        for index, share in _shares(bank, finding):
            solved = _solved(bank, part, index, operator)
            weight[i].add_(solved.weight, alpha=share)
            bias[i].add_(solved.bias, alpha=share)
    return weight, bias


def _solved(bank: Bank, part: Part, index: int, name: str) -> Affine:
    """The correction of a prototype at its best strength; solved once."""
    if (index, name) not in part.solved:
        solve = get_operator(name).solve
        assert solve is not None  # the others are applied by neighbours
        found = solve(part.moments[index], part.moments[bank.clean_of(index)])
        strength = part.strength(bank.prototypes[index].noise, name)
        part.solved[index, name] = Affine(found.weight * strength, found.bias * strength)
    return part.solved[index, name]


def nearest_clean(pairs: Tensor, tokens: Tensor) -> Tensor:
    """sum_i softmax(10 cos(y, y_i)) z_i over pairs of a noisy token y_i and the clean one z_i.

    Args:
        pairs: (pairs, 2, axes) float32.
        tokens: (tokens, axes) float32, the y.
    """
    import torch
    from torch.nn.functional import normalize

    likeness = normalize(tokens, dim=1) @ normalize(pairs[:, 0], dim=1).T
    return torch.softmax(_SHARPNESS * likeness, 1) @ pairs[:, 1]


def _by_neighbours(bank: Bank, part: Part, finding: Finding, name: str, tokens: Tensor) -> Tensor:
    import torch

    pairs = torch.cat([part.pairs[index] for index, _ in _shares(bank, finding)]).float()
    return part.strength(finding.noise, name) * (nearest_clean(pairs, tokens) - tokens)
