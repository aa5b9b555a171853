"""What a loop has achieved so far: rounds.csv, rounds.json, report.md and, unless `figures` is false, a figure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from atomml.active.history import RoundRow, latest_model, table, total
from atomml.active.journal import Record
from atomml.active.work import Run
from atomml.files import write_atomically
from atomml.labelling.identity import labeller_name
from atomml.training.report import markdown_table, save_figure

__all__ = ["cells", "write_report"]

HEADER = {
    "round": "round",
    "candidates": "candidates",
    "passed": "passed",
    "selected": "selected",
    "labelled": "labelled",
    "train_frames": "trained on",
    "fresh_forces_rmse": "fresh",
    "calibration_forces_rmse": "held out",
    "test_forces_rmse": "test",
    "test_z_rms": "error/σ",
    "confident_share": "confident",
    "seconds": "s",
}
"""Columns of the table: key and title."""
SCALED = ("fresh_forces_rmse", "calibration_forces_rmse", "test_forces_rmse")


def cells(row: RoundRow) -> list[str]:
    """A row of the table as text; errors in meV/Å."""
    out = []
    for key in HEADER:
        value = row[key]
        if value is None:
            out.append("–")
        elif key in SCALED:
            out.append(f"{1e3 * value:.1f}")
        elif key == "confident_share":
            out.append(f"{value:.1%}")
        elif key == "seconds":
            out.append(f"{value:.0f}")
        else:
            out.append(f"{value:.3g}" if isinstance(value, float) else str(value))
    return out


def write_report(run: Run) -> None:
    """Write all of it; times and notes included."""
    records = run.journal.records
    rows, folder = table(records), run.folder
    write_atomically(folder / "rounds.json", json.dumps(rows, indent=1).encode())
    write_atomically(folder / "rounds.csv", _csv(rows).encode())
    write_atomically(folder / "report.md", _markdown(run, rows).encode())
    if run.config.figures:
        _figure(rows, records, run)


def _csv(rows: Sequence[RoundRow]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flat = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()}
        writer.writerow(flat)
    return text.getvalue()


def _markdown(run: Run, rows: Sequence[RoundRow]) -> str:
    records, config = run.journal.records, run.config
    model = latest_model(records, run.folder)
    ended = [r["facts"]["reason"] for r in records[-1:] if r["step"] == "stop"]
    facts: list[list[object]] = [
        ["ended", ended[0] if ended else "not yet"],
        ["labels asked for", total(records, "asked")],
        ["labelled", total(records, "labelled")],
        ["labeller", labeller_name(config.label.calculator)],
        ["selection", f"{config.select.method}, {config.select.n} a round"],
        ["learning", config.learn.mode],
        ["last model", "none" if model is None else f"`{run.relative(model.path)}`"],
    ]
    lines = ["# Active learning", "", markdown_table(["", ""], facts), "", "## Rounds", ""]
    lines += [markdown_table(list(HEADER.values()), [cells(row) for row in rows]), ""]
    lines += [
        "Errors are RMSE of force components in meV/Å: *fresh* on the labels of the round before they were trained "
        "on, *held out* on the frames for calibration, *test* on the fixed test set; *error/σ* is the RMS of errors "
        "in units of their calibrated deviations on the test set (1 is right); *confident* is the share of "
        "candidates below `gate.force_std_min`.",
        "",
        *(["![learning curve](learning_curve.png)", ""] if config.figures else []),
        "## The gate",
        "",
    ]
    reasons = sorted({name for row in rows for name in row["dropped"] or {}})
    gated = [row for row in rows if row["dropped"] is not None]
    counts = [[r["round"], *(r["dropped"].get(name, 0) for name in reasons), r["passed"]] for r in gated]
    lines += [markdown_table(["round", *(n.replace("_", " ") for n in reasons), "passed"], counts), ""]
    notes = [f"- round {row['round']}: {row['note']}" for row in rows if row["note"]]
    lines += ["## Notes", "", *notes, ""] if notes else []
    return "\n".join(lines)


def _figure(rows: Sequence[RoundRow], records: Sequence[Record], run: Run) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    frames = _values(rows, "train_frames")
    for key, label, colour in (
        ("fresh_forces_rmse", "fresh labels, before", "tab:orange"),
        ("calibration_forces_rmse", "held out", "tab:blue"),
        ("test_forces_rmse", "test", "black"),
    ):
        values = 1e3 * _values(rows, key)
        if np.isfinite(values).any():
            left.plot(frames, values, "o-", ms=4, lw=1, label=label, color=colour)
    left.set(xlabel="training frames", ylabel="force RMSE (meV/Å)")
    if left.lines:
        left.set_yscale("log")
        left.legend(frameon=False, fontsize=8)
    right.plot(_values(rows, "round"), 100 * _values(rows, "confident_share"), "o-", ms=4, lw=1)
    right.set(xlabel="round", ylabel="confident candidates (%)", ylim=(-3, 103))
    right.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, run.folder / "learning_curve.png")


def _values(rows: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([np.nan if row[key] is None else float(row[key]) for row in rows])
