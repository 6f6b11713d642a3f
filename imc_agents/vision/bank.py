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
from imc_agents.vision.discriminant import Discriminant
from imc_agents.vision.encoders.protocol import EncoderInfo
from imc_agents.vision.moments import Moments, TokenBasis
from imc_agents.vision.operators import Affine
from imc_agents.vision.perception import Perception, Prototype
from imc_agents.vision.statistics import PatchBasis

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bank", "Choice", "check_encoder", "load_bank", "save_bank", "without"]

_VERSION = 1
_ARRAYS = "bank.safetensors"
_FACTS = "bank.json"


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
class Bank:
    """Prototypes of one encoder.

    Attributes:
        encoder: What it was made with; it fits no other.
        layers: Layers of the encoder whose patch tokens perception reads.
        perception: Which noise an image has.
        basis: Axes of the tokens.
        moments: Of each prototype, in the order of ``perception.prototypes``.
        pairs: (prototypes, pairs, 2, axes) float16: noisy and clean tokens.
        choices: By noise and operator; what ``auto`` goes by.
        facts: How it was made: images, seed, size, severities, the confusion on held-out images.
        solved: Corrections by prototype and operator, solved when first needed.
    """

    encoder: EncoderInfo
    layers: tuple[int, ...]
    perception: Perception
    basis: TokenBasis
    moments: tuple[Moments, ...]
    pairs: Tensor
    choices: dict[str, dict[str, Choice]]
    facts: dict[str, Any]
    solved: dict[tuple[int, str], Affine] = field(
        default_factory=dict[tuple[int, str], Affine], compare=False
    )

    @property
    def prototypes(self) -> tuple[Prototype, ...]:
        """What there are prototypes of."""
        return self.perception.prototypes

    @property
    def noises(self) -> tuple[str, ...]:
        """The noises that it knows, clean left out."""
        return tuple(dict.fromkeys(item.noise for item in self.prototypes if item.severity))

    def clean_of(self, prototype: int) -> int:
        """The index of the clean prototype of the same group."""
        group = self.prototypes[prototype].group
        return next(i for i, item in enumerate(self.prototypes) if item.group == group and item.severity == 0)

    def strength(self, noise: str, operator: str) -> float:
        """The strength that suits an operator for a noise; 1 where it was not tried."""
        choice = self.choices.get(noise, {}).get(operator)
        return 1.0 if choice is None else choice.strength


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
    import torch
    from safetensors.torch import save

    seen = bank.perception
    arrays: dict[str, Tensor] = {
        "patch_basis.mean": seen.basis.mean,
        "patch_basis.axes": seen.basis.axes,
        "token_basis.mean": bank.basis.mean,
        "token_basis.axes": bank.basis.axes,
        "pairs": bank.pairs,
        "moments.count": torch.tensor([item.count for item in bank.moments], dtype=torch.float64),
    }
    for name in ("f", "d", "ff", "fd", "dd"):
        # Per token, so that float32 holds them whatever the number of tokens.
        means = [getattr(item, name) / max(item.count, 1.0) for item in bank.moments]
        arrays[f"moments.{name}"] = torch.stack(means).float()
    for name, (members, own) in seen.families.items():
        arrays |= _discriminant_arrays(f"family.{name}", own)
        arrays[f"family.{name}.members"] = members
    arrays |= _discriminant_arrays("overall", seen.overall)
    facts = {
        "version": _VERSION,
        "encoder": asdict(bank.encoder),
        "layers": list(bank.layers),
        "prototypes": [asdict(item) for item in bank.prototypes],
        "families": list(seen.families),
        "temperature": seen.temperature,
        "lean": seen.lean.tolist(),
        "far": seen.far,
        "choices": {
            noise: {name: asdict(choice) for name, choice in found.items()}
            for noise, found in bank.choices.items()
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
    import torch
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
        if len(bank.moments) != count or len(bank.pairs) != count or count < 2:
            raise ValueError("its parts do not fit together")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{folder}: the bank is damaged ({error}); build it again") from error
    assert bank.basis.axes.dtype == torch.float32  # as it is written
    return bank


def _assemble(facts: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Bank:
    import torch

    counts: list[float] = arrays["moments.count"].tolist()
    sums = [
        [arrays[f"moments.{name}"][i].double() * max(count, 1.0) for name in ("f", "d", "ff", "fd", "dd")]
        for i, count in enumerate(counts)
    ]
    perception = Perception(
        PatchBasis(arrays["patch_basis.mean"], arrays["patch_basis.axes"]),
        tuple(Prototype(**item) for item in facts["prototypes"]),
        _discriminant("overall", arrays),
        {
            name: (arrays[f"family.{name}.members"], _discriminant(f"family.{name}", arrays))
            for name in facts["families"]
        },
        facts["temperature"],
        torch.tensor(facts["lean"], dtype=torch.float64),
        facts["far"],
    )
    return Bank(
        EncoderInfo(**facts["encoder"]),
        tuple(facts["layers"]),
        perception,
        TokenBasis(arrays["token_basis.mean"], arrays["token_basis.axes"]),
        tuple(Moments(count, *found) for count, found in zip(counts, sums, strict=True)),
        arrays["pairs"],
        {
            noise: {name: Choice(**choice) for name, choice in found.items()}
            for noise, found in facts["choices"].items()
        },
        facts["facts"],
    )


def without(bank: Bank, noises: Sequence[str]) -> Bank:
    """The bank as if it had never seen some noises; the discriminants forget their prototypes."""
    import torch

    gone = torch.tensor([item.noise in noises for item in bank.prototypes])
    seen = bank.perception
    offsets = seen.overall.offsets.masked_fill(gone, -torch.inf)
    families = {
        name: (members, replace(own, offsets=own.offsets.masked_fill(gone[members], -torch.inf)))
        for name, (members, own) in seen.families.items()
        if not bool(gone[members].all())
    }
    perception = replace(seen, overall=replace(seen.overall, offsets=offsets), families=families)
    return replace(bank, perception=perception)


def _discriminant_arrays(name: str, found: Discriminant) -> dict[str, Tensor]:
    return {
        f"{name}.weights": found.weights,
        f"{name}.offsets": found.offsets,
        f"{name}.whitener": found.whitener,
        f"{name}.means": found.means,
    }


def _discriminant(name: str, arrays: Mapping[str, Tensor]) -> Discriminant:
    return Discriminant(*(arrays[f"{name}.{part}"] for part in ("weights", "offsets", "whitener", "means")))
