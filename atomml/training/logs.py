"""What a training says: JSON lines, a CSV table, and a progress bar or plain lines on the terminal."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = [
    "append_csv",
    "append_jsonl",
    "columns_of",
    "epoch_line",
    "epoch_progress",
    "read_jsonl",
    "rewrite_csv",
    "set_lines",
]

SLOW_LOADING = 0.05  # share of an epoch spent waiting for batches that is worth a remark


def columns_of(terms: Sequence[str], measures: Sequence[str]) -> tuple[str, ...]:
    """Columns of ``metrics.csv``: of the training, the validation (``measures``), and the clock."""
    trained = [f"train_{name}" for name in ("loss", *terms)]
    return ("epoch", "step", "lr", *trained, "valid_loss", *measures, "grad_norm", "seconds")


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


def append_csv(path: Path, record: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Add one epoch to the table, with a header if the file is new; several sets have columns ``SET: loss``."""
    new = not path.exists()
    measured = [key for key in columns if key == "valid_loss" or key.endswith(("_mae", "_rmse"))]
    by_set = {f"{name}: {key}": v for name, row in record.get("sets", {}).items() for key, v in row.items()}
    own = [f"{name}: {key}" for name in record.get("sets", {}) for key in measured]
    named = [*columns[:-1], *own, columns[-1]]  # what depends on the clock stays last
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, named, extrasaction="ignore", restval="")
        if new:
            writer.writeheader()
        writer.writerow({**record, **by_set})


def rewrite_csv(path: Path, records: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write the table anew from the epochs of a log."""
    path.unlink(missing_ok=True)
    for record in records:
        if record["kind"] == "epoch":
            append_csv(path, record, columns)


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
