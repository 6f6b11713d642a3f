"""Groups of images that are alike in how their detail is spread over the scales, by k-means on clean images.

Noise shows against this background: what is blur in a sharp scan is a soft one's nature.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Groups", "find_groups"]

_FEWEST = 60  # images that a group needs for prototypes of its own
_AXES = 16
_STEPS = 50


@dataclass(frozen=True, slots=True)
class Groups:
    """Which group each image is in.

    Attributes:
        members: (images,) int64.
        sizes: Images of each group.
    """

    members: Tensor
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Groups."""
        return len(self.sizes)


def find_groups(points: Tensor, wanted: int) -> Groups:
    """Group images, into fewer groups than wanted where one would be too small.

    Starts from the images farthest apart, so that the outcome does not depend on chance.

    Args:
        points: (images, any), what they are alike in.
        wanted: Groups at most.
    """
    import torch

    centred = (points - points.mean(0)).double()
    found: tuple[Tensor, Tensor, Tensor] = torch.linalg.svd(centred, full_matrices=False)
    leading = found[0][:, :_AXES] * found[1][:_AXES]
    for count in range(wanted, 1, -1):
        members = _k_means(leading, count)
        sizes = torch.bincount(members, minlength=count)
        if int(sizes.min()) >= _FEWEST:
            return Groups(members, tuple(int(size) for size in sizes))
    return Groups(torch.zeros(len(points), dtype=torch.int64), (len(points),))


def _k_means(points: Tensor, count: int) -> Tensor:
    import torch

    first = points.square().sum(1).argmax()
    centres = points[first][None]
    while len(centres) < count:
        centres = torch.cat([centres, points[torch.cdist(points, centres).min(1).values.argmax()][None]])
    members = torch.cdist(points, centres).argmin(1)
    for _ in range(_STEPS):
        centres = torch.stack(
            [points[members == i].mean(0) if bool((members == i).any()) else centres[i] for i in range(count)]
        )
        again = torch.cdist(points, centres).argmin(1)
        if bool((again == members).all()):
            break
        members = again
    return members
