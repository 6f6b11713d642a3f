"""How far a long command is, on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["watched"]

_LOG_SECONDS = 10.0


@contextmanager
def watched(total: int, unit: str) -> Generator[Callable[[int], None]]:
    """Yield a function to call with the number of units that have been finished since the last call.

    Args:
        total: How many there are.
        unit: In the plural, e.g. ``images``.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _log(console.print, total, unit)
        return
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(unit, total=total)

        def advance(count: int) -> None:
            progress.advance(task, count)

        yield advance


def _log(tell: Callable[[str], None], total: int, unit: str) -> Callable[[int], None]:
    done, told = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() >= told + _LOG_SECONDS:
            told = time.monotonic()
            tell(f"{done:,}/{total:,} {unit}")

    return advance
