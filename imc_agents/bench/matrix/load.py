"""Reads the data sets of a benchmark and takes the samples that its file chooses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from imc_agents.bench.matrix.layout import Loaded
from imc_agents.bench.matrix.schema import Benchmark, DataConfig
from imc_agents.data.sets.ask import ask, write_images
from imc_agents.data.sets.formats import ImageFormat
from imc_agents.data.sets.records import Problem, Sample
from imc_agents.data.sets.registry import get_format, open_dataset, open_images
from imc_agents.errors import ConfigError, UsageError

__all__ = ["load_data", "with_absolute_paths", "with_limit"]

_SHOWN = 5  # problems of one data set


def load_data(benchmark: Benchmark, unpacked: Path) -> tuple[tuple[Loaded, ...], list[str]]:
    """Return the data sets as they take part, and a line for each problem that leaves the rest usable.

    Args:
        benchmark: The benchmark.
        unpacked: Where images that lie inside other files may be written.

    Raises:
        UsageError: a data set cannot be read, or nothing of it is left.
        ConfigError: a set of images without questions has no question.
    """
    found: list[Loaded] = []
    lines: list[str] = []
    for name, settings in benchmark.settings.datasets.items():
        loaded, problems = _loaded(name, settings, unpacked)
        told = [f"{problem.where}: {problem.what}" for problem in problems if not problem.harmless]
        lines += told[:_SHOWN]
        if len(told) > _SHOWN:
            lines.append(f"{name}: {len(told) - _SHOWN} more problems; `imc data check` lists them")
        found.append(loaded)
    return tuple(found), lines


def _loaded(name: str, settings: DataConfig, unpacked: Path) -> tuple[Loaded, Sequence[Problem]]:
    """Read all splits that are named, and choose of them together."""
    splits = [split.strip() or None for split in settings.split.split(",")]
    if isinstance(get_format(settings.format), ImageFormat):
        return _asked(name, settings, splits, unpacked)
    parts = [
        open_dataset(
            settings.path,
            settings.format,
            split=split,
            language=settings.language or None,
            name=name,
            unpack=unpacked / name,
        )
        for split in splits
    ]
    samples = [
        # Ids are unique within a split only.
        replace(sample, id=f"{part.split}/{sample.id}") if len(parts) > 1 else sample
        for part in parts
        for sample in part.samples
    ]
    problems = tuple(dict.fromkeys(problem for part in parts for problem in part.problems))
    return Loaded(name, settings.table, parts[0].images, _chosen(samples, name, settings)), problems


def _asked(
    name: str, settings: DataConfig, splits: Sequence[str | None], unpacked: Path
) -> tuple[Loaded, Sequence[Problem]]:
    """Ask about the images of arrays; those that are chosen are written as files."""
    if not settings.question or not settings.answers:
        raise ConfigError(
            f"datasets.{name}: {settings.format} holds images without questions; give question, and answers with one "
            "text for each class"
        )
    folder = unpacked / f"{name}-{_version(Path(settings.path))}"
    parts = [open_images(settings.path, settings.format, split=split) for split in splits]
    asked = [ask(images, settings.question, settings.answers, folder=folder) for images in parts]
    samples = _chosen([sample for part in asked for sample in part.samples], name, settings)
    for images in parts:
        write_images(images, [s for s in samples if s.id.startswith(f"{images.split}/")], folder)
    problems = [problem for part in asked for problem in part.problems]
    return Loaded(name, settings.table, folder, samples), problems


def _version(path: Path) -> str:
    """What changes when a file does, so that images of another version are not taken for its."""
    found = path.stat()
    return sha256(f"{path.absolute()}\0{found.st_size}\0{found.st_mtime_ns}".encode()).hexdigest()[:12]


def _chosen(samples: Sequence[Sample], name: str, settings: DataConfig) -> tuple[Sample, ...]:
    """What takes part; a limit takes the samples whose ids hash lowest, so the choice never moves."""
    only = None if not settings.only else _listed(Path(settings.only))
    answers = {answer.strip().lower() for answer in settings.answers}
    kept = [
        sample
        for sample in samples
        if sample.kind in settings.kinds
        and (only is None or _file_name(sample.image) in only)
        and (not answers or sample.answer.strip().lower() in answers)
    ]
    if not kept:
        raise UsageError(
            f"datasets.{name}: no question is left of {len(samples):,}; look at kinds, answers, only, language "
            "and split"
        )
    if settings.limit is not None and settings.limit < len(kept):
        kept = sorted(kept, key=lambda sample: sha256(sample.id.encode()).digest())[: settings.limit]
    # Questions about one image stand together, so that it is encoded once.
    return tuple(sorted(kept, key=lambda sample: (sample.image or "", sample.id)))


def _file_name(image: str | None) -> str:
    return Path(image).name if image else ""


def _listed(path: Path) -> frozenset[str]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); write a JSON list of image names") from error
    if not isinstance(found, list):
        raise UsageError(f"{path}: no list; write a JSON list of image names")
    return frozenset(str(name) for name in cast(list[Any], found))


def with_limit(benchmark: Benchmark, limit: int | None) -> Benchmark:
    """Return the benchmark with so many questions of each data set at most."""
    if limit is None:
        return benchmark
    datasets = {
        name: data.model_copy(update={"limit": min(limit, data.limit or limit)})
        for name, data in benchmark.settings.datasets.items()
    }
    return replace(benchmark, settings=benchmark.settings.model_copy(update={"datasets": datasets}))


def with_absolute_paths(benchmark: Benchmark) -> Benchmark:
    """Return the benchmark with its paths written out, so that the run can be resumed from anywhere."""
    datasets = {
        name: data.model_copy(update={"path": _absolute(data.path), "only": _absolute(data.only)})
        for name, data in benchmark.settings.datasets.items()
    }
    models = {
        name: replace(
            found,
            config=found.config.model_copy(
                update={"pdc": found.config.pdc.model_copy(update={"bank": _absolute(found.config.pdc.bank)})}
            ),
        )
        for name, found in benchmark.models.items()
    }
    settings = benchmark.settings.model_copy(update={"datasets": datasets})
    return replace(benchmark, settings=settings, models=models)


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""
