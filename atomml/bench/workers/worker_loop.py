"""The loop of a process that is timed: one JSON line in, one JSON line out. Standard library only.

| request | reply |
|---|---|
| ``{"prepare": task}`` | ``{"facts": {...}}``: the task is ready and has run once |
| ``{"time": n}`` | ``{"seconds": s, "parts": {...}}``: n runs took s seconds; parts of it, by name, in seconds |
| ``{"memory": true}`` | ``{"peak_bytes": b}``: largest resident size of this process so far |

A request that fails is answered by ``{"error": text}`` and the loop goes on; it ends with the input.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import IO, Any

__all__ = ["Parts", "Prepare", "Run", "serve", "stopwatch"]

Parts = dict[str, float]
Run = Callable[[], object]
Prepare = Callable[[dict[str, Any], Parts], tuple[Run, dict[str, Any]]]
"""(task, parts) → (what is timed, facts about it); ``parts`` is filled during runs with the seconds of each part."""


def serve(prepare: Prepare) -> None:
    """Answer requests until the input ends. What a library prints goes to the error stream, not among the replies."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parts: Parts = {}
    run: Run | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                run = None
                run, facts = prepare(request["prepare"], parts)
                run()
                _reply(replies, facts=facts)
            elif "time" in request:
                parts.clear()
                _reply(replies, seconds=_time(run, int(request["time"])), parts=parts)
            else:
                kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                _reply(replies, peak_bytes=1024 * kilobytes)
        except Exception as error:
            _reply(replies, error=f"{type(error).__name__}: {error}")


def stopwatch(function: Callable[..., Any], name: str, parts: Parts) -> Callable[..., Any]:
    """``function`` with the time that it takes added to ``parts[name]``."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            parts[name] = parts.get(name, 0.0) + time.perf_counter() - start

    return timed


def _time(run: Run | None, count: int) -> float:
    if run is None:
        raise RuntimeError("nothing was prepared")
    start = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - start


def _reply(replies: IO[str], **values: Any) -> None:
    replies.write(json.dumps(values) + "\n")
    replies.flush()
