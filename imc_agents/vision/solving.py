"""What the operators of a prototype are solved from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

from imc_agents.vision.moments import Moments
from imc_agents.vision.operators import Known
from imc_agents.vision.perception import Prototype

__all__ = ["clean_of", "known"]


def clean_of(prototypes: Sequence[Prototype], index: int) -> int:
    """The index of the clean prototype of the same group."""
    group = prototypes[index].group
    return next(i for i, item in enumerate(prototypes) if item.group == group and item.severity == 0)


def known(prototypes: Sequence[Prototype], moments: Sequence[Moments], index: int) -> Known:
    """What is known of the noise of a prototype.

    Args:
        prototypes: All of them.
        moments: Of each.
        index: The prototype.
    """
    item = prototypes[index]
    same = (item.noise, item.variant, item.severity)
    alike = [
        found
        for other, found in zip(prototypes, moments, strict=True)
        if (other.noise, other.variant, other.severity) == same
    ]
    return Known(moments[index], moments[clean_of(prototypes, index)], reduce(add, alike))
