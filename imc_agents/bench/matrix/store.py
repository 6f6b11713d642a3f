"""Reads a run folder of the benchmark: what was planned, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imc_agents.bench.matrix.layout import Case, read_cases
from imc_agents.bench.matrix.methods import MATRIX_METHODS
from imc_agents.bench.outcomes import BenchRun, Outcome
from imc_agents.config.yaml_nodes import parse_yaml, plain
from imc_agents.errors import UsageError
from imc_agents.runs.start import CONFIG
from imc_agents.runs.store import RunStore

__all__ = ["read_run"]


def read_run(folder: Path) -> BenchRun:
    """Return a run of the benchmark, also one that is under way.

    Raises:
        UsageError: it is no run folder, a run of something else, or damaged.
    """
    with RunStore(folder) as store:
        manifest = store.manifest
        if manifest.kind != "bench":
            raise UsageError(f"{folder}: not a run of `imc bench run` but of `imc refine`")
        try:
            planned = read_cases(folder / manifest.input.path)
            settings: Any = plain(parse_yaml((folder / CONFIG).read_text(encoding="utf-8"), CONFIG))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{folder}: the plan of the benchmark cannot be read ({error})") from error
        outcomes = tuple(_outcome(planned[int(row[0])], row) for row in store.results())
    return BenchRun(
        name=manifest.name,
        folder=folder,
        complete=len(outcomes) == manifest.rows,
        total=manifest.rows,
        settings=settings,
        outcomes=outcomes,
    )


def _outcome(case: Case, row: tuple[Any, ...]) -> Outcome:
    _, refined, _, _, _, status, error, seen, said = row
    found: dict[str, Any] = json.loads(seen) if seen else {}
    return Outcome(
        model=case.model,
        dataset=case.dataset,
        noise=case.noise,
        severity=case.severity,
        modality=case.modality,
        method=case.method,
        sample=case.sample,
        kind=case.kind,
        question=case.published,
        noisy=case.question,
        refined=refined,
        answer=case.gold,
        reply=json.loads(said)["answer"] if said else None,
        status=status,
        image_noise=found.get("noise"),
        # Under the other methods the model read the features as they came.
        image_operator=found.get("operator") if MATRIX_METHODS[case.method].calibrated else None,
        error=error,
    )
