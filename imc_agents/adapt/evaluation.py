"""The folder of an evaluation: what was evaluated, and the logits of every image under every noise.

``evaluation.json`` is written first; each condition is a file of its own, replaced as a whole, so an evaluation that
was interrupted goes on with the conditions that are missing.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.adapt.files import part_of, replaced
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "CLEAN",
    "FILE_NAME",
    "Condition",
    "Evaluation",
    "read_logits",
    "read_plan",
    "write_logits",
    "write_plan",
]

FILE_NAME = "evaluation.json"
"""Tells that a folder holds an evaluation, and what of."""

CLEAN = "clean"
"""Stands where a noise would."""

_CONDITIONS = "conditions"


@dataclass(frozen=True, slots=True)
class Condition:
    """A noise at a severity; ``clean`` has severity 0."""

    noise: str
    severity: int

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.noise.replace('/', ':')}-{self.severity}.safetensors"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation is of.

    Attributes:
        made_with: What another call must agree in to go on: encoder, data, prompts, seed and so on, as JSON values.
        methods: Of ``none``, ``adapt``, ``calibrate``, ``both``.
        classes: Names by number.
        ids: Of the images.
        labels: Numbers of their classes.
        conditions: All that are planned.
    """

    made_with: dict[str, Any]
    methods: tuple[str, ...]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: tuple[int, ...]
    conditions: tuple[Condition, ...]


def write_plan(folder: Path, plan: Evaluation) -> None:
    """Write the plan of an evaluation into its folder, or check that it is the same.

    Raises:
        UsageError: the folder cannot be written, holds another evaluation, or something else.
    """
    if (folder / FILE_NAME).exists():
        there = read_plan(folder)
        for key in {**there.made_with, **plan.made_with}:
            if there.made_with.get(key) != plan.made_with.get(key):
                raise UsageError(
                    f"{folder}: holds an evaluation with {key} {there.made_with.get(key)!r}, not"
                    f" {plan.made_with.get(key)!r}; give the same options to go on with it, or another --output"
                )
        if there != plan:
            raise UsageError(
                f"{folder}: holds an evaluation of other images or noises; name another --output"
            )
        return
    record = {
        "made_with": plan.made_with,
        "methods": plan.methods,
        "classes": plan.classes,
        "conditions": [[condition.noise, condition.severity] for condition in plan.conditions],
        "labels": plan.labels,
        "ids": plan.ids,
    }
    text = json.dumps(record, ensure_ascii=False) + "\n"
    others = [found.name for found in folder.iterdir()] if folder.is_dir() else []
    # An evaluation that was killed while it wrote its plan leaves these two.
    if set(others) - {_CONDITIONS, part_of(folder / FILE_NAME).name}:
        raise UsageError(f"{folder}: holds something else, such as {min(others)}; name a new folder")
    try:
        (folder / _CONDITIONS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be created ({error.strerror}); name another folder") from error
    replaced(folder / FILE_NAME, text.encode())


def read_plan(folder: Path) -> Evaluation:
    """Read what an evaluation is of.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = folder / FILE_NAME
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        plan = Evaluation(
            made_with=dict(record["made_with"]),
            methods=tuple(record["methods"]),
            classes=tuple(record["classes"]),
            ids=tuple(record["ids"]),
            labels=tuple(record["labels"]),
            conditions=tuple(Condition(*found) for found in record["conditions"]),
        )
        _check(plan)
        return plan
    except OSError as error:
        raise UsageError(
            f"{folder}: holds no {FILE_NAME} ({error.strerror}); name a folder of `imc adapt eval`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged ({error}); evaluate again") from error


def _check(plan: Evaluation) -> None:
    if missing := {"encoder", "data"} - set(plan.made_with):
        raise ValueError(f"no {min(missing)}")
    if len(plan.labels) != len(plan.ids) or not set(plan.labels) <= set(range(len(plan.classes))):
        raise ValueError("the labels are not those of the images")


def write_logits(folder: Path, condition: Condition, logits: Mapping[str, Tensor]) -> None:
    """Write the logits of a condition, by method (images, classes) float32.

    Raises:
        UsageError: the folder cannot be written.
    """
    from safetensors.torch import save

    replaced(folder / _CONDITIONS / condition.file, save(dict(logits), {"format": "pt"}))


def read_logits(folder: Path, condition: Condition) -> dict[str, NDArray[np.float32]] | None:
    """Read the logits of a condition, by method float32 [images, classes]; None where it is not done yet.

    Raises:
        UsageError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / _CONDITIONS / condition.file
    if not path.is_file():
        return None
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: damaged ({error}); delete it and give the same command again") from error
