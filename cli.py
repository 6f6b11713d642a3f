"""The ``imc`` command: assembly only. A command's module is imported when it is called, so ``imc --help`` is quick."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from imc_agents import __version__
from imc_agents.errors import ImcError, nearest
from imc_agents.privacy import keep_text_local

__all__ = ["COMMANDS", "Entry", "main"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives and the line that ``imc --help`` shows for it.

    Attributes:
        module: Module below ``imc_agents.commands``.
        attribute: A function, or a Typer app with commands of its own.
        help: First line of the function's docstring, or the app's help; a test holds them equal.
        panel: Heading under which it is listed.
    """

    module: str
    attribute: str
    help: str
    panel: str


_REFINE, _LOOK, _SHAPE, _STUDY = "Refine", "Look at what happened", "Shape the agents", "Study"

COMMANDS: dict[str, Entry] = {
    "refine": Entry("refine", "refine", "Refine the noisy questions of a file.", _REFINE),
    "ask": Entry("ask", "ask", "Answer a question from its refined text and its calibrated image.", _REFINE),
    "resume": Entry("refine", "resume", "Go on with a run that was interrupted.", _REFINE),
    "calibrate": Entry(
        "calibrate", "calibrate", "Tell which noise images have and calibrate their features.", _REFINE
    ),
    "serve": Entry("serve", "serve", "Serve a model with vLLM for the agents.", _REFINE),
    "runs": Entry("runs", "app", "List runs and show what one of them did.", _LOOK),
    "trace": Entry("trace", "app", "Read the agents' decisions.", _LOOK),
    "init": Entry("init", "init", "Lay out an editable project: config, prompts and a sample input.", _SHAPE),
    "config": Entry("config", "app", "Show, validate and explain the configuration.", _SHAPE),
    "roles": Entry("roles", "app", "List, show and check the agents' roles.", _SHAPE),
    "prompts": Entry("prompts", "app", "List and render the agents' prompts.", _SHAPE),
    "prototypes": Entry("prototypes", "app", "Build banks of noise prototypes and look into them.", _SHAPE),
    "noise": Entry("noise", "app", "Add seeded noise to text and images.", _STUDY),
    "data": Entry("data", "app", "Look through copies of medical data sets.", _STUDY),
    "bench": Entry("bench", "app", "Measure refinement against baselines.", _STUDY),
    "adapt": Entry(
        "adapt",
        "app",
        "Adapt CLIP encoders with a few clean images (RobustMedCLIP) and judge them under noise.",
        _STUDY,
    ),
    "doctor": Entry(
        "doctor", "doctor", "Check what is installed and where models and word lists come from.", _STUDY
    ),
}


class _LazyGroup(TyperGroup):
    """Lists the table above without importing anything; imports the one module that is called."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ARG002
        entry = COMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=entry.help, rich_help_panel=entry.panel) if entry else None

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ARG002
        entry = COMMANDS.get(args[0])
        if entry is None:
            hint = nearest(args[0], list(COMMANDS)) or "; `imc --help` lists them"
            raise ImcError(f"unknown command {args[0]!r}{hint}")
        return args[0], load_command(args[0]), args[1:]


def load_command(name: str) -> Any:
    """Import the module of a command and return the command object that Typer runs."""
    entry = COMMANDS[name]
    target = getattr(import_module(f"imc_agents.commands.{entry.module}"), entry.attribute)
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(target)
        target = app
    command = typer.main.get_command(target)
    command.name = name
    return command


app = typer.Typer(
    cls=_LazyGroup,
    name="imc",
    help="Calibrate noisy clinical questions for medical multimodal LLMs, with the model itself and without training.",
    epilog="Output is for people on a terminal and JSON lines when piped. Text stays on this machine.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imc-agents {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _fail(message: str, exit_code: int) -> int:
    for line in message.splitlines():
        sys.stderr.write(f"imc: error: {line}\n")
    return exit_code


def run(arguments: Sequence[str]) -> int:
    """Run ``imc`` with these arguments and return its exit code; every failure is one line on stderr."""
    keep_text_local()
    try:
        result = typer.main.get_command(app).main(list(arguments), prog_name="imc", standalone_mode=False)
        sys.stdout.flush()
    except ImcError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _fail(error.format_message(), 2) if error.format_message() else 2
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except (BrokenPipeError, SystemExit) as error:
        # The reader of our output has left (`imc ... | head`); typer makes a SystemExit of that.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _drop_stdout()
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _drop_stdout()
            return _fail("cannot write the output: the disk is full; free some space", 2)
        if os.environ.get("IMC_DEBUG") == "1":
            raise
        summary = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"{summary}; this is a defect of imc; rerun with IMC_DEBUG=1 for the traceback", 1)
    return result if isinstance(result, int) else 0


def _drop_stdout() -> None:
    """Let what is still buffered go nowhere; Python would complain about it while closing stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point of the ``imc`` command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
