"""``imc noise apply``: noisy copies of images, folders, npz stacks and question files."""

from __future__ import annotations

import json
import sys
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from imc_agents.commands.options import IdFieldOption, QuestionFieldOption
from imc_agents.errors import UsageError

if TYPE_CHECKING:
    from imc_agents.noise.apply import Done
    from imc_agents.noise.recipe import Recipe

__all__ = ["DatasetOption", "SeedOption", "TableOption", "noise_apply"]

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Base seed.")]
DatasetOption = Annotated[str, typer.Option("--dataset", help="Data set name; part of the seed.")]
TableOption = Annotated[
    str | None,
    typer.Option("--table", metavar="NAME", help="Data set of MedMNIST whose severities to take."),
]

_Kind = Literal["image", "folder", "stack", "questions"]
_KINDS: dict[str, str] = {
    "image": "image files",
    "stack": "npz files",
    "questions": "files of questions",
}
_NAMED = 5  # skipped files that are named


def noise_apply(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A noise, several by commas, or a suite such as medmnist-c.")
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="An image, a folder of images, an npz file as of MedMNIST, or questions (JSONL, CSV, TSV, Parquet).",
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Of the same kind; a folder for several copies.")
    ],
    severity: Annotated[
        str | None,
        typer.Option(
            "--severity",
            "-s",
            metavar="S",
            help="1 (mild) to 5 (harsh), several such as 1,3,5, or all; a suite takes all by default.",
        ),
    ] = None,
    seed: SeedOption = 0,
    dataset: DatasetOption = "",
    table: TableOption = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME,...",
            help="Of npz: splits that become noisy; all by default, for medmnist-c and medimeta-c test.",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            metavar="PIXELS",
            min=16,
            max=4096,
            help="Bring the shorter side of image files to this before the noise; as they are by default.",
        ),
    ] = None,
    question_field: QuestionFieldOption = None,
    id_field: IdFieldOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Processes; one a core by default.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of OUT that are there already.")
    ] = False,
) -> None:
    """Write noisy copies of images or questions.

    Several copies lie in OUT/severity_S, those of several noises and of a suite in OUT/NOISE/severity_S.

    From npz files the suites medmnist-c and medimeta-c make the files that are published.

    The same seed makes the same copies, whatever else is in IN. A sample draws by its id: an image by its path in IN,
    an npz row by split/index, a question by the id of its row.

    Exit code 3 if a sample could not be read.
    """
    from imc_agents.noise.output import check_output
    from imc_agents.noise.recipe import make_recipe, parse_severities
    from imc_agents.noise.registry import SUITES

    if not source.exists():
        raise UsageError(f"{source}: there is no such file or folder")
    kind = _kind(source)
    for option, value, fitting in (
        ("--split", split, ("stack",)),
        ("--size", size, ("image", "folder")),
        ("--question-field", question_field, ("questions",)),
        ("--id-field", id_field, ("questions",)),
    ):
        if value is not None and kind not in fitting:
            raise UsageError(f"{option} is for {_KINDS[fitting[0]]}, and {source} is none; leave it out")
    if severity is None and name not in SUITES:
        raise UsageError("give --severity: 1 (mild) to 5 (harsh), several by commas such as 1,3,5, or all")
    recipe = make_recipe(
        name,
        parse_severities("all" if severity is None else severity),
        "text" if kind == "questions" else "image",
        seed=seed,
        dataset=dataset,
        table=table,
    )
    several = kind == "folder" or bool(recipe.steps[0].folder)
    check_output(source, output, folder=several, overwrite=overwrite)
    try:
        if kind == "questions":
            done = _questions(source, output, recipe, several, question_field, id_field, workers)
        elif kind == "stack":
            done = _stack(source, output, recipe, several, split, workers)
        else:
            done = _images(source, output, recipe, several, size, workers)
    except KeyboardInterrupt:
        if several and output.exists():
            typer.echo(f"interrupted; files in {output} are whole, --overwrite starts again", err=True)
        raise
    _report(source, output, recipe, done)


