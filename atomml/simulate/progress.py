"""Progress of long work: a bar on a terminal, a plain line every tenth otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(total: int, label: str, *, show: bool) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(n)``; nothing is printed unless ``show``."""
    console = Console(file=sys.stderr)
    if not show:
        yield lambda n: None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(label, total=total)
            yield lambda n: bar.advance(task, n)
    else:
        yield _plain_lines(total, label, console)


def _plain_lines(total: int, label: str, console: Console) -> Callable[[int], None]:
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        before, done = done, done + n
        if total > 0 and (10 * before) // total < (10 * done) // total:
            console.print(f"{label}: {done}/{total}", highlight=False)

    return advance
