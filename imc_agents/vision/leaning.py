"""How much the noise of each family must stand out before an image is said to have it.

Some clean images look noisy: a scan that was stored as JPEG, a film that is darker than others. What is gained by
believing in such noise easily differs from group to group, so each family has a lean of its own in each group.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from imc_agents.vision.perception import Prototype

__all__ = ["find_leans", "leans_of"]

_CLEAN_RECALL = 0.98
_PRICES = tuple(2.0 ** (power / 2) for power in range(-8, 25))


def find_leans(log_posterior: Tensor, prototypes: Sequence[Prototype], index: Tensor) -> Tensor:
    """Find the lean of each prototype, (prototypes,) float64; that of its family in its group, 0 for clean ones.

    Args:
        log_posterior: (samples, prototypes) float64, of images that the discriminants had not seen.
        prototypes: All of them.
        index: (samples,) int64, the true one of each sample.
    """
    import torch

    families = list(dict.fromkeys(item.family for item in prototypes if item.severity))
    group = torch.tensor([item.group for item in prototypes])
    family = torch.tensor([families.index(item.family) if item.severity else -1 for item in prototypes])
    severity = torch.tensor([item.severity for item in prototypes], dtype=torch.float64)
    of_clean = log_posterior[:, family < 0].logsumexp(1)
    margins = torch.stack(
        [log_posterior[:, family == i].logsumexp(1) - of_clean for i in range(len(families))], 1
    )
    found = group[log_posterior.max(1).indices]
    leans = leans_of(margins, found, int(group.max()) + 1, family[index], severity[index])
    return leans[group, family].masked_fill(family < 0, 0)


def leans_of(margins: Tensor, groups: Tensor, count: int, family: Tensor, severities: Tensor) -> Tensor:
    """Find the least leans with which nearly all clean images are found clean.

    A lean buys fewer false alarms with missed noise. All leans are set by one price of a false alarm (Neyman-Pearson):
    each is where the noise that it finds, weighted by severity, less the price of its alarms is largest. The lowest
    price that leaves enough clean images clean is taken.

    Args:
        margins: (samples, families) float64, log-probability of each family of noises over that of clean, of images
            that the discriminants had not seen.
        groups: (samples,) int64, the group that each was found in.
        count: Groups.
        family: (samples,) int64, the true family; -1 for clean.
        severities: (samples,) float64, the true severity.

    Returns:
        (groups, families) float64, none below 0: what the margin must exceed.
    """
    import torch

    families = margins.shape[1]
    clean = family < 0
    leans = torch.zeros(count, families, dtype=torch.float64)
    if not families or not bool(clean.any()):
        return leans
    gains: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
    for group in range(count):
        here = groups == group
        for column in range(families):
            of_family = here & (family == column)
            # A clean image has a sample for each noise, variant and severity; together they weigh as much.
            weights = severities[of_family] / severities[family == column].sum() * clean.sum()
            gains[group, column] = _gains(margins[here & clean, column], margins[of_family, column], weights)
    for price in _PRICES:
        for place, (candidates, found, alarms) in gains.items():
            leans[place] = candidates[(found - price * alarms).argmax()]
        kept = (margins[clean] <= leans[groups[clean]]).all(1).double().mean()
        if float(kept) >= _CLEAN_RECALL:
            break
    return leans


def _gains(alarms: Tensor, wanted: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each lean, 0 or a margin of a clean image, would give: the leans, the noise found, the false alarms."""
    import torch

    candidates = torch.cat([torch.zeros(1, dtype=alarms.dtype), alarms[alarms > 0].sort().values])
    ordered, order = wanted.sort()
    up_to = torch.cat([torch.zeros(1, dtype=weights.dtype), weights[order].cumsum(0)])
    found = up_to[-1] - up_to[torch.searchsorted(ordered, candidates, right=True)]
    false = len(alarms) - torch.searchsorted(alarms.sort().values, candidates, right=True)
    return candidates, found, false
