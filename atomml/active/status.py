"""`atomml active status`: how far a loop is, at any time, also while it runs and after a kill."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from atomml.active.history import latest_model, next_step, table, total
from atomml.active.journal import is_running, read_journal
from atomml.active.report import HEADER, cells
from atomml.active.work import NOW

__all__ = ["print_status", "status"]


def status(folder: str | Path) -> dict[str, Any]:
    """Where a loop is: ``rounds`` (one row each), ``running``, ``next`` step, ``stopped`` (why), ``now``, ``labels``.

    Raises:
        DataError: no loop there, or a damaged journal.
    """
    path = Path(folder)
    records = read_journal(path)
    running = is_running(path)
    round_, step = next_step(records)
    last = records[-1] if records else None
    model = latest_model(records, path)
    return {
        "rounds": [row for row in table(records) if any(v is not None for v in row.values())],
        "running": running,
        "next": {"round": round_, "step": step},
        "now": _now(path) if running else None,
        "stopped": last["facts"]["reason"] if last is not None and last["step"] == "stop" else None,
        "labels": {"asked": total(records, "asked"), "labelled": total(records, "labelled")},
        "model": None if model is None else str(model.path),
    }


def print_status(found: dict[str, Any], console: Console) -> None:
    """One table, and a line on where it is."""
    shown = Table(*HEADER.values())
    for row in found["rounds"]:
        shown.add_row(*cells(row))
    console.print(shown)
    for row in found["rounds"]:
        dropped = ", ".join(f"{count} {name}" for name, count in (row["dropped"] or {}).items())
        for line in (dropped and f"dropped {dropped}", row["note"]):
            if line:
                console.print(f"round {row['round']}: {line}", highlight=False, markup=False)
    console.print(_where(found), highlight=False, markup=False)


def _where(found: dict[str, Any]) -> str:
    after = f"round {found['next']['round']}, {found['next']['step']}"
    if found["running"]:
        now = found["now"] or {}
        if not now:
            return f"Running: {after}."
        count = f", {now['done']} of {now['of']}" if now["of"] else ""
        return f"Running: round {now['round']}, {now['step']}{count}, {time.time() - now['at']:.0f} s ago."
    if found["stopped"] is not None:
        return f"Ended: {found['stopped']}."
    return f"Not running; --resume goes on with {after}."


def _now(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / NOW).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
