"""The seam of noises: what a noise is, and where all of them are found.

A noise is a ``NoiseSpec``: a name, a suite, a modality, five severities as data and one function. Packages add their
own under the entry-point group ``imc_agents.noises``; each entry point loads a ``NoiseSpec``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from imc_agents.errors import ConfigError, UsageError, nearest

__all__ = [
    "ENTRY_POINT_GROUP",
    "SEVERITIES",
    "SUITES",
    "NoiseSpec",
    "Strength",
    "check_severity",
    "get_noise",
    "noises",
    "table_noises",
]

ENTRY_POINT_GROUP = "imc_agents.noises"

SEVERITIES = (1, 2, 3, 4, 5)

SUITES = ("imc-11", "extra", "medmnist-c", "medimeta-c")
"""The eleven noises of this project, what is wanted beside them, and two published benchmarks."""

_UNQUALIFIED = ("imc-11", "extra")

Strength = float | tuple[float, ...]
"""A parameter of one severity, or several such as (radius, sigma)."""


@dataclass(frozen=True, slots=True)
class NoiseSpec:
    """One noise.

    Attributes:
        name: What users type; of a published suite behind the suite and a slash.
        modality: What it acts on.
        description: One line for ``imc noise list``.
        per: The unit that the strengths count, e.g. ``letter``.
        strengths: One parameter per severity 1..5, from mild to harsh; empty where it depends on the ``tables``.
        apply: Text: ``(text, severity, *, seed, sample_id, dataset, **options) -> Noised``. Image: the same of a
            uint8 array [H, W] or [H, W, 3], ``-> array`` of that shape; a noise with tables takes the option
            ``table``.
        family: What images suffer from alike, e.g. ``blur``; empty for text.
        variants: Ways in which the noise shows, e.g. under- and overexposed; the seed chooses one, or the option
            ``variant``.
        suite: One of ``SUITES``.
        tables: Strengths of severities 1..5 by data set, where they depend on it.
    """

    name: str
    modality: Literal["text", "image"]
    description: str
    per: str
    strengths: tuple[Strength, ...]
    apply: Callable[..., Any]
    family: str = ""
    variants: tuple[str, ...] = ()
    suite: str = "extra"
    tables: Mapping[str, tuple[Strength, ...]] = field(
        default_factory=dict[str, tuple[Strength, ...]], hash=False
    )

    @property
    def full_name(self) -> str:
        """The name that is unique among all suites: ``gaussian``, ``medmnist-c/gaussian_noise``."""
        return self.name if self.suite in _UNQUALIFIED else f"{self.suite}/{self.name}"


@cache
def _all() -> dict[str, NoiseSpec]:
    """Every noise by its full name."""
    from imc_agents.noise.image.kinds import IMAGE_NOISES
    from imc_agents.noise.image.suites import SUITE_NOISES
    from imc_agents.noise.text.kinds import TEXT_NOISES

    found = {spec.full_name: spec for spec in (*TEXT_NOISES, *IMAGE_NOISES, *SUITE_NOISES)}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        spec = point.load()
        if not isinstance(spec, NoiseSpec):
            raise ConfigError(
                f"entry point {point.name!r} ({point.value}) is not a NoiseSpec; fix or uninstall it"
            )
        if spec.suite != "extra":
            raise ConfigError(
                f"entry point {point.name!r} ({point.value}): the suite {spec.suite!r} is not for noises of others; "
                "leave it out"
            )
        if spec.name in found:
            raise ConfigError(
                f"entry point {point.name!r} ({point.value}): a noise {spec.name!r} exists already"
            )
        found[spec.name] = spec
    return found


def noises(
    modality: Literal["text", "image"] | None = None, suite: str | None = None
) -> tuple[NoiseSpec, ...]:
    """Return the known noises, of one modality or of all; built-in ones first.

    Args:
        modality: ``text`` or ``image``; both where it is left out.
        suite: One of ``SUITES``; where it is left out, the eleven, the extras and those of other packages.

    Raises:
        UsageError: for an unknown suite; the message names the nearest.
        ConfigError: if an installed entry point is not a noise or takes a name twice.
    """
    if suite is not None and suite not in SUITES:
        raise UsageError(f"unknown suite {suite!r}{nearest(suite, SUITES)}; known: {', '.join(SUITES)}")
    wanted = _UNQUALIFIED if suite is None else (suite,)
    return tuple(
        spec for spec in _all().values() if modality in (None, spec.modality) and spec.suite in wanted
    )


def get_noise(name: str, modality: Literal["text", "image"] | None = None) -> NoiseSpec:
    """Return the noise of that name, e.g. ``typo``, ``imc-11/gaussian`` or ``medmnist-c/gaussian_noise``.

    Raises:
        UsageError: if there is none; the message names the nearest of all suites.
    """
    known = {name: spec for name, spec in _all().items() if modality in (None, spec.modality)}
    qualified = {f"{spec.suite}/{spec.name}": spec for spec in known.values()}
    found = known.get(name) or qualified.get(name)
    if found is None:
        what = f"{modality} noise" if modality else "noise"
        # A bare name of a published suite means that one, however near others are.
        named = [full for full, spec in known.items() if spec.name == name]
        near = (
            f"; did you mean {' or '.join(map(repr, named))}?"
            if named
            else nearest(name, [*known, *qualified])
        )
        raise UsageError(f"unknown {what} {name!r}{near or '; known: ' + ', '.join(known)}")
    return found


def table_noises(table: str) -> tuple[NoiseSpec, ...]:
    """Return the noises that have strengths for one data set, e.g. the 13 of ``pneumoniamnist``.

    Raises:
        UsageError: if none has; the message names the nearest and lists all.
    """
    found = tuple(spec for spec in _all().values() if table in spec.tables)
    if not found:
        tables = list(dict.fromkeys(name for spec in _all().values() for name in spec.tables))
        raise UsageError(f"unknown table {table!r}{nearest(table, tables)}; known: {', '.join(tables)}")
    return found


def check_severity(severity: int) -> None:
    """Check that a severity is one of 1..5.

    Raises:
        UsageError: if it is not.
    """
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise UsageError(f"severity {severity!r} is outside 1..5; 1 is mild, 5 is harsh")
