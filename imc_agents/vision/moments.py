"""Sums over pairs of a noisy and a clean token, from which every closed-form operator is solved.

Tokens are taken in the principal axes of the encoder's tokens. Beside each token stands the mean patch of its image:
what noise does to a token depends on the image that it is in.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Moments", "TokenBasis", "fit_token_basis", "moments_of", "no_moments"]

_MOST_AXES = 128


@dataclass(frozen=True, slots=True)
class TokenBasis:
    """Orthonormal principal axes of tokens.

    Attributes:
        mean: (width,) float32.
        axes: (width, axes) float32.
    """

    mean: Tensor
    axes: Tensor

    def project(self, tokens: Tensor) -> Tensor:
        """(..., width) of any dtype to (..., axes) float32."""
        import torch

        rows = tokens.float().flatten(0, -2)
        return torch.addmm(-(self.mean @ self.axes), rows, self.axes).unflatten(0, tokens.shape[:-1])

    def moved(self, tokens: Tensor, change: Tensor) -> Tensor:
        """Tokens (..., width) moved by (..., axes) float32; what lies outside the axes stays as it was."""
        import torch

        rows = torch.addmm(tokens.float().flatten(0, -2), change.flatten(0, -2), self.axes.T)
        return rows.view(tokens.shape).to(tokens.dtype)


def fit_token_basis(tokens: Tensor) -> TokenBasis:
    """Find the axes; (tokens, width)."""
    import torch

    rows = tokens.double()
    mean = rows.mean(0)
    found: tuple[Tensor, Tensor] = torch.linalg.eigh((rows - mean).T @ (rows - mean))
    return TokenBasis(mean.float(), found[1].flip(1)[:, :_MOST_AXES].contiguous().float())


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over tokens; y a noisy token, m the mean patch of its image, d the clean token minus y, f = (y, m).

    Attributes:
        count: Tokens.
        f: (2 axes,) float64.
        d: (axes,) float64.
        ff: (2 axes, 2 axes) float64.
        fd: (2 axes, axes) float64.
        dd: (axes, axes) float64.
    """

    count: float
    f: Tensor
    d: Tensor
    ff: Tensor
    fd: Tensor
    dd: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.f + other.f,
            self.d + other.d,
            self.ff + other.ff,
            self.fd + other.fd,
            self.dd + other.dd,
        )

    @property
    def axes(self) -> int:
        """Axes of a token."""
        return self.d.shape[0]

    def token_mean(self) -> Tensor:
        """Mean of y, (axes,)."""
        return self.f[: self.axes] / self.count

    def token_covariance(self) -> Tensor:
        """Covariance of y, (axes, axes)."""
        import torch

        mean = self.token_mean()
        return self.ff[: self.axes, : self.axes] / self.count - torch.outer(mean, mean)


def no_moments(axes: int) -> Moments:
    """The moments of no token."""
    import torch

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64)

    return Moments(
        0.0, zeros(2 * axes), zeros(axes), zeros(2 * axes, 2 * axes), zeros(2 * axes, axes), zeros(axes, axes)
    )


def moments_of(noisy: Tensor, clean: Tensor, means: Tensor, of_row: Tensor) -> Moments:
    """Sum up pairs of tokens.

    Args:
        noisy: (tokens, axes) float32.
        clean: (tokens, axes) float32, the same tokens of the clean images.
        means: (images, axes) float32, the mean noisy patch of each image.
        of_row: (tokens,) int64, the image that each token is in.
    """
    import torch

    y, d = noisy, clean - noisy
    # All tokens of an image have the same m, so that sums over each image are enough for what m stands in.
    y_sums, d_sums = (torch.zeros_like(means).index_add_(0, of_row, rows) for rows in (y, d))
    weighed = means * torch.bincount(of_row, minlength=len(means))[:, None]
    ym = y_sums.T @ means
    return Moments(
        float(len(y)),
        torch.cat([y_sums.sum(0), weighed.sum(0)]).double(),
        d_sums.sum(0).double(),
        torch.cat([torch.cat([y.T @ y, ym], 1), torch.cat([ym.T, weighed.T @ means], 1)]).double(),
        torch.cat([y.T @ d, means.T @ d_sums]).double(),
        (d.T @ d).double(),
    )
