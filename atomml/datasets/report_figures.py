"""Figures of the data report, drawn without any global plotting state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atomml.shapes import ndarray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["element_bars", "histogram", "stress_against_volume"]


def histogram(values: ndarray, path: Path, *, xlabel: str, log_x: bool = False) -> None:
    """Histogram of the finite ``values``, log counts; ``log_x`` leaves out values of zero or less."""
    kept = values[np.isfinite(values) & ((values > 0) | (not log_x))]
    figure = _figure((5.0, 3.2))
    axes = figure.subplots()
    if len(kept):
        low, high = float(kept.min()), float(kept.max())
        if log_x and high > low:
            axes.hist(kept, bins=np.geomspace(low, high, 61).tolist(), color="#3b6ea5")
            axes.set_xscale("log")
        else:
            axes.hist(kept, bins=60, color="#3b6ea5")
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel("count")
    figure.savefig(path, dpi=130)


def element_bars(symbols: list[str], atoms: list[int], frames: list[int], path: Path) -> None:
    """Atoms and frames per element, log axis."""
    figure = _figure((max(4.0, 0.35 * len(symbols) + 2), 3.2))
    axes = figure.subplots()
    x = np.arange(len(symbols))
    axes.bar(x - 0.2, atoms, 0.4, label="atoms", color="#3b6ea5")
    axes.bar(x + 0.2, frames, 0.4, label="frames", color="#d98e32")
    axes.set_xticks(x, symbols)
    axes.set_yscale("log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def stress_against_volume(
    volume_per_atom: ndarray, trace: ndarray, groups: ndarray, path: Path, *, most: int = 10
) -> None:
    """Trace of the stress against volume per atom; the ``most`` frequent compositions have colours."""
    figure = _figure((5.0, 3.6))
    axes = figure.subplots()
    finite = np.isfinite(volume_per_atom) & np.isfinite(trace)
    names, counts = np.unique(groups[finite], return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")][:most]
    rest = finite & ~np.isin(groups, shown)
    if rest.any():
        axes.plot(volume_per_atom[rest], trace[rest], ".", ms=3, color="0.75", label="others")
    for name in shown:
        mask = finite & (groups == name)
        axes.plot(volume_per_atom[mask], trace[mask], ".", ms=4, label=str(name))
    axes.axhline(0.0, color="0.5", lw=0.6)
    axes.set_xlabel("volume per atom (Å³)")
    axes.set_ylabel("trace of the stress (eV/Å³)")
    axes.legend(frameon=False, fontsize=6)
    figure.savefig(path, dpi=130)


def _figure(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure  # slow to import, and the data package is used without figures

    return Figure(figsize=size, layout="constrained")
