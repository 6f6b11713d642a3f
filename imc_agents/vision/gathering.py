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

_HELD_OUT = 5  # every fifth image of a group chooses the operators
_PAIRS = 256
_HELD_PAIRS = 128


@dataclass(frozen=True, slots=True)
class Gathering:
    """Sums by prototype; the prototypes of a group lie behind each other, in the order of the classes.

    Attributes:
        classes: Noises and severities, clean included.
        groups: The group of each image.
        kinds: (images,) int64, twice the group, and one more for the images held out: every fifth of each group.
        fitted: Moments of the images that operators are solved from.
        held: Moments of the images that choose between them.
        fitted_pairs: Some pairs of tokens, (pairs, 2, axes) of each batch.
        kept_pairs: The same of images held out.
    """

    classes: int
    groups: Groups
    kinds: Tensor
    fitted: list[Moments]
    held: list[Moments]
    fitted_pairs: list[list[Tensor]]
    kept_pairs: list[list[Tensor]]

    @classmethod
    def empty(cls, classes: int, groups: Groups, axes: int) -> Gathering:
        """Nothing gathered yet."""
        count = classes * groups.count
        kinds = 2 * groups.members
        for group in range(groups.count):
            kinds[(groups.members == group).nonzero()[::_HELD_OUT]] += 1
        return cls(
            classes,
            groups,
            kinds,
            [no_moments(axes) for _ in range(count)],
            [no_moments(axes) for _ in range(count)],
            [[] for _ in range(count)],
            [[] for _ in range(count)],
        )

    def order(self) -> Tensor:
        """All images, those of one group behind each other and in it those held out last; batches are of few groups."""
        return self.kinds.argsort(stable=True)

    def add(
        self,
        position: int,
        images: Tensor,
        counts: Sequence[int],
        noisy: Tensor,
        means: Tensor,
        clean: Tensor,
    ) -> None:
        """Add one batch of one class.

        Args:
            position: The class.
            images: (images,) int64, which images they are.
            counts: Tokens of each image.
            noisy: (sum of counts, axes) float32, projected tokens.
            means: (images, axes) float32, the mean patch token of each image.
            clean: The same as ``noisy`` of the images without noise.
        """
        import torch

        of_row = torch.repeat_interleave(torch.arange(len(images)), torch.tensor(list(counts)))
        kinds = self.kinds[images]
        for kind in kinds.unique().tolist():
            which, held = divmod(int(kind), 2)
            prototype = which * self.classes + position
            sums, pairs, quota = (
                (self.held, self.kept_pairs, _HELD_PAIRS * _HELD_OUT)
                if held
                else (self.fitted, self.fitted_pairs, _PAIRS)
            )
            rows = (kinds == kind)[of_row].nonzero()[:, 0]
            of_rows, now, was = (
                (of_row, noisy, clean)
                if len(rows) == len(of_row)
                else (of_row[rows], noisy[rows], clean[rows])
            )
            sums[prototype] += moments_of(now, was, means, of_rows)
            share = int((kinds == kind).sum()) / self.groups.sizes[which]
            few = torch.linspace(0, len(rows) - 1, max(1, int(quota * share))).long()
            pairs[prototype].append(torch.stack([now[few], was[few]], 1).half())

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
