"""Work in other processes: started afresh, ending with this one, results as they come."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from atomml.errors import AtommlError

__all__ = ["completed", "worker_pool"]

Item = TypeVar("Item")


def worker_pool(number: int, prepare: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """Processes that end when this one does, even if it is killed; each calls ``prepare`` at its start."""
    # a forked process would inherit the threads of torch
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(number, context, _start, (os.getpid(), prepare))


def completed(
    pool: ProcessPoolExecutor,
    function: Callable[[Item], None],
    items: Sequence[Item],
    *,
    ahead: int,
    died: Callable[[Item], AtommlError],
) -> Iterator[Item]:
    """Items as ``function`` is done with them; the first error is raised here.

    Args:
        pool: see `worker_pool`.
        function: at module level, so that the processes find it.
        items: handed out in order.
        ahead: items handed out before the first is done.
        died: the error to raise when the process that worked on an item is gone.
    """
    waiting, running = list(reversed(items)), dict[Future[None], Item]()
    while waiting or running:
        while waiting and len(running) < ahead:
            item = waiting.pop()
            running[pool.submit(function, item)] = item
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            item = running.pop(future)
            try:
                future.result()
            except BrokenProcessPool as error:
                raise died(item) from error
            yield item


def _start(parent: int, prepare: Callable[[], None] | None) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if prepare is not None:
        prepare()
