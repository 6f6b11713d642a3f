"""From which distance an image is no longer like its likeliest prototype.

Some kinds of images are far more alike than others, so each group has distances of its own, for clean images and for
those with noise.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from imc_agents.vision.perception import Prototype

__all__ = ["find_reach"]


def find_reach(distances: Tensor, likeliest: Tensor, prototypes: Sequence[Prototype], share: float) -> Tensor:
    """Find the squared distances within which a share of the images lies that the discriminants had not seen.

    Args:
        distances: (samples,) float64, squared distance of each to its likeliest prototype.
        likeliest: (samples,) int64, that prototype.
        prototypes: All of them.
        share: 0 to 1.

    Returns:
        (prototypes,) float64, the same for all prototypes of a group that are clean, or that are of a noise.
    """
    import torch

    kinds = torch.tensor([2 * item.group + (item.severity > 0) for item in prototypes])
    reach = torch.full((len(prototypes),), float(torch.quantile(distances, share)), dtype=torch.float64)
    for kind in kinds.unique().tolist():
        own = distances[kinds[likeliest] == kind]
        if len(own):
            reach[kinds == kind] = torch.quantile(own, share)
    return reach
