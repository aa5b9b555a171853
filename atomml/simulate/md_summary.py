"""Summary of a run: means, energy drift, speed; JSON and a figure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atomml.files import write_atomically
from atomml.shapes import Float64, ndarray
from atomml.simulate.md_config import MDConfig
from atomml.training.report import png_of

__all__ = ["drift", "summarise", "write_summary"]


def drift(time_fs: Float64[ndarray, " rows"], energy: Float64[ndarray, " rows"], n_atoms: int) -> float:
    """Slope of an energy (eV) against time by a straight line, in meV/atom/ps; NaN below three rows."""
    if len(time_fs) < 3 or not np.all(np.isfinite(energy)):
        return float("nan")
    slope = np.polyfit(time_fs - time_fs.mean(), energy - energy.mean(), 1)[0]
    return float(slope * 1e6 / n_atoms)


def summarise(
    log: Mapping[str, NDArray[np.float64]],
    config: MDConfig,
    atoms: Atoms,
    seconds: float,
    stopped_by: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Means and deviations over the second half of the run, drift over all of it; JSON values only.

    ``stopped_by`` is what `DeviationWatch` gave, None for a run to the end. ``uncertainty``, of all frames, is None
    for a model without deviations.
    """
    half = len(log["step"]) // 2
    steps_run = int(log["step"][-1])
    summary: dict[str, Any] = {
        "formula": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "steps": steps_run,
        "time_ps": steps_run * config.timestep / 1000.0,
        "settings": config.model_dump(mode="json"),
        "second_half": {},
        "conserved_drift_meV_per_atom_per_ps": _json(drift(log["time_fs"], log["conserved_eV"], len(atoms))),
        "lowest_min_distance_A": _json(float(np.min(log["min_distance_A"]))),
        "stopped_by": None if stopped_by is None else dict(stopped_by),
        "uncertainty": _uncertainty(log, config),
        "seconds": seconds,
    }
    for column in ("temperature_K", "potential_eV", "total_eV", "pressure_GPa", "volume_A3"):
        values = log[column][half:]
        summary["second_half"][column] = {
            "mean": _json(float(values.mean())),
            "std": _json(float(values.std())),
        }
    return summary


def _uncertainty(log: Mapping[str, NDArray[np.float64]], config: MDConfig) -> dict[str, Any] | None:
    """Mean and largest model deviation of the frames, and how many are above each limit that is set."""
    if "max_force_std_eV_A" not in log:
        return None
    largest, limits = log["max_force_std_eV_A"], config.limits
    summary: dict[str, Any] = {"frames": len(largest)}
    for column in ("energy_std_eV", "max_force_std_eV_A"):
        summary[column] = {"mean": float(log[column].mean()), "max": float(log[column].max())}
    for name in ("warn_above", "stop_above"):
        limit = getattr(limits, name)
        if limit is not None:
            summary[f"frames_{name}"] = int((largest > limit).sum())
    return summary


def _json(value: float) -> float | None:
    return value if np.isfinite(value) else None


def write_summary(
    folder: Path, summary: dict[str, Any], log: Mapping[str, NDArray[np.float64]], *, figure: bool = True
) -> None:
    """Write ``summary.json`` and, if wanted, ``md.png``.

    Raises:
        DataError: the disk is full; the files of the run are complete, and resuming writes these two again.
    """
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
    if figure:
        write_atomically(folder / "md.png", png_of(_drawn(summary, log)))


def _drawn(summary: dict[str, Any], log: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Temperature and energies against time."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    time = log["time_fs"] / 1000.0
    upper.plot(time, log["temperature_K"], color="tab:red", lw=1)
    upper.axhline(summary["settings"]["temperature"], color="0.6", ls="--", lw=1)
    upper.set_ylabel("temperature (K)")
    upper.set_title(f"{summary['formula']}, {summary['settings']['ensemble']}")
    n = summary["n_atoms"]
    for column, colour in (("potential_eV", "tab:blue"), ("total_eV", "tab:green"), ("conserved_eV", "0.3")):
        energy = 1000.0 * (log[column] - log[column][0]) / n
        if np.all(np.isfinite(energy)):
            lower.plot(time, energy, color=colour, lw=1, label=column.removesuffix("_eV"))
    lower.set_ylabel("energy change (meV/atom)")
    lower.set_xlabel("time (ps)")
    lower.legend(frameon=False)
    return figure
