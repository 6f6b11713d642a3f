"""The file that describes a robustness benchmark: data sets, noises, severities, methods and models.

Each entry of ``models`` is a configuration as ``imc.yaml`` holds one; everything else is below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imc_agents.bench.matrix.methods import MATRIX_METHODS, MatrixMethod
from imc_agents.config.keys import known, validate
from imc_agents.config.layers import NO_PROFILE, file_layer, merge, override_layer
from imc_agents.config.load import Resolved, resolve
from imc_agents.config.schema import Config, RunConfig
from imc_agents.config.yaml_nodes import Node, plain, to_yaml
from imc_agents.errors import ConfigError, UsageError, nearest
from imc_agents.noise.registry import SUITES, NoiseSpec, check_severity, get_noise, noises

__all__ = ["BenchConfig", "Benchmark", "DataConfig", "chosen_noises", "dump_benchmark", "load_benchmark"]

_MODELS = "models"
_FILE = "config"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Section):
    """One data set."""

    format: str = Field(description="Layout, as `imc data check --format` takes it.")
    path: str = Field(description="Folder or file of the local copy.")
    split: str = Field(
        default="",
        description="Which split, or several by comma; empty takes the one that results are published on.",
    )
    language: str = Field(default="", description="Questions of this language only, e.g. en.")
    kinds: tuple[Literal["closed", "open"], ...] = Field(
        default=("closed", "open"), description="Kinds of question to ask."
    )
    only: str = Field(
        default="", description="JSON list of image names; only questions about these are asked."
    )
    limit: int | None = Field(
        default=None, ge=1, description="Questions at most; always the same sample, whatever the order."
    )
    table: str = Field(
        default="", description="MedMNIST set whose severities count, for noises of medmnist-c."
    )
    question: str = Field(default="", description="Sets of images without questions: what to ask of each.")
    answers: tuple[str, ...] = Field(
        default=(),
        description="Only questions with one of these answers, e.g. yes and no; of images without questions: the "
        "answer for each class.",
    )


class BenchConfig(_Section):
    """The benchmark but for its models."""

    name: str = Field(default="bench", min_length=1, description="Name of the run.")
    seed: int = Field(default=0, ge=0, description="Base seed of the noise.")
    datasets: dict[str, DataConfig] = Field(description="Data sets by name; the name is part of the seed.")
    noises: tuple[str, ...] = Field(
        default=("imc-11",), description="Noises and suites, as `imc noise list` names them."
    )
    severities: tuple[int, ...] = Field(default=(1, 2, 3, 4, 5), description="1 (mild) to 5 (harsh).")
    methods: tuple[str, ...] = Field(
        default=("none", "sms", "pdc", "imc"), description=f"Of {', '.join(MATRIX_METHODS)}."
    )
    image_size: int = Field(
        default=224,
        ge=28,
        le=4096,
        description="Pixels of the shorter side that images are brought to before the noise.",
    )
    cache: bool = Field(default=True, description="Keep replies, so that the same call is made once.")
    keep_images: bool = Field(default=False, description="Keep the noisy images when the run is finished.")
    workers: int = Field(default=0, ge=0, description="Processes that make noisy images; 0 is one a core.")
    run: RunConfig = Field(
        default_factory=lambda: RunConfig(keep_prompts=False), description="How the run runs."
    )


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark, resolved.

    Attributes:
        settings: The benchmark but for its models.
        models: The configuration of each model; ``run.answer`` is on, ``run`` is the benchmark's.
    """

    settings: BenchConfig
    models: Mapping[str, Resolved]

    @property
    def methods(self) -> dict[str, MatrixMethod]:
        """The methods by name."""
        return {name: MATRIX_METHODS[name] for name in self.settings.methods}


def load_benchmark(path: Path, overrides: Sequence[str] = ()) -> Benchmark:
    """Read the file of a benchmark.

    Args:
        path: YAML.
        overrides: ``key=value`` with dotted keys, later ones win.

    Raises:
        ConfigError: with one line for each problem.
    """
    tree = file_layer(path)
    errors: list[str] = []
    for override in overrides:
        tree = merge(tree, override_layer(override), errors)
    keys: dict[str, Node] = dict(tree.children or {})
    models = keys.pop(_MODELS, None)
    settings = validate(known(Node(keys, tree.where), errors, BenchConfig), errors, BenchConfig)
    if settings is not None:
        errors += _problems(settings, str(path))
    if models is None or not models.children:
        errors.append(f"{path}: no models; name one, e.g. models: {{mine: {{backends: ...}}}}")
    resolved: dict[str, Resolved] = {}
    for name, node in (models.children or {}).items() if models else ():
        try:
            resolved[name] = _model(name, node, settings)
        except ConfigError as error:
            errors += [f"{_MODELS}.{name}: {line}" for line in str(error).splitlines()]
    if errors or settings is None:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    return Benchmark(settings, resolved)


