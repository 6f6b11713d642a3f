"""The calibration operators: how a noisy token is brought towards what it would be without the noise.

Every operator gives a correction that is added to a token. Notation: y a noisy token, m the mean patch of its image,
0 the clean tokens of the group, k those with the noise; mu, sigma, Sigma their mean, deviation and covariance. All are
closed-form, in the principal axes of the tokens. Packages add operators under the entry-point group
``imc_agents.calibrators``; each entry point loads an ``Operator``.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from imc_agents.errors import ConfigError, UsageError, nearest
from imc_agents.vision.moments import Moments

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AUTO",
    "ENTRY_POINT_GROUP",
    "IDENTITY",
    "Affine",
    "Known",
    "Operator",
    "get_operator",
    "operators",
]

ENTRY_POINT_GROUP = "imc_agents.calibrators"
AUTO = "auto"
IDENTITY = "identity"

# Penalties for all groups together, and for what sets one of them apart: a share of the mean variance of a token, and
# the number of tokens that double it.
_RIDGE = (0.001, 20_000)
_OWN_RIDGE = (0.03, 2_000)
_CORAL_AXES = 64
_CORAL_SHRINKAGE = 0.01
_SIGMA_SHRINKAGE = 0.1
_PROJECTED_AXES = 8


@dataclass(frozen=True, slots=True)
class Affine:
    """The correction ``(y, m) @ weight + bias``.

    Attributes:
        weight: (2 axes, axes) float32.
        bias: (axes,) float32.
    """

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Known:
    """What an operator is solved from.

    Attributes:
        noise: Moments of the tokens with the noise, in one group of images.
        clean: Of the clean tokens of that group.
        alike: Of the tokens with the noise in all groups.
    """

    noise: Moments
    clean: Moments
    alike: Moments


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Attributes:
        name: What users type.
        description: One line with the formula.
        solve: Gives the correction; None where ``neighbours`` is set.
        neighbours: Whether it looks up pairs of the bank instead (``knn``).
    """

    name: str
    description: str
    solve: Callable[[Known], Affine] | None
    neighbours: bool = False


def shift(known: Known) -> Affine:
    """mu_0 - mu_k, over pairs. The mean shift of NEO (ICLR 2026) with a prototype for each noise."""
    noise = known.noise
    return _affine(_zeros(noise), noise.d / noise.count)


def diagonal(known: Known) -> Affine:
    """mu_0 + sigma_0 (y - mu_k) / sigma_k - y, the deviations shrunk to their mean; after AdaBN (Li et al. 2016)."""
    import torch

    noise, clean = known.noise, known.clean
    ratio = _deviation(clean) / _deviation(noise)
    weight = _zeros(noise)
    weight[: noise.axes] = torch.diag(ratio - 1)
    return _affine(weight, clean.token_mean() - noise.token_mean() * ratio)


def coral(known: Known) -> Affine:
    """mu_0 + A (y - mu_k) - y with the optimal transport A between two normal distributions.

    A = S_k^-1/2 (S_k^1/2 S_0 S_k^1/2)^1/2 S_k^-1/2 for shrunk covariances S, on the first 64 axes; the others are
    shifted. Correlation alignment (Sun et al. 2016) in the form of Gelbrich 1990.
    """
    import torch

    noise, clean = known.noise, known.clean
    axes = min(_CORAL_AXES, noise.axes)
    of_noise, of_clean = (_shrunk(part.token_covariance()[:axes, :axes]) for part in (noise, clean))
    root, inverse = _root(of_noise, 0.5), _root(of_noise, -0.5)
    transport = inverse @ _root(root @ of_clean @ root, 0.5) @ inverse
    weight = _zeros(noise)
    weight[:axes, :axes] = transport.T - torch.eye(axes, dtype=weight.dtype)
    bias = clean.token_mean() - noise.token_mean()
    bias[:axes] -= noise.token_mean()[:axes] @ weight[:axes, :axes]
    return _affine(weight, bias)


def ridge(known: Known) -> Affine:
    """W = (Y'Y + a I)^-1 (Y'Z + a V) on centred pairs (Y noisy, Z clean); the correction is y W - y.

    V is the same with the pairs of all groups, and with I for V: what a group has too few images to tell is taken from
    all of them.
    """
    return _regression(known, known.noise.axes)


def context(known: Known) -> Affine:
    """Ridge regression of the correction on the token and the mean patch of its image."""
    return _regression(known, 2 * known.noise.axes)


