"""Writes what the text benchmark found: a flat CSV, a JSON with everything, and every case as a JSON line."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from imc_agents.bench.text import Cell
from imc_agents.bench.text_measures import Case, Summary
from imc_agents.errors import UsageError

__all__ = ["case_row", "flat_row", "make_output_folder", "nested_row", "write_files"]


def make_output_folder(folder: Path) -> None:
    """Make the output folder, readable by its owner only: cases hold the questions.

    Raises:
        UsageError: if that is impossible, so that a run does not end with nowhere to go.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder with -o"
        ) from error


def nested_row(summary: Summary) -> dict[str, Any]:
    """Return a summary as it stands in ``summary.json`` and in piped output."""
    row = asdict(summary)
    row |= row.pop("cell")
    if summary.against_best is not None:
        row["against_best"] |= {
            "difference": summary.against_best.difference,
            "p_value": summary.against_best.p_value,
        }
    return {key: row[key] for key in ("dataset", "kind", "severity", "method")} | row


def flat_row(summary: Summary) -> dict[str, Any]:
    """Return a summary as one row of ``summary.csv``: nested names joined by an underscore."""
    flat: dict[str, Any] = {}

    def flatten(value: dict[str, Any], prefix: str) -> None:
        for key, item in value.items():
            if isinstance(item, dict):
                flatten(cast(dict[str, Any], item), f"{prefix}{key}_")
            elif item is not None:
                flat[f"{prefix}{key}"] = item

    flatten(nested_row(summary), "")
    return flat


def case_row(cell: Cell, method: str, case: Case) -> dict[str, Any]:
    """Return a case as one line of ``cases.jsonl``."""
    sample, restored = case.sample, case.restored
    return {
        "dataset": cell.dataset,
        "kind": cell.kind,
        "severity": cell.severity,
        "seed": sample.seed,
        "id": sample.question.id,
        "erratum": sample.question.erratum,
        "method": method,
        "clean": sample.question.text,
        "noisy": sample.noisy,
        "restored": restored.text,
        "exact": case.exact,
        "mended": case.mended,
        "word_errors_before": case.errors_before,
        "word_errors_after": case.errors_after,
        "words": case.words,
        "look_alike": case.look_alike,
        "broken_against_clean": case.broken_against_clean,
        "broken_against_noisy": case.broken_against_noisy,
        "flags": restored.flags,
        "calls": restored.calls,
        "prompt_tokens": restored.prompt_tokens,
        "completion_tokens": restored.completion_tokens,
        "error": restored.error,
    }


def write_files(
    folder: Path,
    settings: Mapping[str, Any],
    summaries: Sequence[Summary],
    cases: Mapping[tuple[Cell, str], Sequence[Case]],
) -> tuple[Path, ...]:
    """Write ``summary.json``, ``summary.csv`` and ``cases.jsonl`` into a folder and return them.

    Args:
        folder: An existing folder.
        settings: What was asked for: methods, seeds, limits, models; stands first in the JSON.
        summaries: One per cell and method.
        cases: The cases behind them.
    """
    files = tuple(folder / name for name in ("summary.json", "summary.csv", "cases.jsonl"))
    document = {"settings": dict(settings), "summaries": [nested_row(summary) for summary in summaries]}
    files[0].write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    rows = [flat_row(summary) for summary in summaries]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with files[1].open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)
    with files[2].open("w", encoding="utf-8") as out:
        for (cell, method), of_cell in cases.items():
            for case in of_cell:
                out.write(json.dumps(case_row(cell, method, case), ensure_ascii=False) + "\n")
    return files
