"""Which noise an image has: prototypes of every noise and severity, and honest probabilities between them.

Prototypes are kept for groups of images that look alike, since what noise does to a sharp scan is not what it does to
a soft one. First all prototypes compete with one covariance, which settles the group. Within a group, and then within
a family of noises (``gaussian`` and ``shot``), they compete again with the covariance of that group or family alone,
which is far tighter. Temperature, the leans towards ``clean`` and the distances from which an image is ``unknown`` come
from images that the discriminants had not seen.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imc_agents.vision.discriminant import Discriminant, Linear, fit_discriminant
from imc_agents.vision.leaning import find_leans
from imc_agents.vision.outlying import find_reach
from imc_agents.vision.statistics import PatchBasis

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CLEAN", "UNKNOWN", "Finding", "Perception", "Prototype", "Subset", "fit_perception"]

CLEAN = "clean"
UNKNOWN = "unknown"
_FOLDS = 5
_SHRINKAGE = 0.003
_OWN_SHRINKAGE = 0.03  # of a group or a family, which have fewer samples
_FAR_SHARE = 0.998
_TYPICAL_SHARE = 0.99
_TEMPERATURES = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
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
        distance: To the likeliest prototype over the distance from which an image is unknown.
        prototypes: Index and probability of the likeliest prototypes, likeliest first.
        typical: Whether it is as near to the likeliest one as 99 of 100 such images; only these are corrected.
    """

    noise: str
    variant: str
    severity: int
    family: str
    probabilities: dict[str, float]
    distance: float
    prototypes: tuple[tuple[int, float], ...]
    typical: bool

    @property
    def noisy(self) -> bool:
        """Whether a noise was recognised."""
        return self.noise not in (CLEAN, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Subset:
    """Prototypes of one group or of one family.

    Attributes:
        name: ``group:0`` or ``family:sensor``.
        members: (members,) int64, their indices among all prototypes.
        own: Their scores.
    """

    name: str
    members: Tensor
    own: Linear


@dataclass(frozen=True, slots=True)
class Perception:
    """The prototypes and how they are told apart.

    Attributes:
        basis: Axes of the patch embedding.
        prototypes: All of them; indices refer to this order.
        overall: Discriminant of all prototypes.
        subsets: Prototypes that compete once more with a discriminant of their own, in this order: groups, then
            families of several noises.
        temperature: Scores are divided by it.
        lean: Taken from the log-probabilities of the prototypes before they are normalised; 0 for clean ones.
        far: Squared distance from which an image is unknown, by its likeliest prototype.
        doubtful: Squared distance from which it is not corrected, by its likeliest prototype.
    """

    basis: PatchBasis
    prototypes: tuple[Prototype, ...]
    overall: Discriminant
    subsets: tuple[Subset, ...]
    temperature: float
    lean: Tensor
    far: Tensor
    doubtful: Tensor

    def posterior(self, statistics: Tensor) -> Tensor:
        """Probability of each prototype; (images, statistics) to (images, prototypes) float64."""
        return (_log_posterior(self, self.scores(statistics), self.temperature) - self.lean).softmax(1)

    def scores(self, statistics: Tensor) -> list[Tensor]:
        """Scores of all prototypes, then of the members of each subset; (images, prototypes or members) each."""
        return [
            self.overall.linear.scores(statistics),
            *(subset.own.scores(statistics) for subset in self.subsets),
        ]

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
        likeliest = top.indices[:, 0]
        squared = self.overall.distances(safe, likeliest)
        distances = (squared / self.far[likeliest]).masked_fill(~finite, torch.inf).tolist()
        typical = (finite & (squared <= self.doubtful[likeliest])).tolist()
        names, belongs = self.noises, self.belongs
        by_noise = posterior @ belongs
        noises = by_noise.max(1).indices
        # Of the prototypes of the noise that was found: the likeliest, and the mean severity.
        of_noise = posterior * belongs.T[noises]
        best = of_noise.max(1).indices.tolist()
        severity = torch.tensor([item.severity for item in self.prototypes], dtype=torch.float64)
        severities = (of_noise @ severity / of_noise.sum(1)).round().long().tolist()
        every = zip(by_noise.tolist(), top.indices.tolist(), top.values.tolist(), strict=True)
        found: list[Finding] = []
        for i, (of_names, indices, values) in enumerate(every):
            shares = dict(zip(names, of_names, strict=True))
            kept = tuple(zip(indices, values, strict=True))
            item = self.prototypes[best[i]]
            if distances[i] <= 1:
                named = (item.noise, item.variant, severities[i], item.family)
            else:
                named = (UNKNOWN, "", 0, UNKNOWN)
            found.append(Finding(*named, shares, distances[i], kept, typical[i]))
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

    statistics = statistics.double()
    folds: list[tuple[Tensor, Perception, list[Tensor]]] = []
    for fold in range(min(_FOLDS, int(images.max()) + 1)):
        seen = images % _FOLDS != fold
        part = _fit(basis, prototypes, statistics[seen], index[seen])
        folds.append((~seen, part, part.scores(statistics[~seen])))
    noises = list(dict.fromkeys(prototype.noise for prototype in prototypes))
    truth = torch.tensor([noises.index(prototype.noise) for prototype in prototypes])[index]
    held_out = torch.zeros(len(index), len(prototypes), dtype=torch.float64)

    def cooled(temperature: float) -> float:
        """Fill ``held_out``; gives the mean log-loss of the noise."""
        for unseen, part, scores in folds:
            held_out[unseen] = _log_posterior(part, scores, temperature)
        return -float(_by_noise(held_out, prototypes, noises).gather(1, truth[:, None]).mean())

    temperature = min(_TEMPERATURES, key=cooled)
    cooled(temperature)
    lean = find_leans(held_out, prototypes, index)
    likeliest = (held_out - lean).max(1).indices
    distances = torch.zeros(len(index), dtype=torch.float64)
    for unseen, part, _ in folds:
        distances[unseen] = part.overall.distances(statistics[unseen], likeliest[unseen])
    far, doubtful = (
        find_reach(distances, likeliest, prototypes, share) for share in (_FAR_SHARE, _TYPICAL_SHARE)
    )
    measured = {"temperature": temperature, "lean": lean, "far": far, "doubtful": doubtful}
    findings: dict[int, Finding] = {}
    for unseen, part, _ in folds:
        set_up = replace(part, **measured)
        samples = unseen.nonzero()[:, 0].tolist()
        findings.update(zip(samples, set_up.perceive(statistics[unseen]), strict=True))
    made = replace(_fit(basis, prototypes, statistics, index), **measured)
    return made, [findings[sample] for sample in range(len(index))]


def _fit(basis: PatchBasis, prototypes: Sequence[Prototype], statistics: Tensor, index: Tensor) -> Perception:
    import torch

    everything = fit_discriminant(statistics, index, len(prototypes), shrinkage=_SHRINKAGE)
    subsets: list[Subset] = []
    for name, members in _subsets(prototypes).items():
        position = torch.full((len(prototypes),), -1)
        position[members] = torch.arange(len(members))
        inside = position[index] >= 0
        own = fit_discriminant(
            statistics[inside], position[index[inside]], len(members), shrinkage=_OWN_SHRINKAGE
        )
        subsets.append(Subset(name, torch.tensor(members), own.linear))
    no_lean = torch.zeros(len(prototypes), dtype=torch.float64)
    endless = torch.full_like(no_lean, torch.inf)
    return Perception(basis, tuple(prototypes), everything, tuple(subsets), 1.0, no_lean, endless, endless)


def _subsets(prototypes: Sequence[Prototype]) -> dict[str, list[int]]:
    """Groups where there are several, then families of several noises."""
    groups: dict[str, list[int]] = {}
    families: dict[str, list[int]] = {}
    for i, prototype in enumerate(prototypes):
        groups.setdefault(f"group:{prototype.group}", []).append(i)
        families.setdefault(f"family:{prototype.family}", []).append(i)
    several = {
        name: members for name, members in families.items() if len({prototypes[i].noise for i in members}) > 1
    }
    return {**(groups if len(groups) > 1 else {}), **several}


def _log_posterior(perception: Perception, scores: Sequence[Tensor], temperature: float) -> Tensor:
    """Log-probabilities of the prototypes before any lean, (images, prototypes)."""
    import torch

    found = torch.log_softmax(scores[0] / temperature, 1)
    for subset, own in zip(perception.subsets, scores[1:], strict=True):
        mass = found[:, subset.members].logsumexp(1, keepdim=True)
        found[:, subset.members] = mass + torch.log_softmax(own / temperature, 1)
    return found


def _by_noise(log_posterior: Tensor, prototypes: Sequence[Prototype], noises: Sequence[str]) -> Tensor:
    """(samples, prototypes) to (samples, noises), log-probabilities."""
    import torch

    columns = [[i for i, prototype in enumerate(prototypes) if prototype.noise == noise] for noise in noises]
    return torch.stack([log_posterior[:, of_noise].logsumexp(1) for of_noise in columns], 1)
