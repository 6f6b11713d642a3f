"""Keeps a text benchmark's finished parts, so that one that is cut short can be carried on."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from imc_agents.bench.text import Cell, CellRun
from imc_agents.config.schema import Config
from imc_agents.errors import UsageError

__all__ = ["CellStore", "Options"]

_RUN = TypeAdapter(CellRun)
_OPTIONS, _CELLS, _SUMMARY = "options.json", "cells", "summary.json"


class Options(BaseModel):
    """What a benchmark was started with; enough to lay out the same plan again.

    Attributes:
        command: The command line.
        data: Absolute path of each data set by name.
        kinds: Noises.
        severities: Severities.
        limit: Questions per data set.
        methods: Methods.
        seed: First seed of the noise.
        seeds: How many seeds.
        config: The resolved configuration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...]
    data: dict[str, str]
    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    limit: int
    methods: tuple[str, ...]
    seed: int
    seeds: int
    config: Config


class CellStore:
    """The finished parts of one benchmark, one file for each data set, noise, severity and method."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, options: Options) -> None:
        """Start a benchmark in an existing folder; what a finished one left there is replaced.

        Raises:
            UsageError: the folder holds one that was cut short.
        """
        cells = self.folder / _CELLS
        if any(cells.glob("*.json")) and not (self.folder / _SUMMARY).exists():
            raise UsageError(
                f"{self.folder}: holds a benchmark that was cut short; go on with `imc bench text --resume "
                f"{self.folder}`, or choose another folder with -o"
            )
        cells.mkdir(mode=0o700, exist_ok=True)
        for old in (*cells.glob("*.json"), self.folder / _SUMMARY):
            old.unlink(missing_ok=True)
        (self.folder / _OPTIONS).write_text(options.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def options(self) -> Options:
        """Return what the benchmark was started with.

        Raises:
            UsageError: the folder holds none.
        """
        file = self.folder / _OPTIONS
        try:
            return Options.model_validate_json(file.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it cannot be read"
            raise UsageError(
                f"{file}: {reason}; --resume takes the folder that `imc bench text -o` filled"
            ) from error

    def load(self, cell: Cell, method: str) -> CellRun | None:
        """Return what a method made of a cell, or None where that is not finished."""
        file = self._file(cell, method)
        return _RUN.validate_json(file.read_bytes()) if file.exists() else None

    def save(self, cell: Cell, method: str, run: CellRun) -> None:
        """Keep what a method made of a cell; the file appears whole or not at all."""
        file = self._file(cell, method)
        partial = file.with_suffix(".part")
        partial.write_bytes(_RUN.dump_json(run) + b"\n")
        partial.replace(file)

    def _file(self, cell: Cell, method: str) -> Path:
        return self.folder / _CELLS / f"{cell.dataset}.{cell.kind}.{cell.severity}.{method}.json"
