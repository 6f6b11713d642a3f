"""The sums over the tokens of one part that are encoded while a bank is built."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imc_agents.vision.grouping import Groups
from imc_agents.vision.moments import Moments, moments_of, no_moments

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Gathering"]

_HELD_OUT = 5  # every fifth image chooses the operators
_PAIRS = 256
_HELD_PAIRS = 128


@dataclass(frozen=True, slots=True)
class Gathering:
    """Sums by prototype; the prototypes of a group lie behind each other, in the order of the classes.

    Attributes:
        classes: Noises and severities, clean included.
        groups: The group of each image.
        fitted: Moments of the images that operators are solved from.
        held: Moments of the images that choose between them.
        fitted_pairs: Some pairs of tokens, (pairs, 2, axes) of each batch.
        kept_pairs: The same of images held out.
    """

    classes: int
    groups: Groups
    fitted: list[Moments]
    held: list[Moments]
    fitted_pairs: list[list[Tensor]]
    kept_pairs: list[list[Tensor]]

    @classmethod
    def empty(cls, classes: int, groups: Groups, axes: int) -> Gathering:
        """Nothing gathered yet."""
        count = classes * groups.count
        return cls(
            classes,
            groups,
            [no_moments(axes) for _ in range(count)],
            [no_moments(axes) for _ in range(count)],
            [[] for _ in range(count)],
            [[] for _ in range(count)],
        )

    def add(
        self, position: int, first: int, counts: Sequence[int], noisy: Tensor, means: Tensor, clean: Tensor
    ) -> None:
        """Add one batch of one class.

        Args:
            position: The class.
            first: The first image of the batch.
            counts: Tokens of each image.
            noisy: (sum of counts, axes) float32, projected tokens.
            means: (images, axes) float32, the mean patch token of each image.
            clean: The same as ``noisy`` of the images without noise.
        """
        import torch

        images = torch.arange(first, first + len(counts))
        of_row = torch.repeat_interleave(images, torch.tensor(list(counts)))
        means = means[of_row - first]
        group = self.groups.members[of_row]
        held = of_row % _HELD_OUT == 0
        for which, size in enumerate(self.groups.sizes):
            prototype = which * self.classes + position
            for sums, pairs, mask, quota in (
                (self.fitted, self.fitted_pairs, ~held & (group == which), _PAIRS),
                (self.held, self.kept_pairs, held & (group == which), _HELD_PAIRS * _HELD_OUT),
            ):
                rows = mask.nonzero()[:, 0]
                if not len(rows):
                    continue
                sums[prototype] += moments_of(noisy[rows], means[rows], clean[rows])
                of_group = int((self.groups.members[images] == which).sum())
                few = rows[torch.linspace(0, len(rows) - 1, max(1, quota * of_group // size)).long()]
                pairs[prototype].append(torch.stack([noisy[few], clean[few]], 1).half())

    def moments(self) -> tuple[Moments, ...]:
        """Of all images."""
        return tuple(fitted + held for fitted, held in zip(self.fitted, self.held, strict=True))

    def pairs(self) -> Tensor:
        """Pairs of tokens of each prototype, (prototypes, pairs, 2, axes) float16."""
        return _even(self.fitted_pairs, _PAIRS)

    def held_pairs(self) -> Tensor:
        """The same of images held out."""
        return _even(self.kept_pairs, _HELD_PAIRS)


def _even(found: list[list[Tensor]], count: int) -> Tensor:
    """The same number of pairs for each prototype, some of them twice where there are few."""
    import torch

    joined = [torch.cat(parts) for parts in found]
    return torch.stack([pairs[torch.linspace(0, len(pairs) - 1, count).long()] for pairs in joined])