def _kind(source: Path) -> _Kind:
    from imc_agents.data.registry import format_of, reader_names
    from imc_agents.vision.folder import SUFFIXES

    suffix = source.suffix.lower()
    if source.is_dir():
        return "folder"
    if suffix == ".npz":
        return "stack"
    if suffix in SUFFIXES or not suffix:
        return "image"
    try:
        format_of(source)
    except UsageError as error:
        known = ", ".join([*sorted(SUFFIXES), ".npz", *(f".{name}" for name in reader_names())])
        raise UsageError(f"{source}: noise is put on {known}, and on folders of images") from error
    return "questions"


def _read(path: Path, size: int | None) -> Any:
    from imc_agents.vision.reading import read_image
    from imc_agents.vision.variants import at_encoder_size

    image = read_image(path)
    return image if size is None else at_encoder_size(image, size)


def _images(
    source: Path, output: Path, recipe: Recipe, several: bool, size: int | None, workers: int | None
) -> Done:
    from imc_agents.commands.progress import watched
    from imc_agents.noise.apply import Done, apply_to_folder, apply_to_image, find_images, image_suffix
    from imc_agents.noise.pool import open_workers, usable_cores
    from imc_agents.vision.folder import SUFFIXES

    read = partial(_read, size=size)
    if not source.is_dir():
        if not several:
            image_suffix(output)
        apply_to_image(source, output, recipe, read)
        return Done(1)
    images = find_images(source, SUFFIXES)
    if images.others:
        shown = ", ".join(images.others[:_NAMED]) + (", ..." if len(images.others) > _NAMED else "")
        typer.echo(f"skipped, no images by their names ({len(images.others):,}): {shown}", err=True)
    count = min(workers or usable_cores(), len(images.names))
    with open_workers(count) as pool, watched(len(images.names), "images") as advance:
        return apply_to_folder(images, output, recipe, read, pool, advance)


def _stack(
    source: Path, output: Path, recipe: Recipe, several: bool, split: str | None, workers: int | None
) -> Done:
    from imc_agents.commands.progress import watched
    from imc_agents.noise.apply import Done
    from imc_agents.noise.pool import open_workers, usable_cores
    from imc_agents.noise.stacks import apply_to_stack, choose_splits, most_workers, open_stack

    if not several and output.suffix.lower() != ".npz":
        raise UsageError(f"{output}: the output is an npz file like the input; call it {output.stem}.npz")
    stack = open_stack(source)
    splits = choose_splits(stack, recipe, split)
    samples = sum(map(stack.images, splits))
    total = samples * len(recipe.steps)
    count = min(workers or usable_cores(), most_workers(stack, splits))
    with open_workers(count) as pool, watched(total, "images") as advance:
        apply_to_stack(stack, output, recipe, splits, pool, advance)
    return Done(samples)


def _questions(
    source: Path,
    output: Path,
    recipe: Recipe,
    several: bool,
    question_field: str | None,
    id_field: str | None,
    workers: int | None,
) -> Done:
    from imc_agents.commands.progress import watched
    from imc_agents.data.registry import open_reader
    from imc_agents.noise.pool import open_workers, usable_cores
    from imc_agents.noise.questions import CHUNK_ROWS, apply_to_questions, check_format

    reader = open_reader(source, question_field=question_field, id_field=id_field)
    check_format(reader, None if several else output)
    rows = reader.count()
    count = min(workers or usable_cores(), ceil(rows / CHUNK_ROWS) or 1)
    with open_workers(count) as pool, watched(rows * len(recipe.steps), "questions") as advance:
        return apply_to_questions(reader, output, recipe, pool, advance)


def _report(source: Path, output: Path, recipe: Recipe, done: Done) -> None:
    for problem in done.problems:
        typer.echo(f"imc: error: {problem}", err=True)
    names = list(dict.fromkeys(step.name for step in recipe.steps))
    severities = sorted({step.severity for step in recipe.steps})
    if sys.stdout.isatty():
        levels = ", ".join(str(level) for level in severities)
        typer.echo(
            f"{output}: {done.samples:,} noisy by {', '.join(names)} at severity {levels}, seed {recipe.seed}"
        )
    else:
        row = {"input": str(source), "output": str(output), "noises": names, "severities": severities}
        row |= {"seed": recipe.seed, "samples": done.samples, "problems": len(done.problems)}
        typer.echo(json.dumps(row, ensure_ascii=False))
    if done.problems:
        raise typer.Exit(3)
