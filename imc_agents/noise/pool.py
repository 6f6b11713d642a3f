"""Worker processes whose results come in order, and none of which is left behind by an interruption."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import TypeVar

from imc_agents.errors import UsageError

__all__ = ["Workers", "open_workers", "unwanted", "usable_cores"]

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # items in flight for each worker; bounds the memory

# In a worker: set when the process that started it wants no more results.
_unwanted: Event | None = None


def usable_cores() -> int:
    """How many cores this process may use; a cluster's scheduler may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Workers:
    """Processes that share the work; without an executor everything happens in this one."""

    count: int
    executor: ProcessPoolExecutor | None

    def in_order(self, function: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
        """Yield the function's results in the order of the items, whatever the number of workers.

        With several workers the function and the items must be picklable.

        Args:
            function: Called once for each item.
            items: Drawn from a few at a time.

        Raises:
            UsageError: a worker was killed.
        """
        if self.executor is None:
            yield from map(function, items)
            return
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                with _interrupts_held():  # the executor starts its processes when it is given work
                    waiting.append(self.executor.submit(function, item))
                if len(waiting) > _AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UsageError(
                "a worker process was killed, perhaps for want of memory; try fewer --workers"
            ) from error


@contextmanager
def open_workers(count: int) -> Generator[Workers]:
    """Start worker processes, and end them however the block ends.

    Ctrl-C reaches this process alone: workers are told by ``unwanted``, end what they have in hand and leave. They
    also leave when this process is killed.

    Args:
        count: With 1 there is no further process.

    Raises:
        UsageError: ``count`` is below 1.
    """
    if count < 1:
        raise UsageError(f"--workers {count}: give 1 or more")
    if count == 1:
        yield Workers(1, None)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    executor = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(stop,))
    try:
        yield Workers(count, executor)
    finally:
        stop.set()
        executor.shutdown(wait=True, cancel_futures=True)


def unwanted() -> bool:
    """Whether the result of this worker is wanted no more; long work asks now and then."""
    return _unwanted is not None and _unwanted.is_set()


@contextmanager
def _interrupts_held() -> Generator[None]:
    """Hold Ctrl-C back; a process that is started meanwhile never sees one, from its first instruction on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(stop: Event) -> None:
    import cv2

    global _unwanted
    _unwanted = stop
    cv2.setNumThreads(1)  # the workers share the cores already
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
