"""What to put on data: one noise, several or a whole suite, at which severities, and what each outcome is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from imc_agents.errors import UsageError
from imc_agents.noise.registry import (
    SEVERITIES,
    SUITES,
    NoiseSpec,
    check_severity,
    get_noise,
    noises,
    table_noises,
)

__all__ = ["Recipe", "Step", "corrupt", "make_recipe", "parse_severities"]


@dataclass(frozen=True, slots=True)
class Step:
    """One noise at one severity.

    Attributes:
        noise: Full name.
        name: What its outcomes are called: the name within the suite where a whole suite was asked for, else the
            full name.
        severity: 1 to 5.
        folder: Where its outcome lies below the output; empty where there is only one.
    """

    noise: str
    name: str
    severity: int
    folder: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides on the noise of a sample, besides the sample and its id.

    Attributes:
        steps: In the order of noises, then of severities.
        suite: Where a whole suite was asked for, else empty.
        seed: Base seed.
        dataset: Name of the data set; part of the seed.
        table: Whose severities count, for noises whose severities depend on the data set.
    """

    steps: tuple[Step, ...]
    suite: str
    seed: int
    dataset: str
    table: str | None


def parse_severities(text: str) -> tuple[int, ...]:
    """Return what ``3``, ``1,3,5`` or ``all`` stands for, in ascending order.

    Raises:
        UsageError: it stands for nothing in 1..5.
    """
    if text == "all":
        return SEVERITIES
    found: set[int] = set()
    for part in text.split(","):
        if not part.strip().isdecimal():
            raise UsageError(f"--severity {text!r}: give 1 to 5, several by commas such as 1,3,5, or all")
        check_severity(int(part))
        found.add(int(part))
    return tuple(sorted(found))


def make_recipe(
    name: str,
    severities: tuple[int, ...],
    modality: Literal["text", "image"],
    *,
    seed: int = 0,
    dataset: str = "",
    table: str | None = None,
) -> Recipe:
    """Return the steps that noises come to, each noise tried once so that mistakes show before any work.

    One noise at one severity has its outcome in the output itself, at several severities in ``severity_S`` below it.
    Several noises and suites have ``NOISE/severity_S``.

    Args:
        name: A noise, several by commas, or one of ``SUITES``.
        severities: Among 1..5, in ascending order.
        modality: What the data is.
        seed: Base seed.
        dataset: Name of the data set.
        table: A data set of MedMNIST whose severities to take; None takes those of ``dataset``.

    Raises:
        UsageError: unknown name, noise for other data, a table where none is needed or none where one is.
    """
    suite = name if name in SUITES else ""
    if suite:
        specs = _of_suite(suite, modality, table, dataset)
    else:
        names = [part.strip() for part in name.split(",") if part.strip()] or [name]
        specs = tuple(dict.fromkeys(_of_modality(part, modality) for part in names))
    if table is not None and not any(spec.tables for spec in specs):
        raise UsageError(f"--table {table}: the severities of {name} are the same for all data; leave it out")
    steps: list[Step] = []
    for spec in specs:
        called = spec.name if suite else spec.full_name
        for severity in severities:
            parts = [called] if suite or len(specs) > 1 else []
            if parts or len(severities) > 1:
                parts.append(f"severity_{severity}")
            steps.append(Step(spec.full_name, called, severity, "/".join(parts)))
    recipe = Recipe(tuple(steps), suite, seed, dataset, table)
    trial = _trial(modality)
    for step in steps[:: len(severities)]:
        corrupt(recipe, step, trial, "")
    return recipe


def corrupt(recipe: Recipe, step: Step, clean: Any, sample_id: str) -> Any:
    """Return the noisy image (uint8 of the same shape) or text of a clean one.

    Args:
        recipe: Seed, data set and table.
        step: Which noise, at which severity.
        clean: uint8 [H, W] or [H, W, 3], or a string.
        sample_id: Identifies the sample; samples draw independently.
    """
    spec = get_noise(step.noise)
    table = {"table": recipe.table} if spec.tables else {}
    noisy = spec.apply(
        clean, step.severity, seed=recipe.seed, sample_id=sample_id, dataset=recipe.dataset, **table
    )
    return noisy.text if spec.modality == "text" else noisy


def _of_modality(name: str, modality: Literal["text", "image"]) -> NoiseSpec:
    spec = get_noise(name)
    if spec.modality != modality:
        data = {"text": "a file of questions", "image": "images"}[modality]
        fitting = ", ".join(known.full_name for known in noises(modality))
        raise UsageError(
            f"{name} is noise of {spec.modality}, and the input is {data}; choose among: {fitting}"
        )
    return spec


def _of_suite(
    suite: str, modality: Literal["text", "image"], table: str | None, dataset: str
) -> tuple[NoiseSpec, ...]:
    specs = noises(modality, suite)
    if not specs:
        data = {"text": "questions", "image": "images"}[modality]
        raise UsageError(
            f"the suite {suite} has no noise for {data}; `imc noise list --suite {suite}` shows it"
        )
    tables = tuple(dict.fromkeys(name for spec in specs for name in spec.tables))
    if not tables:
        return specs
    if table is None and dataset not in tables:
        raise UsageError(
            f"the severities of {suite} depend on the data set; name it by --table: {', '.join(tables)}"
        )
    return table_noises(table or dataset)


def _trial(modality: Literal["text", "image"]) -> Any:
    if modality == "text":
        return "Is the liver enlarged?"
    import numpy as np

    return np.zeros((32, 32), np.uint8)
