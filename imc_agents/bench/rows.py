"""Shows that the batch runner streams: a long file through reader, store and export, with a scripted refiner.

What is measured is everything but the model: rows a second, the size of the store, and the resident memory, which
must not grow with the file.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_agents.config.schema import RunConfig
from imc_agents.models.protocol import Capabilities
from imc_agents.refinement import Refinement
from imc_agents.runs.execute import execute_run
from imc_agents.runs.schema import DATABASE
from imc_agents.runs.start import start_run
from imc_agents.trace.events import EditRecord, Merged, Perceived, Proposed, Recorder

__all__ = ["Point", "RowsRun", "bench_rows", "rows_table", "write_rows"]

_SLIP, _CURE = "teh", "the"


@dataclass(frozen=True, slots=True)
class Point:
    """Where the run stood at one moment.

    Attributes:
        stage: ``refine`` or ``export``.
        rows: Rows done.
        seconds: Time since the first row.
        resident_mib: Resident memory of the process.
    """

    stage: str
    rows: int
    seconds: float
    resident_mib: float


@dataclass(frozen=True, slots=True)
class RowsRun:
    """What the run measured; sizes in bytes."""

    rows: int
    points: tuple[Point, ...]
    input_bytes: int
    store_bytes: int
    output_bytes: int

    @property
    def growth_mib(self) -> float:
        """By how much memory grew at most after the first tenth of the rows."""
        later = [point.resident_mib for point in self.points if point.rows * 10 >= self.rows]
        return max(later) - later[0]

    def record(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "rows": self.rows,
            "growth_mib": round(self.growth_mib, 1),
            "input_bytes": self.input_bytes,
            "store_bytes": self.store_bytes,
            "output_bytes": self.output_bytes,
            "points": [
                {
                    "stage": point.stage,
                    "rows": point.rows,
                    "seconds": round(point.seconds, 2),
                    "resident_mib": round(point.resident_mib, 1),
                }
                for point in self.points
            ],
        }


def write_rows(path: Path, rows: int) -> None:
    """Write a file of questions; every third has a slip, every thousandth repeats an id."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            article = _SLIP if number % 3 == 0 else _CURE
            row_id = f"q{number - 1 if number % 1000 == 999 else number}"
            question = f"Is there a fracture of {article} left rib number {number} on this chest radiograph?"
            stream.write(json.dumps({"id": row_id, "question": question, "answer": "no"}) + "\n")


def bench_rows(
    folder: Path, rows: int, *, concurrency: int = 64, points: int = 20, on_point: Callable[[Point], None]
) -> RowsRun:
    """Run ``rows`` rows through the batch runner.

    Args:
        folder: Where input, run folder and output go.
        rows: Length of the file.
        concurrency: Rows in flight.
        points: How often to measure.
        on_point: Told each measurement as it is made.
    """
    source = folder / "rows.jsonl"
    write_rows(source, rows)
    run = start_run(
        source,
        directory=folder / "runs",
        name="rows",
        config_yaml="{}\n",
        seed=0,
        command=("imc", "bench", "rows"),
        output=folder / "rows.refined.jsonl",
    )
    measured: list[Point] = []
    started = time.monotonic()

    def measure(stage: str, done: int) -> None:
        measured.append(Point(stage, done, time.monotonic() - started, _resident_mib()))
        on_point(measured[-1])

    done = 0
    step = max(rows // points, 1)

    def count(_: Refinement | None) -> None:
        nonlocal done
        done += 1
        if done % step == 0:
            measure("refine", done)

    work = execute_run(
        run,
        _Scripted(),
        RunConfig(concurrency=concurrency),
        on_start=lambda total, before: None,  # noqa: ARG005
        on_progress=count,
    )
    result = asyncio.run(work)
    measure("export", done)
    assert result.output is not None
    return RowsRun(
        rows,
        tuple(measured),
        source.stat().st_size,
        (run / DATABASE).stat().st_size,
        result.output.stat().st_size,
    )


def rows_table(run: RowsRun) -> Any:
    """Return the measurements as a rich table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"{run.rows:,} rows through reader, store and export"
    for heading in ("stage", "rows", "seconds", "rows/s", "resident MiB"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    before = Point("", 0, 0.0, 0.0)
    for point in run.points:
        rows, seconds = (
            (run.rows if point.stage == "export" else point.rows - before.rows),
            point.seconds - before.seconds,
        )
        figures = (f"{point.rows:,}", f"{point.seconds:,.1f}", f"{rows / max(seconds, 1e-9):,.0f}")
        table.add_row(point.stage, *figures, f"{point.resident_mib:,.1f}")
        before = point
    sizes = (run.input_bytes, run.store_bytes, run.output_bytes)
    told = "input {:,.1f} MiB, store {:,.1f} MiB, output {:,.1f} MiB".format(
        *(size / 2**20 for size in sizes)
    )
    table.caption = f"{told}; memory grew by {run.growth_mib:,.1f} MiB after the first tenth of the rows"
    return table


class _Scripted:
    """Refines without a model, with the events that a small refinement has."""

    async def open(self) -> dict[str, Capabilities]:
        return {"default": Capabilities("scripted", "1", scores=False, max_tokens=0)}

    async def engine_work(self) -> None:
        """Not told."""

    async def close(self) -> None:
        pass

    def prompt_hashes(self) -> dict[str, str]:
        return {}

    async def refine(
        self,
        sample_id: str,  # noqa: ARG002
        question: str,
        record: Recorder,
        *,
        image: str | None = None,  # noqa: ARG002
    ) -> Refinement:
        await asyncio.sleep(0)
        at = question.find(_SLIP)
        record(Perceived(agent="perceive", round=1, text=question, clean=at < 0))
        if at < 0:
            return Refinement(question, question, "unchanged", calls=1)
        refined = question.replace(_SLIP, _CURE, 1)
        edit = EditRecord(start=at, end=at + len(_SLIP), before=_SLIP, after=_CURE, kind="typo")
        record(Proposed(agent="spelling", round=1, text=question, edits=(edit,)))
        record(Merged(agent="adjudicate", round=1, before=question, after=refined, accepted=1))
        return Refinement(question, refined, "ok", confidence=0.9, rounds=1, calls=2)


def _resident_mib() -> float:
    """Return the resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        import resource

        # Without /proc, as on macOS: the peak, in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
