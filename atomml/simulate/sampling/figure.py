"""The figure of a sampling run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from atomml.datasets.store import FrameStore
from atomml.simulate.sampling.select import Pool
from atomml.training.report import save_figure

__all__ = ["draw_sampling"]


def draw_sampling(path: Path, runs: Sequence[Pool], store: FrameStore) -> None:
    """Temperature reached in every run; distributions of the largest force and the energy at each temperature.

    Energies are per atom and relative to the lowest frame of their system.
    """
    kelvin, sampled = np.asarray(store.tags["T"]), np.asarray(store.tags["sampled"])
    levels = sorted({float(t) for t in kelvin[sampled]})
    colours = [colormaps["plasma"](0.85 * k / max(len(levels) - 1, 1)) for k in range(len(levels))]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    reached, forces, energies = figure.subplots(1, 3)
    _draw_reached(reached, runs)
    fmax, energy = np.asarray(store.tags["fmax"]), _relative_energy(store)
    for axis, values, label in (
        (forces, fmax, "largest force (eV/Å)"),
        (energies, energy, "energy (eV/atom)"),
    ):
        edges = np.linspace(0.0, 1.02 * max(float(values.max()), 1e-6), 40)
        for level, colour in zip(levels, colours, strict=True):
            mine = sampled & (kelvin == level)
            axis.hist(values[mine], edges, histtype="step", lw=1.4, color=colour, label=f"{level:g} K")
        if not sampled.all():
            axis.hist(values[~sampled], edges, histtype="step", lw=1, color="0.5", label="relaxed")
        axis.set_xlabel(label)
        axis.set_ylabel("frames")
    energies.set_xlabel("energy above the lowest of its system (eV/atom)")
    forces.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def _draw_reached(axis: Any, runs: Sequence[Pool]) -> None:
    good = [p.record for p in runs if p.record.get("sampled_steps")]
    asked = np.array([r["T"] for r in good])
    mean, spread = (np.array([r[key] for r in good]) for key in ("temperature_mean", "temperature_std"))
    jitter = 1.0 + 0.02 * (np.arange(len(asked)) % 5 - 2)
    axis.errorbar(
        asked * jitter, mean, spread, fmt="o", ms=3, lw=0.8, color="tab:blue", label="mean ± deviation"
    )
    top = 1.1 * float(max([*asked, 300.0]))
    axis.plot([0, top], [0, top], color="0.6", lw=1, ls="--")
    axis.set_xlabel("temperature asked for (K)")
    axis.set_ylabel("temperature of the run (K)")
    lost = sum(p.record["status"] != "done" for p in runs)
    axis.set_title(f"{len(runs)} runs, {lost} exploded or failed", fontsize=9)


def _relative_energy(store: FrameStore) -> np.ndarray:
    per_atom = store.energy / store.n_atoms
    systems = np.asarray(store.tags["system"])
    relative = np.zeros(len(store))
    for name in np.unique(systems):
        rows = systems == name
        relative[rows] = per_atom[rows] - per_atom[rows].min()
    return relative
