"""What is published about the sets of MedMNIST and MediMeta-C: tasks, names of labels, numbers of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from imc_agents.data.sets.records import Task

__all__ = ["Published", "published"]


@dataclass(frozen=True, slots=True)
class Published:
    """What the authors of a data set say about it.

    Attributes:
        task: What the labels mean.
        classes: Names of the classes or labels by number.
        samples: Images of each split; empty where nothing is said.
    """

    task: Task
    classes: tuple[str, ...]
    samples: Mapping[str, int] = field(default_factory=dict[str, int])


@cache
def published(family: Literal["medmnist", "medimeta-c"]) -> Mapping[str, Published]:
    """Return the sets of a family by name, from ``classes.yaml``."""
    import yaml

    text = files("imc_agents.data.sets").joinpath("classes.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)[family]
    return {
        name: Published(row["task"], tuple(row["classes"]), row.get("samples", {}))
        for name, row in table.items()
    }
