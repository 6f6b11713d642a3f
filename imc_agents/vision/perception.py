"""Which noise an image has: prototypes of every noise and severity, and honest probabilities between them.

Prototypes are kept for groups of images that look alike, since what noise does to a sharp scan is not what it does to
a soft one. First all prototypes compete with one covariance; noises of one family (``gaussian`` and ``shot``) are then
told apart with the covariance of that family alone, which is far tighter. Temperature, the lean towards ``clean`` and
the distance from which an image is ``unknown`` come from images that the discriminants had not seen.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imc_agents.vision.discriminant import Discriminant, fit_discriminant
from imc_agents.vision.statistics import PatchBasis

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CLEAN", "UNKNOWN", "Finding", "Perception", "Prototype", "fit_perception"]

CLEAN = "clean"
UNKNOWN = "unknown"
_FOLDS = 5
_SHRINKAGE = 0.003
_FAMILY_SHRINKAGE = 0.01
_CLEAN_RECALL = 0.95  # of images held out from four fifths; with all of them it is higher
_FAR_SHARE = 0.998
_KEPT = 4  # prototypes that a finding names


@dataclass(frozen=True, slots=True)
class Prototype:
    """One noise at one severity, in one group of images.

    Attributes:
        group: Images that look alike.
        noise: Name of the noise, or ``clean``.
        variant: Of noises that have variants, else empty.
        severity: 1..5; 0 for clean.
        family: Of the noise; ``clean`` for clean.
    """

    group: int
    noise: str
    variant: str
    severity: int
    family: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What an image was found to have.

    Attributes:
        noise: Name of the noise, ``clean``, or ``unknown`` where it is far from every prototype.
        variant: Of the noise, else empty.
        severity: 1..5, rounded mean; 0 for clean and unknown.
        family: Of the noise, else as ``noise``.
        probabilities: Of each noise and of clean; they sum to one.
        distance: To the nearest prototype over the distance from which an image is unknown.
        prototypes: Index and probability of the likeliest prototypes, likeliest first.
    """

    noise: str
    variant: str
    severity: int
    family: str
    probabilities: dict[str, float]
    distance: float
    prototypes: tuple[tuple[int, float], ...]

    @property
    def noisy(self) -> bool:
        """Whether a noise was recognised."""
        return self.noise not in (CLEAN, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Perception:
    """The prototypes and how they are told apart.

    Attributes:
        basis: Axes of the patch embedding.
        prototypes: All of them; indices refer to this order.
        overall: Discriminant of all prototypes.
        families: For each family of several noises, the indices of its prototypes and their own discriminant.
        temperature: Scores are divided by it.
        lean: Added to the scores of the prototypes, in nats; 0 but for the clean ones.
        far: Squared distance from which an image is unknown.
    """

    basis: PatchBasis
    prototypes: tuple[Prototype, ...]
    overall: Discriminant
    families: dict[str, tuple[Tensor, Discriminant]]
    temperature: float
    lean: Tensor
    far: float

    def posterior(self, statistics: Tensor) -> Tensor:
        """Probability of each prototype; (images, statistics) to (images, prototypes) float64."""
        return _log_posterior(self, statistics, self.temperature, self.lean).exp()

    def perceive(self, statistics: Tensor) -> list[Finding]:
        """Name the noise of each image; statistics that are not finite give ``unknown``.

        Args:
            statistics: (images, statistics) from ``patch_statistics``.
        """
        import torch

        finite = statistics.isfinite().all(1)
        safe = torch.where(finite[:, None], statistics, torch.zeros_like(statistics))
        posterior = self.posterior(safe)
        top = posterior.topk(min(_KEPT, posterior.shape[1]), 1)
        distances = self.overall.distances(safe, top.indices[:, 0]) / self.far
        distances = distances.masked_fill(~finite, torch.inf).tolist()
        by_noise = posterior @ self.belongs
        noises = by_noise.max(1).indices
        # Of the prototypes of the noise that was found: the likeliest, and the mean severity.
        of_noise = posterior * self.belongs.T[noises]
        best = of_noise.max(1).indices.tolist()
        severity = torch.tensor([item.severity for item in self.prototypes], dtype=torch.float64)
        severities = (of_noise @ severity / of_noise.sum(1)).round().long().tolist()
        likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        found: list[Finding] = []
        for i, (indices, values) in enumerate(likeliest):
            shares = dict(zip(self.noises, by_noise[i].tolist(), strict=True))
            kept = tuple(zip(indices, values, strict=True))
            item = self.prototypes[best[i]]
            if distances[i] <= 1:
                named = (item.noise, item.variant, severities[i], item.family)
            else:
                named = (UNKNOWN, "", 0, UNKNOWN)
            found.append(Finding(*named, shares, distances[i], kept))
        return found

    @property
    def noises(self) -> tuple[str, ...]:
        """Clean and the noises, in the order of their first prototypes."""
        return tuple(dict.fromkeys(item.noise for item in self.prototypes))

    @property
    def belongs(self) -> Tensor:
        """(prototypes, noises) float64, 1 where a prototype is of a noise."""
        import torch

        noises = self.noises
        columns = torch.tensor([noises.index(item.noise) for item in self.prototypes])
        return torch.nn.functional.one_hot(columns, len(noises)).double()


def fit_perception(
    basis: PatchBasis, prototypes: Sequence[Prototype], statistics: Tensor, index: Tensor, images: Tensor
) -> tuple[Perception, list[Finding]]:
    """Fit the discriminants, and calibrate them on images that they had not seen.

    Args:
        basis: Axes of the patch embedding.
        prototypes: What the samples are samples of.
        statistics: (samples, statistics).
        index: (samples,) int64, the prototype of each sample.
        images: (samples,) int64, the image that each sample was made from; all samples of one are held out together.

    Returns:
        The perception, and what each sample was found to have while its image was held out.
    """
    import torch

    no_lean = torch.zeros(len(prototypes), dtype=torch.float64)
    held_out = torch.zeros(len(index), len(prototypes), dtype=torch.float64)
    distances = torch.zeros(len(index), dtype=torch.float64)
    parts: list[tuple[Tensor, Perception]] = []
    for fold in range(min(_FOLDS, int(images.max()) + 1)):
        inside = images % _FOLDS == fold
        part = _fit(basis, prototypes, statistics[~inside], index[~inside])
        parts.append((inside, part))
    noises = list(dict.fromkeys(prototype.noise for prototype in prototypes))
    truth = torch.tensor([noises.index(prototypes[i].noise) for i in index.tolist()])
    best = (float("inf"), 1.0)
    for temperature in (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0):
        for inside, part in parts:
            held_out[inside] = _log_posterior(part, statistics[inside], temperature, no_lean)
        loss = -float(_by_noise(held_out, prototypes, noises).gather(1, truth[:, None]).mean())
        best = min(best, (loss, temperature))
    temperature = best[1]
    for inside, part in parts:
        held_out[inside] = _log_posterior(part, statistics[inside], temperature, no_lean)
        likeliest = held_out[inside].max(1).indices
        distances[inside] = part.overall.distances(statistics[inside], likeliest)
    lean = _lean(held_out, prototypes, index, noises)
    far = float(torch.quantile(distances, _FAR_SHARE))
    fitted = _fit(basis, prototypes, statistics, index)
    made = Perception(
        basis, fitted.prototypes, fitted.overall, fitted.families, temperature, lean * temperature, far
    )
    findings: list[Finding | None] = [None] * len(index)
    for inside, part in parts:
        seen = Perception(
            basis, part.prototypes, part.overall, part.families, temperature, lean * temperature, far
        )
        for sample, finding in zip(
            inside.nonzero()[:, 0].tolist(), seen.perceive(statistics[inside]), strict=True
        ):
            findings[sample] = finding
    return made, [finding for finding in findings if finding is not None]


def _fit(basis: PatchBasis, prototypes: Sequence[Prototype], statistics: Tensor, index: Tensor) -> Perception:
    import torch

    everything = fit_discriminant(statistics, index, len(prototypes), shrinkage=_SHRINKAGE)
    families: dict[str, tuple[Tensor, Discriminant]] = {}
    for family in dict.fromkeys(prototype.family for prototype in prototypes):
        members = [i for i, prototype in enumerate(prototypes) if prototype.family == family]
        if len({prototypes[i].noise for i in members}) < 2:
            continue
        position = torch.full((len(prototypes),), -1)
        position[members] = torch.arange(len(members))
        inside = position[index] >= 0
        own = fit_discriminant(
            statistics[inside], position[index[inside]], len(members), shrinkage=_FAMILY_SHRINKAGE
        )
        families[family] = (torch.tensor(members), own)
    no_lean = torch.zeros(len(prototypes), dtype=torch.float64)
    return Perception(basis, tuple(prototypes), everything, families, 1.0, no_lean, float("inf"))


def _lean(
    log_posterior: Tensor, prototypes: Sequence[Prototype], index: Tensor, noises: Sequence[str]
) -> Tensor:
    """What each clean prototype must be given so that nearly all clean images of its group are found clean."""
    import torch

    lean = torch.zeros(len(prototypes), dtype=torch.float64)
    log_noise = _by_noise(log_posterior, prototypes, noises)
    others = [i for i, noise in enumerate(noises) if noise != CLEAN]
    for at, prototype in enumerate(prototypes):
        of_group = index == at
        if prototype.noise == CLEAN and others and bool(of_group.any()):
            missing = log_noise[of_group][:, others].max(1).values - log_posterior[of_group, at]
            lean[at] = torch.quantile(missing, _CLEAN_RECALL)
    return lean


def _log_posterior(perception: Perception, statistics: Tensor, temperature: float, lean: Tensor) -> Tensor:
    import torch

    scores = perception.overall.scores(statistics) + lean
    found = torch.log_softmax(scores / temperature, 1)
    for members, own in perception.families.values():
        mass = found[:, members].logsumexp(1, keepdim=True)
        found[:, members] = mass + torch.log_softmax(own.scores(statistics) / temperature, 1)
    return found


def _by_noise(log_posterior: Tensor, prototypes: Sequence[Prototype], noises: Sequence[str]) -> Tensor:
    """(samples, prototypes) to (samples, noises), log-probabilities."""
    import torch

    columns = [[i for i, prototype in enumerate(prototypes) if prototype.noise == noise] for noise in noises]
    return torch.stack([log_posterior[:, of_noise].logsumexp(1) for of_noise in columns], 1)
