"""Figures of measurements of speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["draw_kernels", "draw_potentials", "draw_scaling"]

Result = dict[str, Any]
WIDTH, HEIGHT = 5.0, 3.6


def draw_kernels(path: Path, result: Result) -> None:
    """Milliseconds against L, one panel for each mode, one line for each case (the rank is left out)."""
    modes = list(dict.fromkeys(row["mode"] for row in result["rows"]))
    figure = Figure(figsize=(WIDTH * max(len(modes), 1), HEIGHT), layout="constrained")
    for axis, mode in zip(_axes(figure, len(modes)), modes, strict=True):
        rows = [row for row in result["rows"] if row["mode"] == mode]
        for name in dict.fromkeys(_family(row["case"]) for row in rows):
            line = [(row["lmax"], row["ms"]) for row in rows if _family(row["case"]) == name]
            axis.plot(*zip(*line, strict=True), marker="o", ms=4, lw=1.2, label=name)
        axis.set(title=mode, xlabel="L", ylabel="ms", yscale="log", xticks=result["settings"]["lmax"])
        axis.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=130)


def draw_potentials(path: Path, result: Result) -> None:
    """Microseconds per atom of every model, one panel for each task; the bar ends at the median."""
    tasks = list(dict.fromkeys(row["task"] for row in result["rows"]))
    figure = Figure(figsize=(WIDTH * max(len(tasks), 1), HEIGHT), layout="constrained")
    for axis, task in zip(_axes(figure, len(tasks)), tasks, strict=True):
        rows = [row for row in result["rows"] if row["task"] == task]
        cost = [row["us_per_atom"] for row in rows]
        places = np.arange(len(rows))[::-1]
        axis.barh(places, cost, color=["C0" if "engine" in row else "C7" for row in rows])
        axis.set(title=task, xlabel="µs per atom", xscale="log", xlim=(min(cost) / 2, max(cost) * 4))
        axis.set_yticks(places, [row["model"] for row in rows], fontsize=7)
        for place, value in zip(places, cost, strict=True):
            axis.text(
                value * 1.1,
                place,
                f"{value:,.3g}" if value < 100 else f"{value:,.0f}",
                va="center",
                fontsize=7,
            )
    figure.savefig(path, dpi=130)


def draw_scaling(path: Path, scaling: Result) -> None:
    """Microseconds per atom against each quantity that was varied, and peak memory against atoms."""
    sweeps = {name: sweep for name, sweep in scaling.items() if sweep["rows"]}
    figure = Figure(figsize=(WIDTH * 3, HEIGHT * 2), layout="constrained")
    axes = list(figure.subplots(2, 3).ravel())
    for axis, (name, sweep) in zip(axes, sweeps.items(), strict=False):
        values, cost = _columns(sweep, "value", "us_per_atom")
        axis.plot(values, cost, marker="o", lw=1.2)
        axis.set(xlabel=name, ylabel="µs per atom", ylim=(0, 1.1 * max(cost)))
        if name == "atoms":
            axis.set_xscale("log")
        else:
            axis.set_xticks(values)
    if "atoms" in sweeps:
        x, memory = _columns(sweeps["atoms"], "value", "peak_bytes")
        axes[len(sweeps)].plot(x, [b / 1e9 for b in memory], marker="o", lw=1.2)
        axes[len(sweeps)].set(xlabel="atoms", ylabel="peak memory (GB)", xscale="log", ylim=(0, None))
    for axis in axes[len(sweeps) + ("atoms" in sweeps) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=130)


def _axes(figure: Figure, count: int) -> list[Axes]:
    return list(np.atleast_1d(figure.subplots(1, max(count, 1))).ravel())[:count]


def _family(case: str) -> str:
    return case.partition(" R=")[0]


def _columns(sweep: Result, *names: str) -> list[list[Any]]:
    return [[row[name] for row in sweep["rows"]] for name in names]
