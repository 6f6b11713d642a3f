"""Calibration: perceive the noise of each image, then bring its tokens towards clean ones, or leave them alone.

An image is left alone, bit for bit, where it is found clean, where its noise is unknown, where the noise is less likely
than not, or where the image is not like others that have it. Otherwise the corrections of the likeliest prototypes are
added, each by its probability.
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
from imc_agents.vision.operators import AUTO, IDENTITY, get_operator
from imc_agents.vision.perception import CLEAN, Finding
from imc_agents.vision.solving import known
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
        gates = [1 - finding.probabilities.get(CLEAN, 0.0) for finding in kept]
        factors = [strength * gate for gate in gates]
        count = tokens.counts[batch[0]]
        at = (torch.tensor([starts[i] for i in batch])[:, None] + torch.arange(count)).flatten()
        noisy = tokens.rows.index_select(0, at).unflatten(0, (-1, count))
        patches = bank.patches.basis.project(noisy[:, first:])
        means = patches.mean(1, keepdim=True)
        change = _change(bank, bank.patches, kept, operator, factors, patches, means)
        moved = bank.patches.basis.moved(noisy[:, first:], change)
        if first:
            heads = noisy[:, :first]
            if bank.classes is not None:
                own = bank.classes.basis.project(heads)
                turned = _change(bank, bank.classes, kept, operator, factors, own, means)
                heads = bank.classes.basis.moved(heads, turned)
            moved = torch.cat([heads, moved], 1)
        result.index_copy_(0, at, moved.flatten(0, 1))
        spread = (patches - means).flatten(1).norm(dim=1).clamp_min(1e-9)
        lengths = (change.flatten(1).norm(dim=1) / spread).tolist()
        for i, gate, length in zip(batch, gates, lengths, strict=True):
            name = bank.patches.best(findings[i].noise) if operator == AUTO else operator
            done[i] = Treatment(findings[i], name, gate, length)
    return Calibration(replace(tokens, rows=result), tuple(done))


def _certain(finding: Finding) -> bool:
    return finding.noisy and finding.typical and finding.probabilities[finding.noise] > _DOUBT


def _batches(treated: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    batches: dict[int, list[int]] = {}
    for i in treated:
        batches.setdefault(counts[i], []).append(i)
    return list(batches.values())


def _change(
    bank: Bank,
    part: Part,
    findings: Sequence[Finding],
    operator: str,
    factors: Sequence[float],
    tokens: Tensor,
    means: Tensor,
) -> Tensor:
    """The corrections of projected tokens (images, tokens, axes), each image's times its factor.

    ``means`` are the mean patches, (images, 1, axes).
    """
    import torch

    names = [part.best(finding.noise) if operator == AUTO else operator for finding in findings]
    linear = [i for i, name in enumerate(names) if not get_operator(name).neighbours]
    change = torch.empty_like(tokens)
    if linear:
        axes = tokens.shape[2]
        mixed = _mixtures(bank, part, [(findings[i], names[i], factors[i]) for i in linear])
        every = len(linear) == len(names)
        of_images, chosen = (means, tokens) if every else (means[linear], tokens[linear])
        beside = torch.baddbmm(mixed[:, -1:], of_images, mixed[:, axes:-1])
        found = torch.baddbmm(beside, chosen, mixed[:, :axes])
        if every:
            return found
        change[linear] = found
    for i, name in enumerate(names):
        if get_operator(name).neighbours:
            change[i] = factors[i] * _by_neighbours(bank, part, findings[i], name, tokens[i])
    return change


def _shares(bank: Bank, finding: Finding) -> list[tuple[int, float]]:
    """The likeliest prototypes with noise and their shares, which sum to one."""
    noisy = [(index, value) for index, value in finding.prototypes if bank.prototypes[index].severity]
    total = sum(value for _, value in noisy)
    return [(index, value / total) for index, value in noisy if value > 0.05 * total]


def _mixtures(bank: Bank, part: Part, images: Sequence[tuple[Finding, str, float]]) -> Tensor:
    """The corrections of images, each of its prototypes by their shares times a factor; (images, 2 axes + 1, axes)."""
    import torch

    axes = part.basis.axes.shape[1]
    mixed = torch.zeros(len(images), 2 * axes + 1, axes)
    for made, (finding, operator, factor) in zip(mixed, images, strict=True):
        for index, share in _shares(bank, finding):
            made.add_(_solved(bank, part, index, operator), alpha=share * factor)
    return mixed


def _solved(bank: Bank, part: Part, index: int, name: str) -> Tensor:
    """The correction of a prototype at its best strength, the bias below the weight; solved once."""
    import torch

    if (index, name) not in part.solved:
        solve = get_operator(name).solve
        assert solve is not None  # the others are applied by neighbours
        found = solve(known(bank.prototypes, part.moments, index))
        strength = part.strength(bank.prototypes[index].noise, name)
        part.solved[index, name] = torch.cat([found.weight, found.bias[None]]) * strength
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
