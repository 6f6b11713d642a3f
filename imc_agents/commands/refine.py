"""``imc refine`` and ``imc resume``: a file of noisy questions in, the same file with refined ones out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from imc_agents.commands.options import (
    ConfigOption,
    ProfileOption,
    SetOption,
    load_config,
    runs_directory,
)
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    from imc_agents.agents.refiner import Refiner
    from imc_agents.config.schema import Config
    from imc_agents.runs.execute import RunResult

__all__ = ["check_backends", "refine", "resume"]

_OVER_THRESHOLD = 3
_INTERRUPTED = 130
_COPY_BYTES = 2**20

_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary, only errors.")]
_TraceOne = Annotated[
    bool, typer.Option("--trace-one", help="Also show the decisions on one telling question.")
]
_Concurrency = Annotated[
    int | None, typer.Option("--concurrency", "-j", help="Questions in flight: run.concurrency.", min=1)
]


def refine(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSONL, CSV, TSV or Parquet; - reads stdin.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Output file, - for stdout; default beside FILE as NAME.refined.SUFFIX."
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="jsonl, csv, tsv or parquet, whatever the file is called.")
    ] = None,
    question_field: Annotated[
        str | None,
        typer.Option("--question-field", help="Field with the question; default question, text or query."),
    ] = None,
    id_field: Annotated[
        str | None, typer.Option("--id-field", help="Field with the id; default id or qid, else row numbers.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="Take the first N rows only.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Take the row with this id only; repeatable.")
    ] = None,
    bank: Annotated[
        str | None,
        typer.Option(
            "--bank", metavar="DIR", help="Name the noise of the rows' images by this bank: pdc.bank."
        ),
    ] = None,
    image_field: Annotated[
        str | None,
        typer.Option(
            "--image-field",
            help="Field with the image's path; default image, image_path, image_name or img_name.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Folder of the images; default that of FILE."),
    ] = None,
    answer: Annotated[
        bool,
        typer.Option("--answer", help="Also answer each question, from its image if it has one: run.answer."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print every request that would be sent; send and write nothing."),
    ] = False,
    backend: Annotated[
        str | None,
        typer.Option("--backend", help="Kind of the default backend: embedded, vllm, vllm-engine or openai."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model of the default backend.")] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option("--base-url", help="Where the default backend's server listens; repeatable for vllm."),
    ] = None,
    concurrency: _Concurrency = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the run; default the file's name.")
    ] = None,
    quiet: _Quiet = False,
    trace_one: _TraceOne = False,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Refine the noisy questions of a file.

    The output has the rows of FILE, with refined, changed, flags, confidence, status and error added. With a bank also
    image_noise, image_severity, image_probability and image_operator; with --answer the answer, from the refined text
    and the calibrated image.

    A run folder keeps everything: `imc resume` goes on after an interruption, `imc trace` shows why.
    """
    from imc_agents.agents.refiner import Refiner
    from imc_agents.config.dump import dump_yaml
    from imc_agents.runs.manifest import Selection
    from imc_agents.runs.start import start_run

    shortcuts = {
        "backends.default.kind": backend,
        "backends.default.model": model,
        "backends.default.options.base_url": base_url[0] if base_url and len(base_url) == 1 else base_url,
        "run.concurrency": concurrency,
        "run.answer": answer or None,
        "pdc.bank": bank,
        "pdc.images": None if images is None else str(images),
    }
    given = [f"{key}={json.dumps(value)}" for key, value in shortcuts.items() if value is not None]
    resolved = load_config(config, profile, [*(overrides or ()), *given]).config
    source = _source(file)
    looks = bool(resolved.pdc.bank)
    if image_field is not None and not (looks or resolved.run.answer):
        raise UsageError("--image-field: nothing looks at images; add --bank DIR, or --answer")
    if looks or resolved.run.answer:
        resolved = _with_folder(resolved, source)
    selection = Selection(limit=limit, only=tuple(only or ()))
    if dry_run:
        from imc_agents.commands.dry_run import print_requests

        print_requests(source, resolved, selection, format, question_field, id_field, image_field)
        return
    if output is None and isinstance(source, Path):
        output = source.with_name(f"{source.stem}.refined{source.suffix}")
    check_backends(resolved, base_url)
    refiner = Refiner(resolved)
    folder = start_run(
        source,
        directory=Path(resolved.run.directory),
        name=name,
        config_yaml=dump_yaml(resolved),
        seed=resolved.seed,
        command=("imc", *sys.argv[1:]),
        output=None if output is None or str(output) == "-" else output,
        format=format,
        question_field=question_field,
        id_field=id_field,
        image_field=image_field,
        images=looks,
        answers=resolved.run.answer,
        selection=selection,
    )
    _carry_out(folder, refiner, resolved, quiet=quiet, trace_one=trace_one)


def resume(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run folder, start of its id, its name, or last.")
    ],
    retry_errors: Annotated[
        bool,
        typer.Option("--retry-errors", help="Also redo rows with infra_error, timeout or model_error."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Output file, instead of the one chosen at the start."),
    ] = None,
    concurrency: _Concurrency = None,
    quiet: _Quiet = False,
    trace_one: _TraceOne = False,
) -> None:
    """Go on with a run that was interrupted.

    Nothing is done twice, and the output is the one that an undisturbed run would have written.

    What counts is the config.yaml in the run folder, not today's configuration.
    """
    from imc_agents.agents.refiner import Refiner
    from imc_agents.config.load import resolve
    from imc_agents.runs.start import CONFIG
    from imc_agents.runs.store import find_run

    folder = find_run(run, runs_directory(run))
    given = () if concurrency is None else (f"run.concurrency={concurrency}",)
    resolved = resolve(files=[folder / CONFIG], overrides=given).config
    _carry_out(
        folder,
        Refiner(resolved),
        resolved,
        quiet=quiet,
        trace_one=trace_one,
        retry_errors=retry_errors,
        output=output,
    )