def project(known: Known) -> Affine:
    """-U U' (y - mu_0), U the eight leading axes of the paired differences."""
    import torch

    noise = known.noise
    found: tuple[Tensor, Tensor] = torch.linalg.eigh(noise.dd / noise.count)
    leading = found[1][:, -min(_PROJECTED_AXES, noise.axes) :]
    removed = leading @ leading.T
    weight = _zeros(noise)
    weight[: noise.axes] = -removed
    return _affine(weight, known.clean.token_mean() @ removed)


def _regression(known: Known, inputs: int) -> Affine:
    """Of the correction on the first ``inputs`` of (y, m)."""
    noise = known.noise
    weight = _zeros(noise)
    together = _drawn(known.alike, inputs, _RIDGE, weight[:inputs])
    weight[:inputs] = _drawn(noise, inputs, _OWN_RIDGE, together)
    return _affine(weight, (noise.d - noise.f @ weight) / noise.count)


def _drawn(noise: Moments, inputs: int, ridge: tuple[float, int], towards: Tensor) -> Tensor:
    """Ridge regression that is drawn towards given weights, (inputs, axes), and more so the fewer tokens there are."""
    import torch

    mean, target = noise.f[:inputs] / noise.count, noise.d / noise.count
    covariance = noise.ff[:inputs, :inputs] / noise.count - torch.outer(mean, mean)
    together = noise.fd[:inputs] / noise.count - torch.outer(mean, target)
    share, prior = ridge
    penalty = share * (1 + prior / noise.count) * covariance.diagonal()[: noise.axes].mean()
    return torch.linalg.solve(
        covariance + penalty * torch.eye(inputs, dtype=mean.dtype), together + penalty * towards
    )


def _affine(weight: Tensor, bias: Tensor) -> Affine:
    return Affine(weight.float(), bias.float())


def _zeros(moments: Moments) -> Tensor:
    import torch

    return torch.zeros(2 * moments.axes, moments.axes, dtype=torch.float64)


def _deviation(moments: Moments) -> Tensor:
    variances = moments.token_covariance().diagonal().clamp_min(0)
    return ((1 - _SIGMA_SHRINKAGE) * variances + _SIGMA_SHRINKAGE * variances.mean()).sqrt()


def _shrunk(covariance: Tensor) -> Tensor:
    import torch

    level = covariance.diagonal().mean()
    return (1 - _CORAL_SHRINKAGE) * covariance + _CORAL_SHRINKAGE * level * torch.eye(
        len(covariance), dtype=covariance.dtype
    )


def _root(symmetric: Tensor, power: float) -> Tensor:
    import torch

    found: tuple[Tensor, Tensor] = torch.linalg.eigh((symmetric + symmetric.T) / 2)
    return (found[1] * found[0].clamp_min(1e-12) ** power) @ found[1].T


_BUILT_IN = (
    Operator("shift", "mu_0 - mu_k", shift),
    Operator("diagonal", "mu_0 + sigma_0 (y - mu_k) / sigma_k - y", diagonal),
    Operator("coral", "mu_0 + A (y - mu_k) - y, A the transport between the covariances", coral),
    Operator(
        "ridge", "regression of clean on noisy tokens, that of a group drawn towards that of all", ridge
    ),
    Operator("context", "the same on the token and the mean patch of its image", context),
    Operator("knn", "mean of the clean tokens whose noisy ones are nearest", None, neighbours=True),
    Operator("project", "-U U' (y - mu_0), U the leading axes of what the noise does", project),
)


@cache
def operators() -> dict[str, Operator]:
    """The known operators by name, built-in ones first.

    Raises:
        ConfigError: an installed entry point is no operator or takes a name twice.
    """
    found = {operator.name: operator for operator in _BUILT_IN}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        operator = point.load()
        if not isinstance(operator, Operator):
            raise ConfigError(
                f"entry point {point.name!r} ({point.value}) is not an Operator; fix or uninstall it"
            )
        if operator.name in {*found, AUTO, IDENTITY}:
            raise ConfigError(
                f"entry point {point.name!r} ({point.value}): an operator {operator.name!r} exists already"
            )
        found[operator.name] = operator
    return found


def get_operator(name: str) -> Operator:
    """Return the operator of that name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    known = operators()
    if name not in known:
        names = [AUTO, IDENTITY, *known]
        raise UsageError(f"unknown operator {name!r}{nearest(name, names) or ''}; known: {', '.join(names)}")
    return known[name]
