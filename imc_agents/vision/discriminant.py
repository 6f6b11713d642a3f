"""Closed-form discriminants with several prototypes a class (mixture discriminant analysis with shared covariance).

Hastie & Tibshirani 1996 (Discriminant analysis by Gaussian mixtures), with the subclasses given instead of fitted, and
the shrinkage of Friedman 1989 towards independent statistics.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Discriminant", "Linear", "fit_discriminant"]


@dataclass(frozen=True, slots=True)
class Linear:
    """Linear scores of prototypes.

    Attributes:
        weights: (statistics, prototypes) float64.
        offsets: (prototypes,) float64; minus infinity for a prototype that is out of the question.
    """

    weights: Tensor
    offsets: Tensor

    def scores(self, statistics: Tensor) -> Tensor:
        """Log-density of each prototype up to a constant; (images, statistics) to (images, prototypes), float64."""
        return statistics.double() @ self.weights + self.offsets

    def without(self, prototypes: Tensor) -> Linear:
        """The same with some prototypes, (prototypes,) bool, out of the question."""
        import torch

        return Linear(self.weights, self.offsets.masked_fill(prototypes, -torch.inf))


@dataclass(frozen=True, slots=True)
class Discriminant:
    """Linear scores of prototypes, and the metric in which they are distances.

    Attributes:
        linear: The scores.
        whitener: (statistics, statistics) float64; the squared length of ``x @ whitener`` is a Mahalanobis distance.
        means: (prototypes, statistics) float64.
    """

    linear: Linear
    whitener: Tensor
    means: Tensor

    def distances(self, statistics: Tensor, prototypes: Tensor) -> Tensor:
        """Squared Mahalanobis distance per statistic of each image to one prototype of its own, (images,)."""
        apart = (statistics.double() - self.means[prototypes]) @ self.whitener
        return apart.square().mean(1)


def fit_discriminant(
    statistics: Tensor, prototypes: Tensor, count: int, *, shrinkage: float, prior_images: float = 0.5
) -> Discriminant:
    """Fit prototypes and their shared covariance.

    Args:
        statistics: (samples, statistics).
        prototypes: (samples,) int64, the prototype of each sample.
        count: Prototypes; one without samples gets the score minus infinity.
        shrinkage: Share of independence in the correlation, above 0 to 1.
        prior_images: By how many samples' weight a prototype is drawn to the mean of all, against chance in small ones.
    """
    import torch

    x = statistics.double()
    width = x.shape[1]
    belongs = torch.nn.functional.one_hot(prototypes, count).double()
    sizes, sums = belongs.sum(0), belongs.T @ x
    means = (sums + prior_images * x.mean(0)) / (sizes + prior_images)[:, None]
    # Of the samples less their means, without a copy of them all.
    between = sums.T @ means
    products = x.T @ x - between - between.T + means.T @ (sizes[:, None] * means)
    covariance = products / max(1, len(x))
    deviation = covariance.diagonal().sqrt() + 1e-9
    correlation = covariance / deviation[:, None] / deviation
    correlation = (1 - shrinkage) * correlation + shrinkage * torch.eye(width, dtype=torch.float64)
    precision: Tensor = torch.linalg.inv(correlation) / deviation[:, None] / deviation
    whitener: Tensor = torch.linalg.cholesky((precision + precision.T) / 2)
    weights: Tensor = precision @ means.T
    offsets: Tensor = -0.5 * (means.T * weights).sum(0)
    offsets[sizes == 0] = -torch.inf
    return Discriminant(Linear(weights, offsets), whitener, means)
