"""Lays out a robustness benchmark: every question under every noise and severity, through every method and model.

The layout is a file of rows that the batch runner takes like any other input; its text is noisy already, its images
are made from ``ImageJob``s before the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from imc_agents.bench.matrix.images import ImageJob, Look
from imc_agents.bench.matrix.methods import MatrixMethod
from imc_agents.bench.matrix.schema import Benchmark, chosen_noises
from imc_agents.bench.outcomes import CLEAN
from imc_agents.data.sets.records import Sample
from imc_agents.noise.registry import NoiseSpec

__all__ = [
    "Case",
    "Condition",
    "Loaded",
    "Place",
    "cases",
    "conditions",
    "image_jobs",
    "place_of",
    "read_cases",
    "write_cases",
]


@dataclass(frozen=True, slots=True)
class Condition:
    """A noise at a severity, or none at all.

    Attributes:
        noise: Full name, or ``clean``.
        severity: 1 to 5; 0 for clean.
        modality: What the noise is in.
        spec: The noise; None for clean.
    """

    noise: str
    severity: int
    modality: Literal["none", "text", "image"]
    spec: NoiseSpec | None

    @property
    def image_folder(self) -> str:
        """Where the images of this condition lie; a noise of the text leaves them clean."""
        return f"{self.noise}/{self.severity}" if self.modality == "image" else f"{CLEAN}/0"

    def suits(self, table: str) -> bool:
        """Whether the noise is published for that MedMNIST set, where it is published by set."""
        return self.spec is None or not self.spec.tables or table in self.spec.tables


@dataclass(frozen=True, slots=True)
class Loaded:
    """A data set as it takes part: the chosen samples, in an order that depends on nothing but them."""

    name: str
    table: str
    images: Path | None
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands; as text it is the row's id, of which nothing but a question's own id may hold a slash."""

    model: str
    dataset: str
    noise: str
    severity: int
    method: str
    sample: str

    def __str__(self) -> str:
        noise = self.noise.replace("/", ":")
        return f"{self.model}/{self.dataset}/{noise}/{self.severity}/{self.method}/{self.sample}"


def place_of(row_id: str) -> Place:
    """Return what the id of a row says."""
    model, dataset, noise, severity, method, sample = row_id.split("/", 5)
    return Place(model, dataset, noise.replace(":", "/"), int(severity), method, sample)


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the run: a question under a condition, for a method and a model.

    Attributes:
        id: Names all of it.
        model: Name of the model.
        dataset: Name of the data set.
        noise: Full name of the noise, or ``clean``.
        severity: 1 to 5; 0 for clean.
        modality: What the noise is in.
        method: Name of the method.
        sample: Id of the question within its data set.
        kind: Closed or open.
        question: As the method gets it.
        published: As published.
        gold: The right answer.
        image: Path of the image within the images of the run; None where there is none.
    """

    id: str
    model: str
    dataset: str
    noise: str
    severity: int
    modality: Literal["none", "text", "image"]
    method: str
    sample: str
    kind: Literal["closed", "open"]
    question: str
    published: str
    gold: str
    image: str | None


def conditions(benchmark: Benchmark) -> tuple[Condition, ...]:
    """Clean first, then every noise at every severity."""
    found = [Condition(CLEAN, 0, "none", None)]
    for spec in chosen_noises(benchmark.settings.noises):
        found += [
            Condition(spec.full_name, severity, spec.modality, spec)
            for severity in benchmark.settings.severities
        ]
    return tuple(found)


def cases(benchmark: Benchmark, data: Sequence[Loaded]) -> Iterator[Case]:
    """Yield all rows: by model, data set and condition, then by image, question and method."""
    everything = conditions(benchmark)
    for model in benchmark.models:
        for loaded in data:
            for condition in everything:
                if not condition.suits(loaded.table):
                    continue
                for sample in loaded.samples:
                    if condition.modality == "image" and sample.image is None:
                        continue  # nothing that the noise could be on
                    question = _noisy_text(loaded, sample, condition, benchmark.settings.seed)
                    for name, method in benchmark.methods.items():
                        yield _case(model, loaded, condition, sample, question, name, method)


def _case(
    model: str,
    loaded: Loaded,
    condition: Condition,
    sample: Sample,
    question: str,
    name: str,
    method: MatrixMethod,
) -> Case:
    image = None
    if sample.image is not None:
        image = image_path(loaded.name, condition.image_folder, method.filter, sample.image)
    return Case(
        id=str(Place(model, loaded.name, condition.noise, condition.severity, name, sample.id)),
        model=model,
        dataset=loaded.name,
        noise=condition.noise,
        severity=condition.severity,
        modality=condition.modality,
        method=name,
        sample=sample.id,
        kind=sample.kind,
        question=question,
        published=sample.question,
        gold=sample.answer,
        image=image,
    )


def image_path(dataset: str, condition: str, filter_: str, image: str) -> str:
    """Where a noisy image lies within the images of a run."""
    return f"{dataset}/{condition}/{filter_ or 'as-is'}/{image}.png"


def _noisy_text(loaded: Loaded, sample: Sample, condition: Condition, seed: int) -> str:
    if condition.spec is None or condition.modality != "text":
        return sample.question
    noised = condition.spec.apply(
        sample.question, condition.severity, seed=seed, sample_id=sample.id, dataset=loaded.name
    )
    return noised.text


def image_jobs(benchmark: Benchmark, data: Sequence[Loaded]) -> list[ImageJob]:
    """What has to be done so that every image of every row is there; one job an image."""
    filters = sorted({method.filter for method in benchmark.methods.values()})
    looks: dict[tuple[str, int], Condition] = {}
    for condition in conditions(benchmark):
        key = (condition.noise, condition.severity) if condition.modality == "image" else (CLEAN, 0)
        looks.setdefault(key, condition)
    jobs: list[ImageJob] = []
    for loaded in data:
        if loaded.images is None:
            continue
        for image in sorted({sample.image for sample in loaded.samples if sample.image is not None}):
            wanted = tuple(
                Look(
                    noise=noise,
                    severity=severity,
                    filter=filter_,
                    target=image_path(loaded.name, condition.image_folder, filter_, image),
                )
                for (noise, severity), condition in looks.items()
                if condition.suits(loaded.table)
                for filter_ in filters
            )
            jobs.append(ImageJob(loaded.images / image, image, loaded.name, loaded.table, wanted))
    return jobs


def write_cases(rows: Iterable[Case], stream: BinaryIO) -> int:
    """Write rows as JSON lines; return how many."""
    count = 0
    for case in rows:
        fields: dict[str, Any] = {key: value for key, value in asdict(case).items() if value is not None}
        stream.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")
        count += 1
    return count


def read_cases(path: Path) -> list[Case]:
    """Return the rows of a run in their order."""
    with path.open("rb") as stream:
        return [_read_case(json.loads(line)) for line in stream]


def _read_case(fields: dict[str, Any]) -> Case:
    fields.setdefault("image", None)
    return Case(**fields)