def check_backends(config: Config, base_url: list[str] | None) -> None:
    """Find mistakes in the backends' settings before there is a run folder."""
    from imc_agents.models.registry import create_backend

    kind = config.backends["default"].kind
    if base_url and kind in ("embedded", "vllm-engine"):
        raise UsageError(f"--base-url: the {kind} backend has no server; add --backend vllm (or openai)")
    for name in sorted({role.backend for role in config.taking_part.values()}):
        create_backend(config.backends[name])


def _with_folder(config: Config, source: Path | BinaryIO) -> Config:
    """The configuration with the folder of the images written out, so that a run can be resumed from anywhere."""
    folder = (
        Path(config.pdc.images)
        if config.pdc.images
        else source.parent
        if isinstance(source, Path)
        else Path()
    )
    if not folder.is_dir():
        raise UsageError(f"{folder}: no folder of images; name it by --images")
    bank = str(Path(config.pdc.bank).absolute()) if config.pdc.bank else ""
    pdc = config.pdc.model_copy(update={"images": str(folder.absolute()), "bank": bank})
    return config.model_copy(update={"pdc": pdc})


def _source(file: str) -> Path | BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    path = Path(file)
    if path.is_dir():
        raise UsageError(f"{path}: a folder, not a file of questions")
    return path.open("rb") if path.is_fifo() else path


def _carry_out(
    folder: Path,
    refiner: Refiner,
    config: Config,
    *,
    quiet: bool,
    trace_one: bool,
    retry_errors: bool = False,
    output: Path | None = None,
) -> None:
    """Run to the end, report, and exit with the code that says how it went."""
    from imc_agents.errors import BackendUnreachableError
    from imc_agents.runs.schema import FAILED

    try:
        result = _execute(folder, refiner, config, quiet, retry_errors, output)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; go on with: imc resume {folder}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except BackendUnreachableError:
        typer.echo(
            f"what is done is stored; once the backend answers, go on with: imc resume {folder}", err=True
        )
        raise
    if not result.finished:
        done = f"{result.totals.rows:,} of {result.manifest.rows:,} questions are done"
        typer.echo(f"interrupted, {done}; go on with: imc resume {folder}", err=True)
        raise typer.Exit(_INTERRUPTED)
    _report(result, quiet=quiet, trace_one=trace_one)
    failed = result.totals.failed / max(result.totals.rows, 1)
    if failed > config.run.error_threshold:
        limit = f"more than run.error_threshold allows ({config.run.error_threshold:.1%})"
        typer.echo(f"{result.totals.failed:,} questions ({failed:.1%}) failed, {limit}", err=True)
        worst = max(FAILED, key=lambda status: result.totals.by_status[status])
        typer.echo(f"see why: imc trace list {result.folder} --status {worst}", err=True)
        raise typer.Exit(_OVER_THRESHOLD)


def _execute(
    folder: Path, refiner: Refiner, config: Config, quiet: bool, retry_errors: bool, output: Path | None
) -> RunResult:
    import asyncio

    from imc_agents.runs.execute import execute_run
    from imc_agents.runs.progress import open_progress

    view = open_progress(quiet=quiet)
    try:
        return asyncio.run(
            execute_run(
                folder,
                refiner,
                config.run,
                on_start=view.start,
                on_progress=view.update,
                retry_errors=retry_errors,
                output=output,
            )
        )
    finally:
        view.close()


def _report(result: RunResult, *, quiet: bool, trace_one: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from imc_agents.runs.store import RunStore
    from imc_agents.runs.summary import most_telling, summary_record, summary_table

    # The output itself goes to stdout where no file was named, so the summary must not.
    to_stdout = result.manifest.output is None
    if to_stdout and result.output is not None:
        _copy_to_stdout(result.output)
    if quiet:
        return
    console = Console(stderr=to_stdout, highlight=False)
    if not console.is_terminal:
        typer.echo(json.dumps(summary_record(result), ensure_ascii=False), err=to_stdout)
    else:
        console.print()
        console.print(summary_table(result))
    if not trace_one and not console.is_terminal:
        return
    with RunStore(result.folder) as store:
        sample = most_telling(store)
        if sample is None:
            return
        if trace_one:
            from imc_agents.trace.views import sample_tree

            console.print(sample_tree(sample, store.events(sample.row_index)))
            console.print()
    if console.is_terminal:
        hint = f"imc trace show {result.folder} {sample.id}"
        console.print(Text("see the decisions: ", "dim").append(hint, "bold not dim"), soft_wrap=True)


def _copy_to_stdout(path: Path) -> None:
    from imc_agents.runs.writer import StorageError

    try:
        with path.open("rb") as stream:
            while block := stream.read(_COPY_BYTES):
                sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(
            f"stdout: cannot be written ({error.strerror}); the whole output is in {path}"
        ) from error
