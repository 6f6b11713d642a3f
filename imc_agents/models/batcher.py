"""One thread that owns the model and batches what many questions ask of it at the same time."""

from __future__ import annotations

import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, field
from typing import TypeVar

from imc_agents.errors import InfraError
from imc_agents.models.decoding import Decoding, Reply, Request
from imc_agents.models.engine import Engine
from imc_agents.models.packing import PackedRow, bucket_length

__all__ = ["Batcher", "Work"]

_Result = TypeVar("_Result")
_LINGER_SECONDS = 0.002  # an idle model waits this long for company before it starts a batch


@dataclass(slots=True, eq=False)
class _ScoreJob:
    context: tuple[int, ...]
    rows: Sequence[PackedRow]
    future: Future[list[list[float]]] = field(default_factory=Future[list[list[float]]])
    done: dict[int, list[float]] = field(default_factory=dict[int, list[float]])


@dataclass(slots=True, eq=False)
class _ReplyJob:
    request: Request
    future: Future[Reply] = field(default_factory=Future[Reply])


@dataclass(frozen=True, slots=True)
class Work:
    """What the model has scored so far.

    Attributes:
        batches: Forward passes.
        rows: Rows in them.
        tokens: Tokens in these rows.
        seconds: Wall time of the passes.
    """

    batches: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: Work) -> Work:
        return Work(*map(operator.sub, astuple(self), astuple(other)))


class Batcher:
    """Runs score rows and replies on an engine in its own thread.

    Rows are scored in the order in which they came, as many at once as ``max_batch_tokens`` allows. Replies are
    written in lock-step groups that share context and padded length; one step of a group alternates with one score
    batch, so neither waits for the other.
    """

    def __init__(self, load: Callable[[], Engine], *, max_batch_tokens: int, max_replies: int) -> None:
        self.work = Work()
        self._load = load
        self._max_batch_tokens = max_batch_tokens
        self._max_replies = max_replies
        self._wake = threading.Condition()
        self._rows: deque[tuple[_ScoreJob, int]] = deque()
        self._replies: list[_ReplyJob] = []
        self._group: tuple[Decoding, list[_ReplyJob]] | None = None
        self._taken: list[_ScoreJob | _ReplyJob] = []  # what the batch in flight answers
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="imc-model", daemon=True)
        self._loaded: Future[Engine] = Future()

    def start(self) -> Future[Engine]:
        """Start the thread and load the model in it."""
        self._thread.start()
        return self._loaded

    def score(self, context: tuple[int, ...], rows: Sequence[PackedRow]) -> Future[list[list[float]]]:
        """Queue the rows of one request; the result has one list of log-probabilities a row."""
        job = _ScoreJob(context, rows)
        with self._wake:
            self._check_open()
            self._rows.extend((job, index) for index in range(len(rows)))
            self._wake.notify()
        return job.future

    def reply(self, request: Request) -> Future[Reply]:
        """Queue a prompt to answer."""
        job = _ReplyJob(request)
        with self._wake:
            self._check_open()
            self._replies.append(job)
            self._wake.notify()
        return job.future

    def close(self) -> None:
        """Cancel what is queued, let the batch in flight end, and free the model."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _check_open(self) -> None:
        if self._closing or not self._thread.is_alive():
            raise InfraError("the embedded model is closed; open the backend again")

    def _main(self) -> None:
        if not self._loaded.set_running_or_notify_cancel():  # from here on nobody can cancel it
            return
        try:
            engine = self._load()
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(engine)
        while self._wait():
            try:
                self._score_batch(engine)
                self._reply_step(engine)
            except Exception as error:  # the engine failed: every caller hears of it, the thread lives on
                self._fail(InfraError(f"the embedded model failed: {type(error).__name__}: {error}"))
        self._fail(None)

    def _wait(self) -> bool:
        with self._wake:
            if not (self._rows or self._replies or self._group or self._closing):
                self._wake.wait_for(lambda: self._rows or self._replies or self._closing)
                idle = True
            else:
                idle = False
        if idle and not self._closing:
            time.sleep(_LINGER_SECONDS)
        return not self._closing

    def _score_batch(self, engine: Engine) -> None:
        batch = self._take_rows()
        if not batch:
            return
        self._taken = [job for job, _ in batch]
        contexts = [engine.context(job.context) for job, _ in batch]
        rows = [job.rows[index] for job, index in batch]
        started = time.perf_counter()
        results = engine.score(contexts, rows)
        seconds = time.perf_counter() - started
        self.work += Work(1, len(rows), sum(len(row.tokens) for row in rows), seconds)
        for (job, index), logprobs in zip(batch, results, strict=True):
            job.done[index] = logprobs
            if len(job.done) == len(job.rows) and not job.future.cancelled():
                _deliver(job.future, [job.done[line] for line in range(len(job.rows))])
        self._taken = []

    def _take_rows(self) -> list[tuple[_ScoreJob, int]]:
        batch: list[tuple[_ScoreJob, int]] = []
        room = self._max_batch_tokens
        with self._wake:
            while self._rows:
                job, index = self._rows[0]
                tokens = len(job.rows[index].tokens)
                if not job.future.cancelled():
                    if batch and tokens > room:
                        break
                    batch.append((job, index))
                    room -= tokens
                self._rows.popleft()
        return batch

    def _reply_step(self, engine: Engine) -> None:
        if self._group is None:
            jobs = self._take_replies()
            if not jobs:
                return
            self._taken = [*jobs]
            self._group = (Decoding(engine, [job.request for job in jobs]), jobs)
            self._taken = []
        decoding, jobs = self._group
        for index in decoding.active:
            if jobs[index].future.cancelled():
                decoding.cancel(index)
        before = set(decoding.active)
        decoding.step()
        for index in before.difference(decoding.active):
            if not jobs[index].future.cancelled():
                _deliver(jobs[index].future, decoding.replies[index])
        if not decoding.active:
            self._group = None

    def _take_replies(self) -> list[_ReplyJob]:
        with self._wake:
            self._replies = [job for job in self._replies if not job.future.cancelled()]
            if not self._replies:
                return []
            key = _reply_key(self._replies[0])
            same = [job for job in self._replies if _reply_key(job) == key]
            taken = same[: self._max_replies]
            self._replies = [job for job in self._replies if job not in taken]
            return taken

    def _fail(self, error: Exception | None) -> None:
        """End everything that is queued or in flight: cancelled, or with the error."""
        with self._wake:
            jobs: list[_ScoreJob | _ReplyJob] = [*self._taken, *self._replies]
            jobs += [job for job, _ in self._rows]
            jobs += self._group[1] if self._group is not None else []
            self._taken = []
            self._rows.clear()
            self._replies.clear()
            self._group = None
        for future in {job.future for job in jobs if not job.future.done()}:
            if error is None:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                future.set_exception(error)


def _reply_key(job: _ReplyJob) -> tuple[tuple[int, ...], int]:
    return job.request.context, bucket_length(len(job.request.prompt))


def _deliver(future: Future[_Result], result: _Result) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(result)
