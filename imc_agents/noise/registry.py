"""The seam of noises: what a noise is, and where all of them are found.

A noise is a ``NoiseSpec``: a name, a modality, five severities as data and one function. Packages add their own
under the entry-point group ``imc_agents.noises``; each entry point loads a ``NoiseSpec``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from imc_agents.errors import ConfigError, UsageError, nearest

__all__ = ["ENTRY_POINT_GROUP", "SEVERITIES", "NoiseSpec", "check_severity", "get_noise", "noises"]

ENTRY_POINT_GROUP = "imc_agents.noises"

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class NoiseSpec:
    """One noise.

    Attributes:
        name: What users type.
        modality: What it acts on.
        description: One line for ``imc noise list``.
        per: The unit that the strengths count, e.g. ``letter``.
        strengths: One parameter per severity 1..5, from mild to harsh.
        apply: Text: ``(text, severity, *, seed, sample_id, dataset, **options) -> Noised``. Image: the same of a
            uint8 array [H, W] or [H, W, 3], ``-> array`` of that shape.
        family: What images suffer from alike, e.g. ``blur``; empty for text.
        variants: Ways in which the noise shows, e.g. under- and overexposed; the seed chooses one, or the option
            ``variant``.
    """

    name: str
    modality: Literal["text", "image"]
    description: str
    per: str
    strengths: tuple[float, ...]
    apply: Callable[..., Any]
    family: str = ""
    variants: tuple[str, ...] = ()


@cache
def _all() -> dict[str, NoiseSpec]:
    from imc_agents.noise.image.kinds import IMAGE_NOISES
    from imc_agents.noise.text.kinds import TEXT_NOISES

    found = {spec.name: spec for spec in (*TEXT_NOISES, *IMAGE_NOISES)}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        spec = point.load()
        if not isinstance(spec, NoiseSpec):
            raise ConfigError(
                f"entry point {point.name!r} ({point.value}) is not a NoiseSpec; fix or uninstall it"
            )
        if spec.name in found:
            raise ConfigError(
                f"entry point {point.name!r} ({point.value}): a noise {spec.name!r} exists already"
            )
        found[spec.name] = spec
    return found


def noises(modality: Literal["text", "image"] | None = None) -> tuple[NoiseSpec, ...]:
    """Return the known noises, of one modality or of all; built-in ones first.

    Raises:
        ConfigError: if an installed entry point is not a noise or takes a name twice.
    """
    return tuple(spec for spec in _all().values() if modality in (None, spec.modality))


def get_noise(name: str, modality: Literal["text", "image"] | None = None) -> NoiseSpec:
    """Return the noise of that name.

    Raises:
        UsageError: if there is none; the message names the nearest.
    """
    known = {spec.name: spec for spec in noises(modality)}
    if name not in known:
        what = f"{modality} noise" if modality else "noise"
        hint = nearest(name, list(known)) or f"; known: {', '.join(known)}"
        raise UsageError(f"unknown {what} {name!r}{hint}")
    return known[name]


def check_severity(severity: int) -> None:
    """Check that a severity is one of 1..5.

    Raises:
        UsageError: if it is not.
    """
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise UsageError(f"severity {severity!r} is outside 1..5; 1 is mild, 5 is harsh")