def _model(name: str, node: Node, settings: BenchConfig | None) -> Resolved:
    keys: dict[str, Node] = dict(node.children or {})
    file = keys.pop(_FILE, None)
    if "/" in name:
        raise ConfigError(f"{node.where}: the name {name!r} has a slash; leave it out")
    if "run" in keys:
        raise ConfigError(f"{keys['run'].where}: `run` is the benchmark's; put it at the top of the file")
    found = resolve(
        files=[Path(str(plain(file)))] if file is not None else [],
        inline=[Node(keys, node.where)],
        overrides=["run.answer=true"],
    )
    bank = found.config.pdc.bank
    if settings is not None and not bank:
        needing = [m for m in settings.methods if m in MATRIX_METHODS and MATRIX_METHODS[m].calibrated]
        if needing:
            raise ConfigError(
                f"{node.where}: the method {needing[0]} calibrates images and needs pdc.bank; make one with "
                "`imc prototypes build`, or leave the method out"
            )
    run = (settings.run if settings else RunConfig()).model_copy(update={"answer": True})
    return Resolved(found.config.model_copy(update={"run": run}), found.origins, found.profile, found.files)


def _problems(settings: BenchConfig, where: str) -> list[str]:
    """What a schema cannot say: unknown names, with the nearest."""
    found: list[str] = []
    for name in settings.methods:
        if name not in MATRIX_METHODS:
            hint = nearest(name, list(MATRIX_METHODS)) or f"; known: {', '.join(MATRIX_METHODS)}"
            found.append(f"{where}: unknown method {name!r}{hint}")
    for key, listed in (("datasets", settings.datasets), ("methods", settings.methods)):
        if not listed:
            found.append(f"{where}: {key} is empty; name at least one")
    found += [
        f"{where}: the data set {name!r} has a slash; leave it out"
        for name in settings.datasets
        if "/" in name
    ]
    try:
        tables = {name for spec in chosen_noises(settings.noises) for name in spec.tables}
        found += [
            f"{where}: datasets.{name}.table {_unknown_table(data.table, sorted(tables))}"
            for name, data in settings.datasets.items()
            if tables and data.table not in tables
        ]
        for severity in settings.severities:
            check_severity(severity)
    except UsageError as error:
        found.append(f"{where}: {error}")
    return found


def _unknown_table(table: str, tables: Sequence[str]) -> str:
    if not table:
        return f"is missing; the severities of medmnist-c depend on it; known: {', '.join(tables)}"
    hint = nearest(table, set(tables)) or f"; known: {', '.join(tables)}"
    return f"{table!r} is unknown{hint}"


def chosen_noises(names: Sequence[str]) -> tuple[NoiseSpec, ...]:
    """Return the noises of that name or suite, each once; text first, then images.

    Raises:
        UsageError: there is no such noise or suite; names the nearest.
    """
    found: dict[str, NoiseSpec] = {}
    for name in names:
        if name in SUITES:
            specs: Sequence[NoiseSpec] = noises(suite=name)
        else:
            try:
                specs = (get_noise(name),)
            except UsageError:
                if hint := nearest(name, SUITES):
                    raise UsageError(f"unknown noise or suite {name!r}{hint}") from None
                raise
        found |= {spec.full_name: spec for spec in specs}
    return tuple(sorted(found.values(), key=lambda spec: spec.modality != "text"))


def dump_benchmark(benchmark: Benchmark) -> str:
    """Return a file that loads as exactly this benchmark, whatever the profiles are by then."""
    models: dict[str, Any] = {
        name: {"profile": NO_PROFILE, **_without_run(found.config)}
        for name, found in benchmark.models.items()
    }
    return to_yaml({**benchmark.settings.model_dump(mode="json"), _MODELS: models})


def _without_run(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"run"})
