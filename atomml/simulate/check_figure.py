"""The figure of a check: one panel for each kind of curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atomml.training.report import save_figure

__all__ = ["draw_curves"]

PanelCurve = tuple[str, str, NDArray[np.float64], NDArray[np.float64], str, str]


def draw_curves(path: Path, curves: Sequence[PanelCurve]) -> None:
    """Draw curves (panel, label, x, y, xlabel, ylabel), those of a panel together, into a PNG file."""
    panels = list(dict.fromkeys(curve[0] for curve in curves))
    columns = min(2 if len(panels) <= 4 else 3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.8 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        for _, label, x, y, xlabel, ylabel in (c for c in curves if c[0] == panel):
            axis.plot(x, y, lw=1.2, marker="o" if len(x) < 20 else None, ms=3, label=label)
            axis.set_xlabel(xlabel)
            axis.set_ylabel(ylabel)
        axis.set_title(panel, fontsize=10)
        axis.legend(fontsize=6, frameon=False, loc="upper right").set_in_layout(False)
        if panel.startswith("Dimer"):
            _clip_repulsion(axis, [c[3] for c in curves if c[0] == panel])
    save_figure(figure, path)


def _clip_repulsion(axis: object, energies: Sequence[NDArray[np.float64]]) -> None:
    """Show the wells of dimer curves: the repulsive wall is orders of magnitude higher."""
    depth = max(max(-float(np.min(y)) for y in energies), 0.2)
    axis.set_ylim(-1.5 * depth, 4.0 * depth)  # type: ignore[attr-defined]
