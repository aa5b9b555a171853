"""Processes that are timed: started, told what to prepare, and asked to run; see `workers.worker_loop`."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from atomml.errors import AtommlError

__all__ = ["WORKERS", "PeerError", "Worker"]

WORKERS = Path(__file__).parent / "workers"
"""Folder of the programs."""

_TAIL = 600
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class PeerError(AtommlError):
    """A library that cannot be measured here: not installed, or its process failed."""


class Worker:
    """One process, for use in a ``with`` block.

    Args:
        name: name of the case in the tables.
        python: of the environment to run in.
        program: a script that speaks the protocol of `workers.worker_loop`.
        threads: for the libraries in it.
        patience: seconds to wait for an answer before the process counts as stuck.
    """

    def __init__(
        self, name: str, python: Path, program: Path, *, threads: int, patience: float = 1800
    ) -> None:
        self.name, self.patience = name, patience
        self._parts: dict[str, float] = {}
        self._total = 0.0
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (see close)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
        try:
            self._process = subprocess.Popen(  # noqa: S603 (a program of this package)
                [str(python), str(program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                bufsize=0,
            )
        except OSError as error:
            self._log.close()
            raise PeerError(f"The process of {name} does not start ({error}).", where=str(python)) from error

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self, task: dict[str, Any]) -> dict[str, Any]:
        """Make a task ready, run it once, and return what the process says about it.

        Raises:
            PeerError: the process cannot do the task; with its own words.
        """
        facts: dict[str, Any] = self._ask({"prepare": task})["facts"]
        self._parts, self._total = {}, 0.0
        return facts

    def seconds(self, count: int) -> float:
        """Run the task ``count`` times and return the seconds that took.

        Raises:
            PeerError: it failed.
        """
        reply = self._ask({"time": count})
        for name, value in reply["parts"].items():
            self._parts[name] = self._parts.get(name, 0.0) + float(value)
        self._total += float(reply["seconds"])
        return float(reply["seconds"])

    def shares(self) -> dict[str, float]:
        """Share of each known part of the task, by name, over all its runs so far."""
        return {name: value / self._total for name, value in self._parts.items()}

    def peak_bytes(self) -> int:
        """Largest resident size of the process so far."""
        return int(self._ask({"memory": True})["peak_bytes"])

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except (BrokenPipeError, ValueError):
            raise PeerError(f"The process of {self.name} has ended.", where=self._last_words()) from None
        reply: dict[str, Any] = json.loads(self._line())
        if "error" in reply:
            raise PeerError(f"{self.name}: {reply['error']}")
        return reply

    def _line(self) -> bytes:
        """The next answer, however slowly it comes; what a library prints while it is imported is skipped."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            text = b""
            while not (text.endswith(b"\n") and text.splitlines()[-1].startswith(b"{")):
                if not selector.select(self.patience):
                    raise PeerError(f"{self.name} gave no answer for {self.patience:g} s.")
                part = os.read(self._process.stdout.fileno(), 65536)
                if not part:
                    raise PeerError(f"The process of {self.name} has ended.", where=self._last_words())
                text += part
        return text.splitlines()[-1]

    def _last_words(self) -> str:
        code = self._process.wait(timeout=5)
        self._log.seek(0)
        return f"exit code {code}; … {self._log.read()[-_TAIL:].strip()}"
