"""What a training says: JSON lines, a CSV table, and a progress bar or plain lines on the terminal."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = [
    "COLUMNS",
    "append_csv",
    "append_jsonl",
    "epoch_line",
    "epoch_progress",
    "read_jsonl",
    "rewrite_csv",
    "set_lines",
]

COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_energy",
    "train_forces",
    "train_stress",
    "valid_loss",
    "energy_per_atom_mae",
    "energy_per_atom_rmse",
    "forces_mae",
    "forces_rmse",
    "stress_mae",
    "stress_rmse",
    "grad_norm",
    "seconds",
)

SLOW_LOADING = 0.05  # share of an epoch spent waiting for batches that is worth a remark
SET_COLUMNS = tuple(c for c in COLUMNS if c == "valid_loss" or c.endswith(("_mae", "_rmse")))


def append_jsonl(path: Path, record: Mapping[str, Any]) -> int:
    """Add one line and flush it to the disk; returns the size of the file, to which a resume cuts it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def read_jsonl(path: Path, size: int | None = None) -> list[dict[str, Any]]:
    """Records of a log; with ``size`` the file is first cut to that many bytes."""
    if not path.exists():
        return []
    if size is not None:
        with path.open("r+b") as file:
            file.truncate(size)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def append_csv(path: Path, record: Mapping[str, Any]) -> None:
    """Add one epoch to the table, with a header if the file is new; several sets have columns ``SET: loss``."""
    new = not path.exists()
    by_set = {f"{name}: {key}": v for name, row in record.get("sets", {}).items() for key, v in row.items()}
    own = [f"{name}: {key}" for name in record.get("sets", {}) for key in SET_COLUMNS]
    columns = [*COLUMNS[:-1], *own, COLUMNS[-1]]  # what depends on the clock stays last
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        if new:
            writer.writeheader()
        writer.writerow({**record, **by_set})


def rewrite_csv(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the table anew from the epochs of a log."""
    path.unlink(missing_ok=True)
    for record in records:
        if record["kind"] == "epoch":
            append_csv(path, record)


def epoch_line(record: Mapping[str, Any]) -> str:
    """One line per epoch: losses, validation RMSE in meV/atom, meV/Å and meV/Å³, rate, seconds."""
    parts = [f"epoch {record['epoch']:4d}", f"step {record['step']:7d}", f"train {record['train_loss']:.5f}"]
    if "valid_loss" in record:
        parts.append(f"valid {record['valid_loss']:.5f}")
    parts += _errors(record)
    parts += [f"lr {record['lr']:.2e}", f"{record['seconds']:.1f} s"]
    if record.get("loading", 0) > SLOW_LOADING:
        parts.append(f"({record['loading']:.0%} of it waiting for data: raise data.workers)")
    return "  ".join(parts)


def set_lines(record: Mapping[str, Any]) -> list[str]:
    """One line for each of several sets: validation loss and RMSE."""
    sets = record.get("sets", {})
    width = max(map(len, sets), default=0)
    return [
        "  ".join([f"      {name:{width}}  valid {row['valid_loss']:.5f}", *_errors(row)])
        for name, row in sets.items()
    ]


def _errors(record: Mapping[str, Any]) -> list[str]:
    units = (("energy_per_atom", "meV/atom"), ("forces", "meV/Å"), ("stress", "meV/Å³"))
    return [
        f"{key[0].upper()} {1e3 * record[key + '_rmse']:.2f} {unit}"
        for key, unit in units
        if f"{key}_rmse" in record
    ]


@contextmanager
def epoch_progress(
    console: Console | None, epoch: int, total: int
) -> Iterator[tuple[Progress | None, TaskID]]:
    """A bar over the steps of one epoch on a terminal; nothing elsewhere."""
    if console is None or not console.is_terminal:
        yield None, TaskID(0)
        return
    bar = Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=console,
        transient=True,
    )
    with bar:
        yield bar, bar.add_task("", total=total, epoch=epoch, loss="")
