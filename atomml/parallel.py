"""One function over many structures: several processes, a time limit for each item, and no item that stops others."""

from __future__ import annotations

import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from atomml.errors import ConfigError, UnsupportedError
from atomml.processes import worker_pool

__all__ = ["Outcome", "map_structures"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
Done = Callable[[int, "Outcome[Any]"], None]
Report = Callable[[int, "Outcome[Any]", int], None]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one item.

    Attributes:
        value: the result; None where there is an error (and where the function returned None).
        error: None, or why there is no value: the exception, the time limit, the end of the process.
        seconds: how long it took.
    """

    value: Result | None
    error: str | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return self.error is None


def map_structures(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    timeout: float | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    done: Done | None = None,
) -> list[Outcome[Result]]:
    """``[function(item) for item in items]``, each with its own outcome, in order.

    An exception, a time-out or the death of a process is the outcome of that item; the others go on. One worker
    without a time limit works in this process; otherwise each of the ``workers`` is a fresh process with one
    thread. A signal inside Python cannot stop compiled code (spglib, CrystalNN's Voronoi cells), so a process
    that overruns is killed and replaced; the time its successor takes to start and to import is no item's time.
    Ctrl-C ends the processes.

    Args:
        function: at module level, or a `functools.partial` of such; it is sent with every item, so what it carries
            should be small. A script that calls this needs ``if __name__ == "__main__":``, as processes import it.
        items: structures, or whatever the function takes.
        workers: processes; with ``executor`` the items handed to it at a time (at most its own workers).
        timeout: seconds for one item.
        executor: any `concurrent.futures.Executor`, for example ``dask.distributed.Client().get_executor()``. What
            overruns there cannot be killed: it is given up and goes on holding its worker. When all workers are
            held for another ``timeout``, the items that are left have an error.
        progress: called with (items done, all items) after each.
        done: called with (index of the item, its outcome) as soon as there is one, in order of arrival. What it
            raises ends everything.

    Raises:
        ConfigError: ``workers`` or ``timeout`` is not positive.
        UnsupportedError: a process cannot start, or cannot import the function.
    """
    if workers < 1 or (timeout is not None and timeout <= 0):
        raise ConfigError(
            "Work needs at least one worker and a positive time limit.",
            where=f"workers {workers}, timeout {timeout}",
        )

    def report(index: int, outcome: Outcome[Any], count: int) -> None:
        if done is not None:
            done(index, outcome)
        if progress is not None:
            progress(count, len(items))

    if executor is None and workers == 1 and timeout is None:
        return _in_this_process(function, items, report)
    number = min(workers, len(items))
    slots: list[_Slot] = [
        _ProcessSlot(function) if executor is None else _ExecutorSlot(function, executor)
        for _ in range(number)
    ]
    try:
        return _in_slots(slots, items, timeout, report)
    finally:
        for slot in slots:
            slot.close()


def _in_this_process(
    function: Callable[[Item], Result], items: Sequence[Item], report: Report
) -> list[Outcome[Result]]:
    out = []
    for k, item in enumerate(items):
        out.append(_attempt(function, item))
        report(k, out[k], k + 1)
    return out


def _attempt(function: Callable[[Item], Result], item: Item) -> Outcome[Result]:
    start = time.perf_counter()
    try:
        return Outcome(function(item), None, time.perf_counter() - start)
    except Exception as problem:
        return Outcome(None, _described(problem), time.perf_counter() - start)


def _described(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}".removesuffix(": ")


def _in_slots(
    slots: Sequence[_Slot], items: Sequence[Item], timeout: float | None, report: Report
) -> list[Outcome[Any]]:
    outcomes: dict[int, Outcome[Any]] = {}
    waiting = list(reversed(range(len(items))))
    while len(outcomes) < len(items):
        for slot in slots:
            if waiting and slot.future is None:
                slot.begin(waiting[-1], items[waiting.pop()])
        held = all(slot.index is None for slot in slots)
        _wait(slots, timeout)
        for slot in slots:
            index, outcome = slot.index, slot.poll(timeout)
            if index is not None and outcome is not None:
                outcomes[index] = outcome
                report(index, outcome, len(outcomes))
        if held and all(slot.future is not None for slot in slots):
            left = Outcome[Any](None, "not tried: every worker is held by an item that overran", 0.0)
            for k in waiting:
                outcomes[k] = left
                report(k, left, len(outcomes))
    return [outcomes[k] for k in range(len(items))]


def _wait(slots: Sequence[_Slot], timeout: float | None) -> None:
    """Until something is done, or an item is at its time limit."""
    seconds = None
    if timeout is not None:
        now = time.perf_counter()
        seconds = max(0.0, timeout + min((s.start - now for s in slots if s.start is not None), default=0.0))
    wait([s.future for s in slots if s.future is not None], seconds, FIRST_COMPLETED)


class _Slot(ABC):
    """Where one item at a time is worked on.

    Attributes:
        index: of the item; None when there is none, or when it was given up.
        start: when its work began; None when it has not.
        future: what is being done; None when the slot is free.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.index: int | None = None
        self.start: float | None = None
        self.future: Future[Any] | None = None

    @abstractmethod
    def begin(self, index: int, item: Any) -> None:
        """Work on an item."""

    @abstractmethod
    def give_up(self, future: Future[Any]) -> None:
        """Stop work on an item that overran."""

    @abstractmethod
    def close(self) -> None:
        """Nothing is wanted any more."""

    def submit(self, executor: Executor, item: Any) -> None:
        """Start the clock."""
        self.start = time.perf_counter()
        try:
            self.future = executor.submit(_attempt, self.function, item)
        except RuntimeError as problem:  # a pool that is broken or shut down
            self.future = Future()
            self.future.set_exception(problem)

    def poll(self, timeout: float | None) -> Outcome[Any] | None:
        """The outcome of the item, once there is one."""
        if self.future is None:
            return None
        seconds = 0.0 if self.start is None else time.perf_counter() - self.start
        if self.future.done():
            outcome, self.future = self.result(self.future, seconds), None
        elif self.start is not None and timeout is not None and seconds >= timeout:
            outcome = Outcome(None, f"time-out: not done after {timeout:g} s", seconds)
            self.give_up(self.future)
        else:
            return None
        self.index = self.start = None
        return outcome

    def result(self, future: Future[Any], seconds: float) -> Outcome[Any]:
        """Of work that is done."""
        if future.cancelled():
            return Outcome(None, "cancelled", seconds)
        problem = future.exception()
        return future.result() if problem is None else Outcome(None, _described(problem), seconds)


class _ExecutorSlot(_Slot):
    """A worker of somebody else's executor."""

    def __init__(self, function: Callable[[Any], Any], executor: Executor) -> None:
        super().__init__(function)
        self._executor = executor

    def begin(self, index: int, item: Any) -> None:
        self.index = index
        self.submit(self._executor, item)

    def give_up(self, future: Future[Any]) -> None:
        if future.cancel():
            self.future = None

    def close(self) -> None:
        if self.future is not None:
            with suppress(NotImplementedError):  # Parsl cannot cancel
                self.future.cancel()


class _ProcessSlot(_Slot):
    """A process of its own, started when there is work for it, and again after it died or was killed."""

    _pool: ProcessPoolExecutor | None = None
    _item: Any = None
    _pid: int | None = None

    def begin(self, index: int, item: Any) -> None:
        self.index = index
        if self._pool is None:
            self._pool, self._item = worker_pool(1, _prepare), item
            self.future = self._pool.submit(_greet, self.function)
        else:
            self.submit(self._pool, item)

    def poll(self, timeout: float | None) -> Outcome[Any] | None:
        if self._pool is not None and self._pid is None and self.future is not None and self.future.done():
            self._pid = _started(self.future)
            self.submit(self._pool, self._item)
            return None
        return super().poll(timeout)

    def result(self, future: Future[Any], seconds: float) -> Outcome[Any]:
        if isinstance(future.exception(), BrokenProcessPool):
            self.close()
            return Outcome(
                None, "the process died: killed, out of memory, or crashed in compiled code", seconds
            )
        return super().result(future, seconds)

    def give_up(self, future: Future[Any]) -> None:
        self.close()
        self.future = None

    def close(self) -> None:
        if self._pool is None:
            return
        if self._pid is not None and self.index is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._pid = None


def _prepare() -> None:
    """In a fresh process, before anything numerical is imported."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its processes
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if "torch" in sys.modules:  # the main module of the parent, imported again here, was first
        sys.modules["torch"].set_num_threads(1)


def _greet(function: Callable[[Any], Any]) -> int:
    """Received only after ``function`` is imported."""
    return os.getpid()


def _started(greeting: Future[int]) -> int:
    try:
        return greeting.result()
    except Exception as problem:
        raise UnsupportedError(
            "A process for this work does not start, or cannot import the function.",
            where=_described(problem),
            fix="call this below `if __name__ == '__main__':` with a function at module level, "
            "or use one worker without a time limit",
        ) from problem
