"""Child processes that compute labels: killed at a time limit whatever they do, and replaced when they die.

They are plain programs that talk JSON lines through pipes, so that they can be started from anywhere, also from
the daemonic workers of Dask, from which `multiprocessing` starts nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

__all__ = ["Children"]

START = 600.0  # s in which a child must have imported what it needs
GRACE = 2.0  # s in which programs started by a child (mpirun) may end theirs


class Children:
    """Idle and busy child processes of this process; safe to use from several threads.

    A context manager: at its end all of them are killed.
    """

    def __init__(self) -> None:
        self.closed = False
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all."""
        with self._lock:
            self.closed = True
            all_of_them = [*self._idle, *self._busy]
            self._idle.clear()
        for child in all_of_them:
            child.kill()

    def ask(self, request: dict[str, Any], threads: int) -> dict[str, Any]:
        """The answer of a child with its ``seconds``; a time-out or its death are failures.

        The time that a new child takes to start does not count.
        """
        child = self._begin(threads)
        if child is None:
            return {"failure": "died", "message": "labelling was stopped", "seconds": 0.0}
        try:
            return child.ask(request)
        finally:
            self._end(child)

    def _begin(self, threads: int) -> _Child | None:
        with self._lock:
            if self.closed:
                return None
            self._idle = [child for child in self._idle if child.alive]
            child = next((child for child in self._idle if child.threads == threads), None)
            if child is None:
                child = _Child(threads)
            else:
                self._idle.remove(child)
            self._busy.add(child)
        return child

    def _end(self, child: _Child) -> None:
        with self._lock:
            self._busy.discard(child)
            reusable = child.alive and not self.closed
            if reusable:
                self._idle.append(child)
        if not reusable:
            child.kill()


class _Child:
    """One process, the leader of a group of its own, with a folder for its files."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.ready = self.killed = False
        self._folder = tempfile.TemporaryDirectory(prefix="atomml-label-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "atomml.labelling.child", str(os.getpid()), self._folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            env=_environment(threads),
        )
        self._last_words: deque[str] = deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        return not self.killed and self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self.ready:
            greeting = self._line(START)
            self.ready = greeting is not None
            if greeting is None:
                return self._dead("a process for labels does not start", 0.0)
        self._last_words.clear()
        assert self._process.stdin is not None
        with suppress(OSError):  # a dead one says so below
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        start, timeout = time.perf_counter(), request["timeout"]
        line = self._line(timeout)
        seconds = time.perf_counter() - start
        if line is not None:
            return json.loads(line) | {"seconds": seconds}
        if timeout is not None and seconds >= timeout:
            self.kill()
            message = f"not done after {timeout:g} s; its process was killed"
            return {"failure": "timeout", "message": message, "seconds": seconds}
        return self._dead("the process died", seconds)

    def _line(self, timeout: float | None) -> str | None:
        """The next line; None if the process is gone, or was killed at the end of its time."""
        assert self._process.stdout is not None
        timer = None if timeout is None else threading.Timer(timeout, self.kill)
        if timer is not None:
            timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            if timer is not None:
                timer.cancel()
        return line if line.endswith("\n") else None

    def _dead(self, what: str, seconds: float) -> dict[str, Any]:
        self.kill()
        self._listener.join(1.0)
        code = self._process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        words = " ".join(" ".join(self._last_words).split())[-600:]
        message = f"{what} ({how})" + (f": {words}" if words else "")
        return {"failure": "died", "message": message, "seconds": seconds}

    def _listen(self, stream: Iterable[str]) -> None:
        for line in stream:
            self._last_words.append(line[:500])

    def kill(self) -> None:
        """End the process and every program it started."""
        self.killed = True
        _kill_group(self._process)
        self._folder.cleanup()


def _kill_group(process: subprocess.Popen[str]) -> None:
    """End the leader of a process group and the group."""
    if not hasattr(os, "killpg"):  # not on Windows
        process.kill()
        process.wait()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(threads: int) -> dict[str, str]:
    """Modules are found as in this process; the number of threads is fixed before anything is imported."""
    numbers = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    return {**os.environ, "PYTHONPATH": path, **dict.fromkeys(numbers, str(threads))}
