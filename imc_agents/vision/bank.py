"""A bank of prototypes: what calibration knows of the noises, and the folder in which it is kept.

``bank.safetensors`` holds the arrays, ``bank.json`` everything else. Nothing in it is an image; the pairs of tokens
that ``knn`` looks up are projections of single patches.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.errors import ConfigError
from imc_agents.vision.discriminant import Discriminant, Linear
from imc_agents.vision.encoders.protocol import EncoderInfo
from imc_agents.vision.moments import Moments, TokenBasis
from imc_agents.vision.perception import Perception, Prototype, Subset
from imc_agents.vision.statistics import PatchBasis

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bank", "Choice", "Part", "check_encoder", "load_bank", "save_bank", "without"]

_VERSION = 4
_ARRAYS = "bank.safetensors"
_FACTS = "bank.json"
_SUMS = ("f", "d", "ff", "fd", "dd")


@dataclass(frozen=True, slots=True)
class Choice:
    """What held-out images say of an operator for one noise.

    Attributes:
        error: What is left of the squared distance to the clean tokens, 1 without calibration.
        strength: Share of the correction that leaves least, 0..1.
    """

    error: float
    strength: float


@dataclass(frozen=True, slots=True)
class Part:
    """What is known of one kind of tokens: patches, or class tokens, which noise moves in another way.

    Attributes:
        basis: Axes of these tokens.
        moments: Of each prototype, in the order of ``Perception.prototypes``.
        pairs: (prototypes, pairs, 2, axes) float16: noisy and clean tokens.
        choices: By noise and operator; what ``auto`` goes by.
        solved: Corrections by prototype and operator, (2 axes + 1, axes) with the bias as last row; solved when first
            needed.
    """

    basis: TokenBasis
    moments: tuple[Moments, ...]
    pairs: Tensor
    choices: dict[str, dict[str, Choice]]
    solved: dict[tuple[int, str], Tensor] = field(
        default_factory=dict[tuple[int, str], "Tensor"], compare=False
    )

    def best(self, noise: str) -> str:
        """The operator that leaves least of a noise."""
        found = self.choices[noise]
        return min(found, key=lambda name: found[name].error)

    def strength(self, noise: str, operator: str) -> float:
        """The strength that suits an operator for a noise; 1 where it was not tried."""
        choice = self.choices.get(noise, {}).get(operator)
        return 1.0 if choice is None else choice.strength


@dataclass(frozen=True, slots=True)
class Bank:
    """Prototypes of one encoder.

    Attributes:
        encoder: What it was made with; it fits no other.
        layers: Layers of the encoder whose patch tokens perception reads.
        perception: Which noise an image has.
        patches: What is known of the patch tokens.
        classes: What is known of the class tokens; None where the encoder has none.
        facts: How it was made: images, seed, size, severities, the confusion on held-out images.
    """

    encoder: EncoderInfo
    layers: tuple[int, ...]
    perception: Perception
    patches: Part
    classes: Part | None
    facts: dict[str, Any]

    @property
    def prototypes(self) -> tuple[Prototype, ...]:
        """What there are prototypes of."""
        return self.perception.prototypes

    @property
    def noises(self) -> tuple[str, ...]:
        """The noises that it knows, clean left out."""
        return tuple(dict.fromkeys(item.noise for item in self.prototypes if item.severity))


def check_encoder(bank: Bank, encoder: EncoderInfo, where: str) -> None:
    """Check that a bank was made with this encoder.

    Raises:
        ConfigError: it was not; the message says what differs.
    """
    if bank.encoder.identity == encoder.identity:
        return
    names = ("family", "width", "dtype", "preprocessing", "revision")
    differing = next(
        (name for name in names if getattr(bank.encoder, name) != getattr(encoder, name)), "revision"
    )
    raise ConfigError(
        f"{where} was made with {bank.encoder.spec} and does not fit {encoder.spec}: its {differing} is "
        f"{getattr(bank.encoder, differing)}, not {getattr(encoder, differing)}; build one with "
        f"`imc prototypes build --encoder {encoder.spec}`"
    )


def save_bank(bank: Bank, folder: Path) -> None:
    """Write a bank; what was in the folder under its names is replaced.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from safetensors.torch import save

    seen = bank.perception
    arrays: dict[str, Tensor] = {
        "patch_basis.mean": seen.basis.mean,
        "patch_basis.axes": seen.basis.axes,
    }
    for name, part in _parts(bank):
        arrays |= _part_arrays(name, part)
    for name, linear in (("overall", seen.overall.linear), *((item.name, item.own) for item in seen.subsets)):
        arrays |= {f"{name}.weights": linear.weights, f"{name}.offsets": linear.offsets}
    arrays |= {f"{item.name}.members": item.members for item in seen.subsets}
    arrays |= {"overall.whitener": seen.overall.whitener, "overall.means": seen.overall.means}
    facts = {
        "version": _VERSION,
        "encoder": asdict(bank.encoder),
        "layers": list(bank.layers),
        "prototypes": [asdict(item) for item in bank.prototypes],
        "subsets": [item.name for item in seen.subsets],
        "temperature": seen.temperature,
        "lean": seen.lean.tolist(),
        "far": seen.far.tolist(),
        "doubtful": seen.doubtful.tolist(),
        "choices": {
            name: {
                noise: {operator: asdict(choice) for operator, choice in found.items()}
                for noise, found in part.choices.items()
            }
            for name, part in _parts(bank)
        },
        "facts": bank.facts,
    }
    content = save({name: array.contiguous() for name, array in arrays.items()})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in ((_ARRAYS, content), (_FACTS, json.dumps(facts, indent=1).encode())):
            part = folder / f".{name}.part"
            part.write_bytes(data)
            part.replace(folder / name)
    except OSError as error:
        raise ConfigError(f"{folder}: the bank cannot be written ({error.strerror})") from error


