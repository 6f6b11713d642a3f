"""What the patch embedding of an image tells about its noise: a fixed number of statistics for any number of patches.

The patch embedding is linear in the pixels. In the principal axes of clean patches, scaled to unit variance, the weak
axes are those in which clean images hardly vary (fine detail): noise shows there first, and blur as a lack of it.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from imc_agents.vision.encoders.protocol import Packed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PatchBasis", "fit_patch_basis", "patch_statistics", "sharpness"]

_MOST_AXES = 256
_EDGES = (1, 6, 16, 32, 64, 128, 192, 256)  # bands of axes, of 256
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_LEADING = 16
_PARTS = 8
_STRIPES = 16
_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class PatchBasis:
    """Principal axes of clean patch embeddings.

    Attributes:
        mean: (width,) float32.
        axes: (width, axes) float32, scaled so that clean patches have unit variance along each.
    """

    mean: Tensor
    axes: Tensor


def fit_patch_basis(count: int, total: Tensor, products: Tensor) -> PatchBasis:
    """Find the axes from the moments of clean patch embeddings.

    Args:
        count: Patches.
        total: (width,) float64, their sum.
        products: (width, width) float64, the sum of their outer products.
    """
    import torch

    mean = total / count
    covariance = products / count - torch.outer(mean, mean)
    found: tuple[Tensor, Tensor] = torch.linalg.eigh(covariance)
    variances, axes = found[0].flip(0)[:_MOST_AXES], found[1].flip(1)[:, :_MOST_AXES]
    # Axes without any variance (chroma of grey images) must not blow up what rounding leaves there.
    scale = variances.clamp_min(variances[0] * 1e-9).sqrt()
    return PatchBasis(mean.float(), (axes / scale).float())


def patch_statistics(patches: Packed, basis: PatchBasis) -> Tensor:
    """Describe the patch embeddings of each image by about 500 numbers.

    Means of the leading axes, log variance along every axis, quantiles of the log energy of patches in bands of axes
    and of their brightness, how that energy depends on the brightness (shot noise grows with it), and how both are
    spread over the image.

    Args:
        patches: Patch embeddings of a batch, any float dtype.
        basis: The axes.

    Returns:
        (images, statistics) float32.
    """
    import torch

    scaled: Tensor = torch.addmm(-(basis.mean @ basis.axes), patches.rows.float(), basis.axes)
    counts = patches.counts
    if len(set(counts)) == 1:
        return _describe(scaled.view(len(counts), counts[0], -1))
    return torch.cat([_describe(rows[None]) for rows in scaled.split(list(counts))])


def sharpness(statistics: Tensor, basis: PatchBasis) -> Tensor:
    """The log variances among the statistics, which tell fine from coarse images; (images, axes)."""
    return statistics[:, _LEADING : _LEADING + basis.axes.shape[1]]


def _describe(scaled: Tensor) -> Tensor:
    import torch
    from torch.nn.functional import adaptive_avg_pool1d

    images, patches, axes = scaled.shape
    bright = scaled[..., 0].contiguous()
    edges = [min(axes, max(1, round(edge * axes / _MOST_AXES))) for edge in _EDGES]
    squares = scaled.square()
    energy = torch.stack(
        [squares[..., low : max(high, low + 1)].mean(-1) for low, high in pairwise(edges)],
        -1,
    )
    energy = (energy + _FLOOR).log()
    means = scaled.mean(1)
    variances = (squares.mean(1) - means.square()).clamp_min(0)
    levels = _quantiles(torch.cat([energy, bright[..., None]], -1))
    order = bright.argsort(1)
    by_brightness = torch.gather(energy, 1, order[..., None].expand_as(energy))
    profile: Tensor = adaptive_avg_pool1d(by_brightness.transpose(1, 2), _PARTS)
    spread = energy - energy.mean(1, keepdim=True)
    relative = (bright - bright.mean(1, keepdim=True)) / (bright.std(1, correction=0, keepdim=True) + 0.05)
    powers = torch.stack([relative, relative.square()], 1)
    together = spread.transpose(1, 2) @ spread / patches
    # Energy as a quadratic function of brightness, the same at all brightnesses of the image.
    design = torch.stack([torch.ones_like(bright), bright, bright.square() - 1], -1)
    ridge = torch.diag(scaled.new_tensor([0.001, 0.02, 0.02])) * patches
    fitted: Tensor = torch.linalg.solve(
        design.transpose(1, 2) @ design + ridge, design.transpose(1, 2) @ energy
    )
    residual: Tensor = (energy - design @ fitted).square().mean(1)
    stripes: Tensor = adaptive_avg_pool1d(bright[:, None], _STRIPES)
    parts: tuple[Tensor, ...] = (
        torch.nn.functional.pad(means[:, :_LEADING], (0, max(0, _LEADING - axes))),
        (variances + _FLOOR).log(),
        levels,
        profile,
        powers @ spread / patches,
        together,
        fitted,
        (residual + 1e-4).log(),
        stripes,
    )
    return torch.cat([part.reshape(images, -1) for part in parts], 1)


def _quantiles(values: Tensor) -> Tensor:
    """Quantiles over dimension 1 with linear interpolation; one sort, which is quicker than ``torch.quantile``."""
    import torch

    ordered = values.mT.contiguous().sort(2).values  # quicker along the last dimension
    at = torch.tensor(_QUANTILES) * (values.shape[1] - 1)
    low = at.floor().long()
    high = (low + 1).clamp_max(values.shape[1] - 1)
    share = (at - low).to(values)
    return (ordered[..., low] * (1 - share) + ordered[..., high] * share).mT
