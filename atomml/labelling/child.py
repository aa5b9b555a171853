"""The child process of `atomml.labelling.children`: reads requests as JSON lines, computes, answers likewise."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

__all__: list[str] = []

MARGIN = 60.0  # s after the time limit, at which a child ends by itself in case its parent could not end it


def main() -> None:
    """Until the parent closes the pipe."""
    parent, folder = int(sys.argv[1]), Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what calculators print must not come between the answers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from atomml.labelling.attempt import attempt

    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        limit = request.pop("timeout")
        if limit is not None:  # by a thread in C, which also ends compiled code that holds Python's lock
            faulthandler.dump_traceback_later(limit + MARGIN, exit=True)
        answers.write(json.dumps(attempt(**request, folder=folder)) + "\n")
        answers.flush()
        faulthandler.cancel_dump_traceback_later()
    shutil.rmtree(folder, ignore_errors=True)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)  # programs that were started by this process too
    os._exit(1)


if __name__ == "__main__":
    main()