def load_bank(folder: Path) -> Bank:
    """Read a bank.

    Raises:
        ConfigError: there is none, it is damaged, of another version, or holds values that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_bytes())
        arrays: dict[str, Tensor] = load((folder / _ARRAYS).read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} holds no bank ({Path(error.filename).name} is missing); build one with `imc prototypes build`"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{folder}: the bank is damaged ({error}); build it again") from error
    try:
        if facts["version"] != _VERSION:
            raise ConfigError(
                f"{folder}: the bank has version {facts['version']}, this program reads {_VERSION}; build it again"
            )
        if not all(bool(array.isfinite().all()) for name, array in arrays.items() if "offsets" not in name):
            raise ConfigError(f"{folder}: the bank holds values that are not finite; build it again")
        bank = _assemble(facts, arrays)
        count = len(bank.prototypes)
        for _, part in _parts(bank):
            if len(part.moments) != count or len(part.pairs) != count or count < 2:
                raise ValueError("its parts do not fit together")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{folder}: the bank is damaged ({error}); build it again") from error
    return bank


def _assemble(facts: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Bank:
    import torch

    perception = Perception(
        PatchBasis(arrays["patch_basis.mean"], arrays["patch_basis.axes"]),
        tuple(Prototype(**item) for item in facts["prototypes"]),
        Discriminant(_linear("overall", arrays), arrays["overall.whitener"], arrays["overall.means"]),
        tuple(Subset(name, arrays[f"{name}.members"], _linear(name, arrays)) for name in facts["subsets"]),
        facts["temperature"],
        *(torch.tensor(facts[name], dtype=torch.float64) for name in ("lean", "far", "doubtful")),
    )
    return Bank(
        EncoderInfo(**facts["encoder"]),
        tuple(facts["layers"]),
        perception,
        _part("patches", facts, arrays),
        _part("classes", facts, arrays) if "classes" in facts["choices"] else None,
        facts["facts"],
    )


def _parts(bank: Bank) -> list[tuple[str, Part]]:
    parts = [("patches", bank.patches)]
    return parts if bank.classes is None else [*parts, ("classes", bank.classes)]


def _part_arrays(name: str, part: Part) -> dict[str, Tensor]:
    import torch

    arrays = {
        f"{name}.basis.mean": part.basis.mean,
        f"{name}.basis.axes": part.basis.axes,
        f"{name}.pairs": part.pairs,
        f"{name}.moments.count": torch.tensor([item.count for item in part.moments], dtype=torch.float64),
    }
    for field_name in _SUMS:
        # Per token, so that float32 holds them whatever the number of tokens.
        means = [getattr(item, field_name) / max(item.count, 1.0) for item in part.moments]
        arrays[f"{name}.moments.{field_name}"] = torch.stack(means).float()
    return arrays


def _part(name: str, facts: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Part:
    counts: list[float] = arrays[f"{name}.moments.count"].tolist()
    sums = [
        [arrays[f"{name}.moments.{field_name}"][i].double() * max(count, 1.0) for field_name in _SUMS]
        for i, count in enumerate(counts)
    ]
    return Part(
        TokenBasis(arrays[f"{name}.basis.mean"], arrays[f"{name}.basis.axes"]),
        tuple(Moments(count, *found) for count, found in zip(counts, sums, strict=True)),
        arrays[f"{name}.pairs"],
        {
            noise: {operator: Choice(**choice) for operator, choice in found.items()}
            for noise, found in facts["choices"][name].items()
        },
    )


def without(bank: Bank, noises: Sequence[str]) -> Bank:
    """The bank as if it had never seen some noises; the discriminants forget their prototypes."""
    import torch

    gone = torch.tensor([item.noise in noises for item in bank.prototypes])
    seen = bank.perception
    subsets = tuple(
        replace(item, own=item.own.without(gone[item.members]))
        for item in seen.subsets
        if not bool(gone[item.members].all())
    )
    overall = replace(seen.overall, linear=seen.overall.linear.without(gone))
    return replace(bank, perception=replace(seen, overall=overall, subsets=subsets))


def _linear(name: str, arrays: Mapping[str, Tensor]) -> Linear:
    return Linear(arrays[f"{name}.weights"], arrays[f"{name}.offsets"])
