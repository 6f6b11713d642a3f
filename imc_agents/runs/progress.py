"""Progress of a run on stderr: a live bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imc_agents.refinement import STATUSES, Refinement, Status
from imc_agents.trace.marks import STATUS_STYLES, counted

__all__ = ["ProgressView", "open_progress"]

_LOG_SECONDS = 10.0


class ProgressView(Protocol):
    """Shows how far a run is."""

    def start(self, total: int, done: int) -> None:
        """The models are loaded; of ``total`` rows ``done`` were finished before."""
        ...

    def update(self, refinement: Refinement | None) -> None:
        """A row is finished, or was so before where there is no refinement."""
        ...

    def close(self) -> None:
        """The run has ended, however."""
        ...


def open_progress(*, quiet: bool = False, console: Console | None = None) -> ProgressView:
    """Return the view that suits stderr."""
    if quiet:
        return _Silent()
    console = console or Console(stderr=True, highlight=False)
    return _Bar(console) if console.is_terminal else _Log(console)


@dataclass(slots=True)
class _State:
    total: int = 0
    before: int = 0
    started: float = 0.0
    fresh: Counter[Status] = field(default_factory=Counter[Status])

    @property
    def done(self) -> int:
        return self.before + self.fresh.total()

    @property
    def rate(self) -> float:
        return self.fresh.total() / max(time.monotonic() - self.started, 1e-3)

    @property
    def eta(self) -> str:
        return _clock((self.total - self.done) / self.rate) if self.fresh else "-:--"

    def counts(self) -> Text:
        fresh = self.fresh
        parts = [Text(f"{s} {fresh[s]:,}", STATUS_STYLES[s]) for s in STATUSES if fresh[s]]
        if self.before:
            parts.append(Text(f"done before {self.before:,}", "dim"))
        return Text("  ").join(parts)


class _Silent:
    def start(self, total: int, done: int) -> None:
        pass

    def update(self, refinement: Refinement | None) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    """Two live lines: the bar with rate and ETA, and the counts by status."""

    def __init__(self, console: Console) -> None:
        self._state = _State()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=True)
        self._live.start()

    def start(self, total: int, done: int) -> None:
        self._state = _State(total, done, time.monotonic())

    def update(self, refinement: Refinement | None) -> None:
        if refinement is not None:
            self._state.fresh[refinement.status] += 1

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        state = self._state
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        if not state.started:
            line.add_row(Text("loading the model", "bold"), ProgressBar(pulse=True), "")
            return line
        share = state.done / max(state.total, 1)
        figures = (
            f"{state.done:,}/{state.total:,} {share:4.0%}  {state.rate:,.1f} questions/s  ETA {state.eta}"
        )
        bar = ProgressBar(total=max(state.total, 1), completed=state.done)
        line.add_row(Text("refining", "bold"), bar, figures)
        return Group(line, state.counts())


class _Log:
    """A plain line every few seconds and at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._state = _State()
        self._next = 0.0

    def start(self, total: int, done: int) -> None:
        self._state = _State(total, done, time.monotonic())
        self._next = self._state.started + _LOG_SECONDS
        skipped = f", {done:,} of them done before" if done else ""
        self._print(f"refining {counted(total, 'question')}{skipped}")

    def update(self, refinement: Refinement | None) -> None:
        if refinement is not None:
            self._state.fresh[refinement.status] += 1
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + _LOG_SECONDS
                self._report()

    def close(self) -> None:
        if self._state.started:
            self._report()

    def _report(self) -> None:
        state = self._state
        figures = f"{state.done:,}/{state.total:,}  {state.rate:,.1f} questions/s  ETA {state.eta}"
        self._print(f"{figures}  {state.counts().plain}")

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
