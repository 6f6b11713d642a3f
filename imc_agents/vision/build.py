"""Building a bank: clean images are corrupted with every noise and severity, encoded, and summed up.

Memory does not grow with the number of images, except for one row of statistics for each encoded image, and for the
images themselves at the encoder's size up to a bound.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from imc_agents.errors import DataError
from imc_agents.noise.registry import SEVERITIES, NoiseSpec
from imc_agents.vision.bank import Bank, Part
from imc_agents.vision.encoders.protocol import PATCHES, Encoded, Encoder, Packed
from imc_agents.vision.gathering import Gathering
from imc_agents.vision.grouping import Groups, find_groups
from imc_agents.vision.held_out import choose_operators
from imc_agents.vision.moments import TokenBasis, fit_token_basis
from imc_agents.vision.perception import Finding, Prototype, fit_perception
from imc_agents.vision.statistics import PatchBasis, fit_patch_basis, patch_statistics, sharpness
from imc_agents.vision.variants import (
    Sample,
    Variant,
    at_encoder_size,
    encode_variants,
    remembered,
    variants_of,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Sample", "at_encoder_size", "build_bank", "encodings", "split_parts"]

_PATCH_IMAGES = 64
_TOKEN_IMAGES = 16
_FEWEST = 10


def encodings(images: int, noises: Sequence[NoiseSpec]) -> int:
    """How many images are encoded to build a bank; for the progress bar."""
    classes = variants_of(noises)
    looked = len(range(0, images, _step(images, _PATCH_IMAGES)))
    compared = len(range(0, images, _step(images, _TOKEN_IMAGES))) * len(_few(classes))
    return looked + images + compared + images * len(classes)


def build_bank(
    encoder: Encoder,
    samples: Sequence[Sample],
    noises: Sequence[NoiseSpec],
    *,
    seed: int = 0,
    groups: int = 3,
    batch: int = 32,
    advance: Callable[[int], None] = lambda _: None,
) -> Bank:
    """Build a bank from clean images.

    Args:
        encoder: The encoder.
        samples: Clean images.
        noises: Image noises.
        seed: Of the noise.
        groups: Groups of images that look alike, each with prototypes of its own; fewer where images are few.
        batch: Images encoded at once.
        advance: Told how many images more have been encoded.

    Raises:
        DataError: fewer than ten images, an image that cannot be read, or features that are not finite.
    """
    import torch

    if len(samples) < _FEWEST:
        raise DataError(
            f"{len(samples)} images are too few for a bank; give at least {_FEWEST}, better 200 or more"
        )
    classes = variants_of(noises)
    samples = remembered(samples, encoder.info.image_size)
    basis, bases, grouping = _look(encoder, samples, classes, seed, groups, batch, advance)
    prototypes = [
        Prototype(group, item.noise, item.variant, item.severity, item.family)
        for group in range(grouping.count)
        for item in classes
    ]
    gatherings = [Gathering.empty(len(classes), grouping, found.axes.shape[1]) for found in bases]
    order = gatherings[0].order()
    statistics: list[Tensor] = []
    index: list[int] = []
    images: list[int] = []
    clean: list[Tensor] = []
    ordered = [samples[i] for i in order.tolist()]
    for first, position, encoded in encode_variants(encoder, ordered, classes, seed, batch):
        parts = split_parts(_finite(encoded).tokens, encoder.info.prefix_tokens)
        noisy = [found.project(part.rows) for found, part in zip(bases, parts, strict=True)]
        if position == 0:
            clean = noisy
        means = torch.stack([rows.mean(0) for rows in noisy[0].split(list(parts[0].counts))])
        of_batch = order[first : first + len(means)]
        for gathering, part, was, now in zip(gatherings, parts, clean, noisy, strict=True):
            gathering.add(position, of_batch, part.counts, now, means, was)
        statistics.append(patch_statistics(encoded.layers[PATCHES], basis))
        index += (grouping.members[of_batch] * len(classes) + position).tolist()
        images += of_batch.tolist()
        advance(len(means))
    perception, findings = fit_perception(
        basis, prototypes, torch.cat(statistics), torch.tensor(index), torch.tensor(images)
    )
    made = [_part(found, gathering, prototypes) for found, gathering in zip(bases, gatherings, strict=True)]
    facts = {
        "images": len(samples),
        "groups": list(grouping.sizes),
        "encoded": len(findings),
        "seed": seed,
        "image_size": encoder.info.image_size,
        "noises": [spec.name for spec in noises],
        "severities": list(SEVERITIES),
        "held_out": _held_out_facts([prototypes[i] for i in index], findings),
    }
    return Bank(encoder.info, (PATCHES,), perception, made[0], made[1] if len(made) > 1 else None, facts)


def split_parts(tokens: Packed, prefix: int) -> list[Packed]:
    """The patches, and the class tokens where each image has some at the beginning."""
    import torch

    if not prefix:
        return [tokens]
    rows = tokens.split()
    return [
        Packed(torch.cat([part[prefix:] for part in rows]), tuple(count - prefix for count in tokens.counts)),
        Packed(torch.cat([part[:prefix] for part in rows]), (prefix,) * len(rows)),
    ]


def _part(basis: TokenBasis, gathering: Gathering, prototypes: Sequence[Prototype]) -> Part:
    pairs = gathering.pairs()
    choices = choose_operators(prototypes, gathering.fitted, gathering.held, pairs, gathering.held_pairs())
    return Part(basis, gathering.moments(), pairs, choices)


def _look(
    encoder: Encoder,
    samples: Sequence[Sample],
    classes: Sequence[Variant],
    seed: int,
    groups: int,
    batch: int,
    advance: Callable[[int], None],
) -> tuple[PatchBasis, list[TokenBasis], Groups]:
    """A first pass over the clean images, and over a few noisy ones: axes of patches and tokens, and groups."""
    import torch

    layer = encoder.info.layer_width
    count, total = 0, torch.zeros(layer, dtype=torch.float64)
    products = torch.zeros(layer, layer, dtype=torch.float64)
    for _, _, encoded in encode_variants(encoder, _spread(samples, _PATCH_IMAGES), classes[:1], seed, batch):
        patches = _finite(encoded).layers[PATCHES].rows.float()
        count += len(patches)
        total += patches.sum(0).double()
        products += (patches.T @ patches).double()
        advance(len(encoded.tokens.counts))
    basis = fit_patch_basis(count, total, products)
    kinds: list[Tensor] = []
    prefix = encoder.info.prefix_tokens
    rows: list[list[Tensor]] = [[] for _ in range(2 if prefix else 1)]
    for _, _, encoded in encode_variants(encoder, samples, classes[:1], seed, batch):
        kinds.append(sharpness(patch_statistics(_finite(encoded).layers[PATCHES], basis), basis))
        for kept, part in zip(rows, split_parts(encoded.tokens, prefix), strict=True):
            kept.append(_thinned(part.rows, len(samples), batch))
        advance(len(encoded.tokens.counts))
    for _, _, encoded in encode_variants(
        encoder, _spread(samples, _TOKEN_IMAGES), _few(classes), seed, batch
    ):
        for kept, part in zip(rows, split_parts(_finite(encoded).tokens, prefix), strict=True):
            kept.append(part.rows.float())
        advance(len(encoded.tokens.counts))
    return basis, [fit_token_basis(torch.cat(kept)) for kept in rows], find_groups(torch.cat(kinds), groups)


def _spread(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """About ``count`` samples, evenly spread."""
    return samples[:: _step(len(samples), count)]


def _step(images: int, count: int) -> int:
    return max(1, images // count)


def _few(classes: Sequence[Variant]) -> list[Variant]:
    """The noises that show in which directions tokens are moved."""
    return [item for item in classes if item.severity in (3, 5)]


def _thinned(rows: Tensor, images: int, batch: int) -> Tensor:
    """At most about 50,000 rows of all images."""
    import torch

    keep = max(1, 50_000 * batch // max(images, batch))
    step = max(1, len(rows) // keep)
    return rows[torch.arange(0, len(rows), step)].float()


def _finite(encoded: Encoded) -> Encoded:
    if not encoded.tokens.finite or not encoded.layers[PATCHES].finite:
        raise DataError("the vision encoder gave features that are not finite; check its weights")
    return encoded


def _held_out_facts(truth: Sequence[Prototype], findings: Sequence[Finding]) -> dict[str, Any]:
    """How images that the discriminants had not seen were named: counts by true noise and severity."""
    confusion: dict[str, dict[str, int]] = {}
    within_one = noisy = 0
    for prototype, finding in zip(truth, findings, strict=True):
        row = confusion.setdefault(f"{prototype.noise}:{prototype.severity}", {})
        row[finding.noise] = row.get(finding.noise, 0) + 1
        if prototype.severity:
            noisy += 1
            within_one += abs(finding.severity - prototype.severity) <= 1
    return {"confusion": confusion, "severity_within_one": within_one / max(1, noisy)}
