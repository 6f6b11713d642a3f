"""Carries a run to its end, a new one and a resumed one alike."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imc_agents.config.schema import RunConfig
from imc_agents.data.images import with_images
from imc_agents.data.rows import Layout, Row
from imc_agents.errors import ConfigError, ImcError
from imc_agents.models.protocol import Capabilities, EngineWork
from imc_agents.refinement import Refinement, Status
from imc_agents.runs.batch import OnProgress, Refine, run_batch
from imc_agents.runs.export import check_target, export, publish
from imc_agents.runs.manifest import Manifest, ModelInfo, RunState, read_manifest
from imc_agents.runs.schema import Totals
from imc_agents.runs.start import reopen_input, select
from imc_agents.runs.writer import RunWriter, StorageError, utc_now
from imc_agents.trace.events import Called, Event, Recorder

__all__ = ["RETRIED", "Refines", "RunResult", "execute_run", "output_path"]

RETRIED: tuple[Status, ...] = ("infra_error", "timeout", "model_error")
"""What ``--retry-errors`` does again. A data_error comes from the row itself and would come again."""


class Refines(Protocol):
    """What a run needs of a refiner."""

    async def open(self) -> dict[str, Capabilities]:
        """Load or reach the models; return what they are by backend name."""
        ...

    async def refine(
        self, sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        """Refine one question, and look at its image where there is one."""
        ...

    async def engine_work(self) -> EngineWork | None:
        """What the engines behind the models have done since they were opened, where they tell it."""
        ...

    async def close(self) -> None:
        """Free the models."""
        ...

    def prompt_hashes(self) -> dict[str, str]:
        """Return a digest of each prompt by name."""
        ...


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        folder: The run folder.
        manifest: The manifest as it was written last.
        totals: Sums over all finished rows.
        fresh: Rows that were refined this time.
        seconds: Time that took, models already loaded.
        output: The output file; None where the run was interrupted.
        layout: How the added columns are called.
        work: What the engines did this time, for all their clients; None where they do not tell it.
    """

    folder: Path
    manifest: Manifest
    totals: Totals
    fresh: int
    seconds: float
    output: Path | None
    layout: Layout
    work: EngineWork | None = None

    @property
    def finished(self) -> bool:
        """Whether every row is done and the output is written."""
        return self.manifest.state == "finished"


def output_path(folder: Path, manifest: Manifest) -> Path:
    """Return the output file in the run folder."""
    return folder / f"output.{manifest.input.format}"


async def execute_run(
    folder: Path,
    refiner: Refines,
    settings: RunConfig,
    *,
    on_start: Callable[[int, int], None],
    on_progress: OnProgress,
    retry_errors: bool = False,
    output: Path | None = None,
) -> RunResult:
    """Refine all rows of the run that are not done yet and write the output file.

    SIGINT and SIGTERM end it early, with everything finished stored; a second one kills the process.

    Args:
        folder: The run folder, from ``start_run`` or from an earlier sitting.
        refiner: Opened and closed here.
        settings: Section ``run`` of the configuration.
        on_start: Called with the rows to do in all and those already done, once the models are loaded.
        on_progress: Called for each row.
        retry_errors: Do rows that failed with a status in ``RETRIED`` again.
        output: Write the output there instead of where the run was started to.

    Raises:
        BackendUnreachableError: if a backend cannot be reached; the run can be resumed.
        UsageError: if the input changed, another process holds the run, or something cannot be written.
        ConfigError: if prompts or models are others than when the run started.
    """
    with RunWriter(folder) as writer:
        log = _Log(writer, read_manifest(folder))
        reader = reopen_input(folder, log.manifest)
        if output is not None:
            log.change(output=str(output.absolute()))
        target = None if log.manifest.output is None else Path(log.manifest.output)
        if target is not None:
            check_target(target, reader.path, reader.format)
        log.save(state="running", error=None, sittings=log.manifest.sittings + 1)
        before = writer.totals()
        retried = sum(before.by_status[status] for status in RETRIED) if retry_errors else 0
        forgotten = 0
        work: EngineWork | None = None

        def rows() -> Iterator[Row]:
            chosen = select(reader.rows(), log.manifest.selection)
            field = log.manifest.input.image_field
            return chosen if field is None else with_images(chosen, reader.path, field)

        async def refine_rest() -> bool:
            nonlocal forgotten, work
            with _signals() as stop:
                async with _opened(refiner, stop) as capabilities:
                    if capabilities is None:
                        return False
                    log.identify(capabilities, refiner.prompt_hashes())
                    if retried:
                        forgotten = writer.forget(RETRIED)
                    on_start(log.manifest.rows, before.rows - retried)
                    with log.timed():
                        done = await run_batch(
                            rows(),
                            _refine(refiner, settings.keep_prompts),
                            writer,
                            concurrency=settings.concurrency,
                            timeout_seconds=settings.timeout_seconds,
                            infra_retries=settings.infra_retries,
                            on_progress=on_progress,
                            stop=stop,
                        )
                    work = await refiner.engine_work()
                    return done

        layout, written = Layout(), None
        try:
            # A run that only lacks its output file needs no model.
            if before.rows - retried == log.manifest.rows or await refine_rest():
                written = output_path(folder, log.manifest)
                layout = export(reader, rows, writer, written, log.manifest.added)
                if target is not None:
                    publish(written, target)
        except ImcError as error:
            with suppress(StorageError):
                log.save(state="stopped", error=str(error))
            raise
        log.save(state="finished" if written is not None else "interrupted")
        totals = writer.totals()
        fresh = totals.rows - before.rows + forgotten
        return RunResult(
            folder, log.manifest, totals, fresh, log.seconds, written and (target or written), layout, work
        )


