"""How well each operator does on images that it was not solved from, which is what ``auto`` goes by."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from imc_agents.vision.bank import Choice
from imc_agents.vision.calibration import nearest_clean
from imc_agents.vision.moments import Moments
from imc_agents.vision.operators import Affine, operators
from imc_agents.vision.perception import Prototype
from imc_agents.vision.solving import known

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["choose_operators"]


def choose_operators(
    prototypes: Sequence[Prototype],
    fitted: Sequence[Moments],
    held: Sequence[Moments],
    pairs: Tensor,
    held_pairs: Tensor,
) -> dict[str, dict[str, Choice]]:
    """Try every operator on every noise.

    With d the clean token minus the noisy one and c the correction, strength s leaves E|d - s c|^2, which is least for
    s = E(c d) / E(c c). For the closed-form operators both come from the moments, without any token.

    Args:
        prototypes: What there are moments of.
        fitted: Moments that operators are solved from.
        held: Moments of other images.
        pairs: (prototypes, pairs, 2, axes), of the first.
        held_pairs: The same of the others.
    """
    found: dict[str, dict[str, Choice]] = {}
    for noise in dict.fromkeys(item.noise for item in prototypes if item.severity):
        members = [i for i, item in enumerate(prototypes) if item.noise == noise]
        found[noise] = {}
        for name, operator in operators().items():
            together = alone = before = 0.0
            for i in members:
                if operator.solve is not None:
                    sums = _with_affine(operator.solve(known(prototypes, fitted, i)), held[i])
                else:
                    sums = _with_neighbours(pairs[i], held_pairs[i])
                together, alone, before = together + sums[0], alone + sums[1], before + sums[2]
            strength = min(1.0, max(0.0, together / max(alone, 1e-12)))
            left = before - 2 * strength * together + strength**2 * alone
            found[noise][name] = Choice(left / max(before, 1e-12), strength)
    return found


def _with_affine(correction: Affine, held: Moments) -> tuple[float, float, float]:
    """E(c d), E(c c), E(d d) of the correction c = f W + b."""
    weight, bias = correction.weight.double(), correction.bias.double()
    count = max(held.count, 1.0)
    together = (weight * held.fd).sum() + bias @ held.d
    alone = (
        ((weight.T @ held.ff) * weight.T).sum() + 2 * (held.f @ weight) @ bias + held.count * (bias @ bias)
    )
    return float(together) / count, float(alone) / count, float(held.dd.trace()) / count


def _with_neighbours(pairs: Tensor, held: Tensor) -> tuple[float, float, float]:
    noisy, clean = held[:, 0].float(), held[:, 1].float()
    correction, wanted = nearest_clean(pairs.float(), noisy) - noisy, clean - noisy
    return (
        float((correction * wanted).sum(1).mean()),
        float(correction.square().sum(1).mean()),
        float(wanted.square().sum(1).mean()),
    )
