"""``imc refine`` and ``imc resume``: a file of noisy questions in, the same file with refined ones out."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from imc_agents.commands.carry_out import carry_out, report_refined
from imc_agents.commands.options import (
    BackendOption,
    BaseUrlOption,
    ConfigOption,
    IdFieldOption,
    ModelOption,
    ProfileOption,
    QuestionFieldOption,
    SetOption,
    backend_keys,
    check_backends,
    load_config,
    runs_directory,
    set_values,
)
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    from imc_agents.config.schema import Config

__all__ = ["refine", "resume"]

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
    question_field: QuestionFieldOption = None,
    id_field: IdFieldOption = None,
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
    backend: BackendOption = None,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
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
        **backend_keys(backend, model, base_url),
        "run.concurrency": concurrency,
        "run.answer": answer or None,
        "pdc.bank": bank,
        "pdc.images": None if images is None else str(images),
    }
    resolved = load_config(config, profile, [*(overrides or ()), *set_values(shortcuts)]).config
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
    carry_out(
        folder,
        refiner,
        resolved.run,
        quiet=quiet,
        report=partial(report_refined, quiet=quiet, trace_one=trace_one),
    )


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
    from imc_agents.runs.manifest import read_manifest
    from imc_agents.runs.start import CONFIG
    from imc_agents.runs.store import find_run

    folder = find_run(run, runs_directory(run))
    given = () if concurrency is None else (f"run.concurrency={concurrency}",)
    if read_manifest(folder).kind == "bench":
        from imc_agents.commands.bench_run import resume_bench

        resume_bench(folder, given, quiet=quiet, retry_errors=retry_errors, output=output)
        return
    resolved = resolve(files=[folder / CONFIG], overrides=given).config
    carry_out(
        folder,
        Refiner(resolved),
        resolved.run,
        quiet=quiet,
        report=partial(report_refined, quiet=quiet, trace_one=trace_one),
        retry_errors=retry_errors,
        output=output,
    )


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