class _Log:
    """Keeps the manifest up to date."""

    def __init__(self, writer: RunWriter, manifest: Manifest) -> None:
        self.writer = writer
        self.manifest = manifest
        self.seconds = 0.0

    def change(self, **changes: object) -> None:
        self.manifest = self.manifest.model_copy(update=changes)

    def save(self, *, state: RunState, **changes: object) -> None:
        seconds = (
            round(self.manifest.seconds + self.seconds, 3) if state != "running" else self.manifest.seconds
        )
        self.change(state=state, updated=utc_now(), seconds=seconds, **changes)
        self.writer.write_manifest(self.manifest)

    def identify(self, capabilities: Mapping[str, Capabilities], prompts: Mapping[str, str]) -> None:
        """Note models and prompts, or compare them with those that the run started with."""
        models = {
            name: ModelInfo(
                model=found.model, revision=found.revision, scores=found.scores, max_tokens=found.max_tokens
            )
            for name, found in capabilities.items()
        }
        for kind, then, now in (
            ("model", self.manifest.models, models),
            ("prompt", self.manifest.prompts, prompts),
        ):
            if then and dict(now) != dict(then):
                changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
                raise ConfigError(
                    f"{self.writer.folder}: {kind} {', '.join(changed)} changed since the run started, so the rest "
                    "would not match what is done; put it back, or start a new run"
                )
        self.save(state="running", models=models, prompts=dict(prompts))

    @contextmanager
    def timed(self) -> Generator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds = time.monotonic() - started


@asynccontextmanager
async def _opened(refiner: Refines, stop: asyncio.Event) -> AsyncGenerator[dict[str, Capabilities] | None]:
    """Open the refiner and close it at the end; None where ``stop`` is set before it is open."""
    opening = asyncio.ensure_future(refiner.open())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        yield opening.result() if opening.done() else None
    finally:
        opening.cancel()
        stopping.cancel()
        await asyncio.gather(opening, stopping, return_exceptions=True)
        await refiner.close()


@contextmanager
def _signals() -> Generator[asyncio.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; the second one has its usual effect: the process dies."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def first() -> None:
        stop.set()
        for number in before:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in before:
        loop.add_signal_handler(number, first)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _refine(refiner: Refines, keep_prompts: bool) -> Refine:
    if keep_prompts:
        return refiner.refine

    def without_prompts(record: Recorder) -> Recorder:
        def keep(event: Event) -> None:
            record(
                event.model_copy(update={"prompt": "", "reply": ""}) if isinstance(event, Called) else event
            )

        return keep

    async def refine(
        sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        return await refiner.refine(sample_id, question, without_prompts(record), image=image)

    return refine
